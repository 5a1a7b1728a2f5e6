"""Which texts name something that users can share, and the one form in which it is written.

An identifier is compared byte by byte, so two spellings of one device must become one, and a text
that stands for "we do not know" must become none: a placeholder that a million records carry would
tie a million users together. What is refused has a reason, for callers to count and to show.

What many share although it is real (a carrier's address, a campus, a shop's tablet) is none of
this module's business: that is told by who uses it, in `dafu.rings.identifiers`. For the same
reason private addresses (RFC 1918) and carrier-grade NAT (RFC 6598) pass.

Pure: a text in, a text or a reason out; the cache below changes nothing but the time it takes.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Literal, NamedTuple, get_args

from dafu.rings.records import KINDS, MAX_VALUE_BYTES, Kind

Refusal = Literal["empty", "placeholder", "unprintable", "malformed", "unspecified", "masked"]
"""Why a text names nothing:

* `empty`: missing, or blanks only;
* `placeholder`: says that something is not known, or a value known to be the same on many machines;
* `unprintable`: control characters, or what is no Unicode text;
* `malformed`: no address where one is expected;
* `unspecified`: an address that is nobody's: unspecified, loopback, link-local, multicast or
  reserved;
* `masked`: a card number with digits left out: the last four digits are shared by one in 10,000.
"""

REFUSALS: Final[tuple[Refusal, ...]] = get_args(Refusal)

CACHED: Final = 65_536
"""Judgements remembered; beyond, the one that was not asked for the longest is made anew."""

_UNKNOWN: Final = """\
unknown unkown unavailable undefined undetermined undisclosed unset unspecified uninitialized
none null nil nan na notavailable notapplicable notset notprovided notfound nodata missing
empty blank default dummy test testing tester sample example placeholder anonymous anon guest
redacted removed hidden private masked invalid error false true other others various tbd todo
xxx device deviceid devicefingerprint fingerprint ip ipaddress card cardid email emailaddress
string object objectobject value generic emulator simulator 12345 123456 1234567 12345678
123456789 1234567890 0123456789 0123456789abcdef deadbeef
"""
_PLACEHOLDERS: Final = frozenset(_UNKNOWN.split())
"""Compared without case and punctuation, so that "N/A" and "[object Object]" are among them."""

_SAME_EVERYWHERE: Final = frozenset(
    (
        "9774d56d682e549c",  # ANDROID_ID of a series of Android 2.2 devices and emulators
        "020000000000",  # MAC address that Android and iOS give to every app
        "d41d8cd98f00b204e9800998ecf8427e",  # MD5, SHA-1 and SHA-256 of nothing
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    )
)
_NOBODY: Final = """\
noreply donotreply nomail noemail noone nobody none null na unknown anonymous test guest customer
invalid
"""
_NOBODYS_MAIL: Final = frozenset(_NOBODY.split())
_GMAIL: Final = frozenset(("gmail.com", "googlemail.com"))
_NOT_WORD: Final = re.compile(r"[\W_]+")
_ONE_FILLER: Final = re.compile(r"0+|f{4,}|x{3,}|9{6,}|1{6,}", re.IGNORECASE)
_HEX: Final = re.compile(r"[0-9a-f][0-9a-f:-]{6,}[0-9a-f]", re.IGNORECASE)
_CARD_NUMBER: Final = re.compile(r"\d[\d -]{10,22}\d")
_MASKED: Final = re.compile(r"[*\u2022\u00b7#]|x{4,}", re.IGNORECASE)
_SHORTENED: Final = re.compile(r"blake2b:[0-9a-f]{32}")
_IPV6_NETWORK: Final = 64


class Judgement(NamedTuple):
    """What became of a text: its normal form, or None and the reason why there is none."""

    value: str | None
    refusal: Refusal | None


class _RefusedError(Exception):
    def __init__(self, why: Refusal) -> None:
        super().__init__(why)
        self.why: Refusal = why


def clean(kind: Kind, value: str | None) -> str | None:
    """The form in which an identifier is compared and published; None if it is refused.

    Parameters
    ----------
    kind : Kind
        "device", "ip", "card" or "email".
    value : str or None
        As the producer wrote it.

    Returns
    -------
    str or None
        At most MAX_VALUE_BYTES bytes of UTF-8. `clean` of it gives the same again.

    Examples
    --------
    >>> clean("ip", "2001:DB8:0:1:AD3:5::1"), clean("ip", "::ffff:10.1.2.3")
    ('2001:db8:0:1::/64', '10.1.2.3')
    >>> clean("email", "Jane.Doe+shop7@gmail.com")
    'janedoe@gmail.com'
    >>> clean("device", "00000000-0000-0000-0000-000000000000") is None
    True
    """
    return judge(kind, value).value


@lru_cache(maxsize=CACHED)
def judge(kind: Kind, value: str | None) -> Judgement:
    """As `clean`, with the reason of a refusal.

    Addresses: an IPv4 address in IPv6 clothes is that IPv4 address; of other IPv6 addresses the
    /64 network counts, which is what a household is given (RFC 6177), since hosts choose the rest
    themselves and change it daily (RFC 8981). Hexadecimal fingerprints are in lower case, as
    writers differ in that. E-mail addresses are in lower case and without what follows a plus, at
    Gmail also without dots: one mailbox, however many spellings. Card numbers are without the
    blanks and dashes between groups. Whatever is longer than MAX_VALUE_BYTES is told by its hash.

    Raises
    ------
    ValueError
        If there is no such kind.

    Examples
    --------
    >>> judge("device", "N/A")
    Judgement(value=None, refusal='placeholder')
    """
    if kind not in KINDS:
        raise ValueError(f"there is no identifier of kind {kind!r}; kinds are {', '.join(KINDS)}")
    try:
        text = _checked(value)
        if kind == "ip" or not _SHORTENED.fullmatch(text):
            text = _shortened(_NORMALISED[kind](text))
        return Judgement(text, None)
    except _RefusedError as refused:
        return Judgement(None, refused.why)


def _checked(value: str | None) -> str:
    """The text without blanks around it, if it can name anything at all."""
    text = (value or "").strip()
    if not text:
        raise _RefusedError("empty")
    if not text.isprintable():  # lone surrogates are not printable either
        raise _RefusedError("unprintable")
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return text


def _refuse_placeholder(text: str) -> str:
    bare = _NOT_WORD.sub("", text).lower()
    if not bare or bare in _PLACEHOLDERS or bare in _SAME_EVERYWHERE or _ONE_FILLER.fullmatch(bare):
        raise _RefusedError("placeholder")
    return text


def _device(text: str) -> str:
    _refuse_placeholder(text)
    return text.lower() if _HEX.fullmatch(text) else text


def _card(text: str) -> str:
    _refuse_placeholder(text)
    if _MASKED.search(text):
        raise _RefusedError("masked")
    if _CARD_NUMBER.fullmatch(text):
        return text.replace(" ", "").replace("-", "")
    return text


def _email(text: str) -> str:
    _refuse_placeholder(text)
    text = text.lower()
    name, at, domain = text.rpartition("@")
    name, domain = name.partition("+")[0], domain.rstrip(".")
    if not at or not name or not domain or "@" in name or " " in text:
        raise _RefusedError("malformed")
    if _NOT_WORD.sub("", name) in _NOBODYS_MAIL:
        raise _RefusedError("placeholder")
    if domain in _GMAIL:
        name, domain = name.replace(".", ""), "gmail.com"
        if not name:
            raise _RefusedError("malformed")
    return f"{name}@{domain}"


_FIRST_IPV4: Final = 1 << 24
"""What is below is "this network" (RFC 791) and nobody's address."""

_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_USUAL: Final = re.compile(
    rf"(?!0\.|127\.|169\.254\.|22[4-9]|2[3-5]\d\.){_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}"
)
"""IPv4 addresses that are good as they are written; nearly all are, and parsing takes long."""


def _ip(text: str) -> str:
    if _USUAL.fullmatch(text):
        return text
    network, slash, length = text.partition("/")
    if slash and length != str(_IPV6_NETWORK):
        raise _RefusedError("malformed")
    try:
        address = ipaddress.ip_address(network.strip("[]").partition("%")[0])
    except ValueError:
        _refuse_placeholder(text)
        raise _RefusedError("malformed") from None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if (
        address.is_unspecified
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or (address.version == 4 and (address.is_reserved or int(address) < _FIRST_IPV4))
    ):
        raise _RefusedError("unspecified")
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.IPv6Network((address, _IPV6_NETWORK), strict=False))


_NORMALISED: Final[dict[Kind, Callable[[str], str]]] = {
    "device": _device,
    "ip": _ip,
    "card": _card,
    "email": _email,
}


def _shortened(text: str) -> str:
    raw = text.encode()
    if len(raw) <= MAX_VALUE_BYTES:
        return text
    return "blake2b:" + hashlib.blake2b(raw, digest_size=16).hexdigest()
