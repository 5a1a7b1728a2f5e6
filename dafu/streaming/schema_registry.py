"""Schemas by their ids, from a registry that speaks Confluent's REST API.

What a registry says of an id holds for good. That it knows one is true; that it does not may be
too early, because its replicas learn of a new schema one after the other. Whatever else it
answers, or that it does not, says nothing of the record that named the id: then it is asked again
for a while, and in the end the worker ends, with nothing committed.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

import aiohttp
import msgspec
from msgspec import MsgspecError, Struct, field

from dafu.errors import DafuError
from dafu.ingest.framing import RegisteredSchema
from dafu.settings.clients import SchemaRegistry

__all__ = ["SchemaRegistryClient", "SchemaRegistryError"]

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS: Final = 10.0
PATIENCE_SECONDS: Final = 60.0
"""How long a registry that gives no answer is asked again."""
FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 5.0
GRACE_SECONDS: Final = 1.0
"""After which it is asked once more for what it does not know."""
_UNKNOWN: Final = (40401, 40402, 40403)
"""Its codes for a subject, a version and a schema that are not there."""
_ACCEPT: Final = "application/vnd.schemaregistry.v1+json, application/json"
_SHOWN: Final = 200


class SchemaRegistryError(DafuError):
    """The registry gives no answer that says anything."""


class _Reference(Struct):
    name: str
    subject: str
    version: int


class _Answer(Struct):
    """What counts of a schema. Registries leave out the kind of those of Avro."""

    text: str = field(name="schema")
    kind: str = field(name="schemaType", default="AVRO")
    references: list[_Reference] | None = None


class _Refusal(Struct):
    error_code: int = 0


class SchemaRegistryClient:
    """Asks a registry at one of several addresses.

    Raises
    ------
    SettingsError
        If its certificates can not be used.
    """

    def __init__(self, settings: SchemaRegistry) -> None:
        self._urls = [url.rstrip("/") for url in settings.urls]
        self._ssl = settings.ssl_context()
        self._headers = {"Accept": _ACCEPT}
        if settings.user is not None:
            login = base64.b64encode(f"{settings.user}:{settings.password or ''}".encode())
            self._headers["Authorization"] = f"Basic {login.decode()}"

    async def schemas(self, numbers: Iterable[int]) -> dict[int, RegisteredSchema]:
        """Those of these ids' schemas that there are.

        Raises
        ------
        SchemaRegistryError
            If the registry does not say so of one of them.
        """
        found: dict[int, RegisteredSchema] = {}
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._ssl),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            trust_env=True,
        ) as session:
            wanted = sorted(numbers)
            for again in (False, True):
                if again and wanted:
                    await asyncio.sleep(GRACE_SECONDS)
                for number in wanted:
                    schema = await self._schema(session, number)
                    if schema is not None:
                        found[number] = schema
                wanted = [number for number in wanted if number not in found]
        return found

    async def _schema(self, session: aiohttp.ClientSession, number: int) -> RegisteredSchema | None:
        """None if the registry does not know it, or not all that it refers to."""
        answer = await self._asked(session, f"schemas/ids/{number}")
        references: dict[str, str] = {}
        if answer is None or not await self._follow(session, answer, references):
            return None
        return RegisteredSchema(answer.kind, answer.text, tuple(references.values()))

    async def _follow(
        self, session: aiohttp.ClientSession, answer: _Answer, found: dict[str, str]
    ) -> bool:
        """Add the texts of what a schema refers to, by name; False if one of them is not there."""
        for reference in answer.references or ():
            if reference.name in found:
                continue
            subject = quote(reference.subject, safe="")
            # What was deleted, and can be had back, is still what the schema was made with.
            path = f"subjects/{subject}/versions/{reference.version}?deleted=true"
            referred = await self._asked(session, path)
            if referred is None or not await self._follow(session, referred, found):
                return False
            found[reference.name] = referred.text
        return True

    async def _asked(self, session: aiohttp.ClientSession, path: str) -> _Answer | None:
        """What the registry says at a path; None if there is nothing."""
        began = time.monotonic()
        pause = FIRST_PAUSE_SECONDS
        while True:
            why = ""
            for url in self._urls:
                try:
                    return await _answered(session, f"{url}/{path}")
                except (OSError, ValueError, MsgspecError, aiohttp.ClientError) as exc:
                    why = f"{url}/{path}: {str(exc) or type(exc).__name__}"
            if time.monotonic() - began + pause > PATIENCE_SECONDS:
                raise SchemaRegistryError(
                    f"no schema from {why}. Payments wait for it on the source topic: this worker "
                    "ends, and reads them again when it is started"
                )
            logger.warning("no schema from %s; asking again in %.1f s", why, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


async def _answered(session: aiohttp.ClientSession, url: str) -> _Answer | None:
    # A redirect would take the password elsewhere.
    async with session.get(url, allow_redirects=False) as response:
        body = await response.read()
        if response.status == 200:
            return msgspec.json.decode(body, type=_Answer)
        if response.status == 404 and _code(body) in _UNKNOWN:
            return None
        said = body[:_SHOWN].decode(errors="replace")
        raise ValueError(f"{response.status} {response.reason}: {said}")


def _code(body: bytes) -> int:
    try:
        return msgspec.json.decode(body, type=_Refusal).error_code
    except MsgspecError:
        return 0
