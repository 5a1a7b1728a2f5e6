"""Forms that pages post, into declared types."""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar

import msgspec
from aiohttp import web
from msgspec import Struct

from dafu.web.auth.sessions import CSRF_FIELD
from dafu.web.problems import RefusedError, invalid, problem
from dafu.web.reading import READ_SECONDS

__all__ = ["FORM", "read_form"]

FORM: Final = "application/x-www-form-urlencoded"
"""The type of the forms that pages post."""
_T = TypeVar("_T", bound=Struct)


async def read_form(request: web.Request, kind: type[_T]) -> _T:
    """The fields of a form; the token against forgery is looked at elsewhere, and left out.

    Raises
    ------
    RefusedError
        If it is no form, comes too slowly, or a field is missing, unknown or no such value.
    """
    if request.content_type != FORM:
        raise RefusedError(problem(415, f"the form is {FORM}, not {request.content_type}"))
    try:
        async with asyncio.timeout(READ_SECONDS):
            posted = await request.post()
    except TimeoutError:
        raise RefusedError(
            problem(408, f"the form did not arrive within {READ_SECONDS:.0f} s")
        ) from None
    except (UnicodeDecodeError, LookupError) as exc:
        raise RefusedError(invalid(f"the form can not be read: {exc}")) from None
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    given: dict[str, str] = {}
    for name, value in posted.items():
        if name == CSRF_FIELD:
            continue
        if name not in known or name in given or not isinstance(value, str):
            raise RefusedError(invalid("no such field, or given twice", name))
        given[name] = value
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as exc:
        raise RefusedError(invalid(str(exc))) from None
