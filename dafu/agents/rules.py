"""Rule sets that are compiled: by version, from the documents that switches carry.

Whoever decides by other rules than the log says makes decisions that no replay gives again. So
there is nothing here to stand in for rules that can not be compiled: that ends the worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import Any, Final

import msgspec
from msgspec import Struct

from dafu.errors import DafuError
from dafu.rules import RuleSet, RuleSetError
from dafu.stages.names import compile_document

logger = logging.getLogger(__name__)

_KEPT: Final = 8
"""Rule sets that are kept compiled: partitions come to a switch one after the other."""


class RulesMismatchError(DafuError):
    """This worker's code makes other rules of a document than those that are in force, or none."""


class RuleCounts(Struct):
    """On how many transactions a rule fired since the worker started, by its mode then."""

    live: int = 0
    shadow: int = 0


class RuleShelf:
    """Compiles rule sets when they are asked for, and keeps the latest used."""

    def __init__(self) -> None:
        self._compiled: OrderedDict[str, RuleSet] = OrderedDict()
        self._turn = asyncio.Lock()

    def held(self, version: str) -> RuleSet | None:
        """The rule set of a version if it is compiled."""
        found = self._compiled.get(version)
        if found is not None:
            self._compiled.move_to_end(version)
        return found

    async def get(self, version: str, document: bytes) -> RuleSet:
        """The rule set of a version, compiled beside the event loop if it is not there yet.

        Raises
        ------
        RulesMismatchError
            If the document can not be compiled here, or gives another version.
        """
        async with self._turn:
            if (found := self.held(version)) is not None:
                return found
            try:
                found = await asyncio.to_thread(_compile, version, document)
            except RulesMismatchError as exc:
                logger.critical("%s", exc)
                raise
            self._compiled[version] = found
            while len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
            return found


async def compiled(document: Any) -> RuleSet:
    """Compile what a rule file holds, beside the event loop; raises RuleSetError."""
    return await asyncio.to_thread(compile_document, document)


def _compile(version: str, document: bytes) -> RuleSet:
    advice = (
        "Deciding by others would break replay, so this worker stops: run the version of dafu "
        "that the other workers run"
    )
    try:
        found = compile_document(msgspec.json.decode(document))
    except (RuleSetError, msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise RulesMismatchError(
            f"the rules {version} are in force, and this worker can not compile them: {exc}\n"
            f"{advice}"
        ) from exc
    if found.version != version:
        raise RulesMismatchError(
            f"the rules {version} are in force, and this worker makes {found.version} of them: "
            f"its rule language is another one. {advice}"
        )
    return found
