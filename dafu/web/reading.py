"""Queries and bodies into declared types, and errors that name the field.

Raises `RefusedError` for what can not be read. Knows aiohttp and msgspec, and no endpoint.
"""

from __future__ import annotations

import asyncio
import functools
import re
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web
from msgspec import Struct

from dafu.web.problems import RefusedError, invalid, problem

__all__ = [
    "LONGEST_BODY",
    "explained",
    "READ_SECONDS",
    "read_body",
    "read_bytes",
    "read_query",
    "remember_body",
]

READ_SECONDS: Final = 10.0
"""A body that takes longer to arrive is not waited for."""

LONGEST_BODY: Final = web.AppKey("longest_body", int)
"""What an application takes at most, whatever an endpoint would."""

_BODY: Final = web.RequestKey("body", bytes)
"""The body, once it was read: the network gives it only once."""

_EXACT: Final = 2**53
"""Up to here a float says which integer is meant."""

_JSON: Final = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json\Z", re.IGNORECASE)
_AT: Final = re.compile(r" - at `\$\.?(.*)`\Z")
_T = TypeVar("_T", bound=Struct)


def read_query(request: web.Request, kind: type[_T]) -> _T:
    """The parameters of a request's query; an empty one counts as absent where it may be null.

    Raises
    ------
    RefusedError
        If one is unknown, given twice, missing or no such value.
    """
    given: dict[str, str | None] = {}
    known = _fields(kind)
    for name, value in request.query.items():
        if name not in known:
            there_are = ", ".join(sorted(known)) or "none"
            raise RefusedError(invalid(f"unknown parameter; there are: {there_are}", name))
        if name in given:
            raise RefusedError(invalid("is given twice", name))
        # An empty value is how a query writes null.
        given[name] = None if not value and known[name].default is None else value
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as exc:
        raise RefusedError(explained(str(exc))) from None


@functools.cache
def _fields(kind: type[Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}


async def read_body(request: web.Request, kind: Any, max_bytes: int) -> Any:
    """The JSON body of a request, as an instance of a type; for `bytes` as it came.

    Raises
    ------
    RefusedError
        If it is no JSON, too long, too slow, nested too deeply, or not of the type.
    """
    if not _JSON.match(request.content_type):
        given = request.content_type
        raise RefusedError(problem(415, f"the body is application/json, not {given}"))
    raw = await read_bytes(request, max_bytes)
    if kind is bytes:
        return raw
    try:
        return _decoded(raw, kind)
    except msgspec.ValidationError as exc:
        raise RefusedError(explained(str(exc))) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RefusedError(invalid(f"the body is no JSON: {exc}")) from None
    except RecursionError:
        raise RefusedError(invalid("the body is nested too deeply")) from None


def _decoded(raw: bytes, kind: Any) -> Any:
    """JSON as a type. To JSON Schema 1.0 is an integer, to msgspec it is none: what it refuses
    gets a second chance with whole numbers written as such."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError:
        return msgspec.convert(_whole(msgspec.json.decode(raw)), kind)


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    if isinstance(value, list):
        return [_whole(each) for each in value]
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    return value


async def read_bytes(request: web.Request, max_bytes: int) -> bytes:
    """The body of a request, however often it is asked for.

    Raises
    ------
    RefusedError
        If it is longer than `max_bytes` or takes longer than `READ_SECONDS`.
    """
    max_bytes = min(max_bytes, request.app.get(LONGEST_BODY, max_bytes))
    too_long = problem(413, f"the body may have {max_bytes:,} bytes at most", max_bytes=max_bytes)
    if request.content_length is not None and request.content_length > max_bytes:
        raise RefusedError(too_long)
    remembered: bytes | None = request.get(_BODY)
    if remembered is not None:
        if len(remembered) > max_bytes:
            raise RefusedError(too_long)
        return remembered
    body = bytearray()
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.content.iter_chunked(64 * 1024):
                body += chunk
                if len(body) > max_bytes:
                    raise RefusedError(too_long)
    except TimeoutError:
        late = problem(408, f"the body did not arrive within {READ_SECONDS:.0f} s")
        raise RefusedError(late) from None
    whole = bytes(body)
    remember_body(request, whole)
    return whole


def remember_body(request: web.Request, body: bytes) -> None:
    """Keep a body that was read in another way for those who ask for it later."""
    request[_BODY] = body


def explained(text: str, within: str = "", status: int = 400, **members: str) -> web.Response:
    """A problem that names the field which msgspec's message is about.

    Parameters
    ----------
    text : str
    within : str
        What the document is a part of, such as `labels[3]`.
    status : int
    **members
        Further members of the document.
    """
    at = _AT.search(text)
    path = "" if at is None else at[1]
    text = text if at is None else text[: at.start()]
    missing = re.search(r"missing required field `(.*?)`", text)
    parts = (within, path, missing[1] if missing else "")
    field = ".".join(part for part in parts if part).replace(".[", "[")
    if field:
        members["field"] = field
    return problem(status, text, headers=None, **members)
