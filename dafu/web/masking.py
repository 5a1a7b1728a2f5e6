"""Addresses, devices, cards, mailboxes and user agents, hidden from callers who need not see them.

A value becomes `masked-` and eight hex digits, the same for equal values on every worker that
shares the signing key, so that one can still see who shares what. The digits are keyed: an address
can not be found by trying all of them. Kinds, counts and all else stay as they are.

What is hidden: fields that are known to hold such values, identifiers (`kind` and `value`,
`device:...`), and the same in sentences. Of texts that a rule compares, only those of fields known
to be harmless stay.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web
from msgspec import Struct

from dafu.rings.records import KINDS
from dafu.web.endpoints import Call
from dafu.web.principals import Permission

__all__ = ["MASKER", "Masker", "mask", "mask_payload"]

PREFIX: Final = "masked-"
_DIGITS: Final = 8

FIELDS: Final = frozenset(
    {
        "ip_address",
        "device_fingerprint",
        "card_id",
        "email",
        "user_agent",
        "ip",
        "device",
        "card",
    }
)
"""Names under which such values stand."""

SENTENCES: Final = frozenset({"text", "reason", "reasons", "detail", "details", "why"})
"""Names under which sentences stand."""

_TIE: Final = "shared"
"""The name under which a kind and a value stand, as in ``device fp_12``."""

_IDENTIFIERS: Final = frozenset({"identifier", "identifiers"})

HARMLESS: Final = frozenset(
    {
        "country",
        "currency",
        "category",
        "channel",
        "merchant_id",
        "user_id",
        "transaction_id",
    }
)
"""Text fields of a transaction whose values rules may show to everybody."""

PLAIN: Final = HARMLESS | {
    "amount",
    "timestamp",
    "lat",
    "long",
    "merchant_lat",
    "merchant_long",
    "is_fraud",
    "source",
    "observed_at",
}
"""Fields of transactions and labels that hold none; all others of a payload may."""

_NOUN: Final = r"(?:device|ip|IP address|card|email|e-mail address|mailbox)"
_SHARE: Final = re.compile(rf"(\busers? share {_NOUN} )(.+)\Z", re.DOTALL)
_SHARES: Final = re.compile(rf"(\bshares {_NOUN} )(.+)", re.DOTALL)
_WITH: Final = re.compile(r".*( with \d[\d,]* users?\b)", re.DOTALL)
"""Greedy: whatever a value says, the last one is ours."""

_QUOTED: Final = re.compile(
    r"(?P<name>\b[a-z][a-z0-9_]*(?:\.[A-Za-z0-9_]+)*\b)"
    r"|(?<!\w)(?P<text>\"(?:[^\"\\]|\\.)*(?:\"|\Z))",
    re.DOTALL,
)
"""Names, and texts as the rules' explanations quote them."""

_ATTRIBUTE: Final = re.compile(r"(\battributes\.[\w.]+ )(-?[\d][\w.,]*)")
_EMAIL: Final = re.compile(r"[^\s'\"<>(),;:@]+@[^\s'\"<>(),;:@]+")
_ADDRESS: Final = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})(?:/\d{1,3})?(?![\w:])"
)
_CARD: Final = re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?![\w])")

_T = TypeVar("_T")


class Masker:
    """Hides values.

    Parameters
    ----------
    secret : callable
        32 bytes, the same on all workers, that are asked for when they are first needed. Whoever
        knows them can find addresses by trying all.
    """

    def __init__(self, secret: Callable[[], bytes]) -> None:
        self._secret = functools.cache(secret)

    def value(self, value: str) -> str:
        """What stands for a value; what is hidden already stays."""
        if not value or re.fullmatch(rf"{PREFIX}[0-9a-f]{{{_DIGITS}}}", value):
            return value
        digest = hmac.new(self._secret(), value.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return PREFIX + digest.hexdigest()[:_DIGITS]

    def identifier(self, text: str) -> str:
        """The same of ``kind:value``."""
        kind, colon, value = text.partition(":")
        if colon and kind in KINDS:
            return f"{kind}:{self.value(value)}"
        return self.value(text)

    def sentence(self, text: str) -> str:
        """A sentence with what it tells of such values hidden."""
        if found := _SHARE.search(text):
            return text[: found.start(2)] + self.value(found[2])
        if found := _SHARES.search(text):
            value, rest = found[2], ""
            if tail := _WITH.match(value):
                value, rest = value[: tail.start(1)], value[tail.start(1) :]
            return text[: found.start(2)] + self.value(value) + rest
        text = self._quoted(text)
        text = _ATTRIBUTE.sub(lambda m: m[1] + self.value(m[2]), text)
        text = _EMAIL.sub(lambda m: self.value(m[0]), text)
        text = _CARD.sub(lambda m: self.value(m[0]), text)
        return _ADDRESS.sub(lambda m: self.value(m[0]) if _is_address(m[0]) else m[0], text)

    def document(self, document: Any) -> Any:
        """Plain data (as of `msgspec.to_builtins`) with such values hidden."""
        if isinstance(document, list | tuple):
            return [self.document(item) for item in document]
        if not isinstance(document, dict):
            return document
        pair = document.get("kind") in KINDS and isinstance(document.get("value"), str)
        out: dict[Any, Any] = {}
        for name, value in document.items():
            if name in FIELDS or (pair and name == "value"):
                out[name] = self._all(value, self.value)
            elif name == "value" and isinstance(value, str) and "text" in document:
                out[name] = self._step(str(document["text"]), value)
            elif name in _IDENTIFIERS:
                out[name] = self._all(value, self.identifier)
            elif name == _TIE and isinstance(value, str):
                kind, blank, tie = value.partition(" ")
                out[name] = f"{kind}{blank}{self.value(tie)}"
            elif name in SENTENCES:
                out[name] = self._sentences(value)
            else:
                out[name] = self.document(value)
        return out

    def payload(self, payload: bytes) -> bytes:
        """A record as a producer sent it: JSON with all but plain fields hidden; else nothing."""
        try:
            document = msgspec.json.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            document = None
        if not isinstance(document, dict):
            return f"({len(payload)} bytes that can not be read, and are not shown)".encode()
        shown = {
            name: value
            if name in PLAIN and not isinstance(value, dict | list)
            else self._all(value, self.value, numbers=True)
            for name, value in document.items()
        }
        return msgspec.json.encode(shown)

    def _all(self, value: Any, hide: Callable[[str], str], *, numbers: bool = False) -> Any:
        if isinstance(value, str):
            return hide(value)
        if isinstance(value, list | tuple):
            return [self._all(item, hide, numbers=numbers) for item in value]
        if isinstance(value, dict):
            return {k: self._all(item, hide, numbers=numbers) for k, item in value.items()}
        if numbers and isinstance(value, int | float) and not isinstance(value, bool):
            return hide(str(value))
        return value

    def _sentences(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.sentence(value)
        if isinstance(value, list | tuple):
            return [self._sentences(item) for item in value]
        return self.document(value)

    def _step(self, text: str, value: str) -> str:
        """The value of a part of a condition, as `dafu.rules.explain` tells it."""
        if text in HARMLESS or not value.startswith('"'):
            return value
        return self._quoted(value)

    def _quoted(self, text: str) -> str:
        """Texts in quotes stay behind the name of a harmless field only."""
        name = ""

        def hide(found: re.Match[str]) -> str:
            nonlocal name
            word: str | None = found["name"]
            if word is not None:
                if word in ("and", "or"):
                    name = ""
                elif word in HARMLESS or word in FIELDS or word.startswith("attributes."):
                    name = word
                return word
            quoted: str = found["text"]
            return quoted if name in HARMLESS else f'"{self.value(quoted.strip(chr(34)))}"'

        return _QUOTED.sub(hide, text)


MASKER: Final = web.AppKey("masker", Masker)
_OWN: Final = Masker(lambda: secrets.token_bytes(32))
"""Where an application has none of its own."""


def mask(document: _T, call: Call) -> _T:
    """A document as a caller may see it.

    Parameters
    ----------
    document : Struct, dict, list, or bytes of JSON
    call : Call

    Returns
    -------
    object
        Of the same type; the document itself for those who may see all.
    """
    if call.may(Permission.PII):
        return document
    masker = call.request.config_dict.get(MASKER, _OWN)
    if isinstance(document, bytes):
        return msgspec.json.encode(masker.document(msgspec.json.decode(document)))  # type: ignore[return-value]
    hidden = masker.document(msgspec.to_builtins(document))
    if isinstance(document, Struct):
        return msgspec.convert(hidden, type(document))
    return hidden  # type: ignore[no-any-return]


def mask_payload(payload: bytes, call: Call) -> bytes:
    """A producer's record, such as a dead letter, as a caller may see it; JSON or a remark."""
    if call.may(Permission.PII):
        return payload
    return call.request.config_dict.get(MASKER, _OWN).payload(payload)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True
