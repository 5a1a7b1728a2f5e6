"""What the agents do whose stages use models: those of a lineup, and rules, switch by switch."""

from __future__ import annotations

import abc
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dafu.agents.shelf import Shelf
from dafu.agents.shell import Output, SenderSource, Stage, StageAgent, send_dead_letters
from dafu.registry import Level, Lineup, Role, RulesSwitch
from dafu.rules import RuleSet
from dafu.stages.batch import InputBatch, Rejected
from dafu.stages.switches import (
    NOTHING_SWITCHED,
    apply_switch,
    by_settings,
    cut_at_switches,
    in_force,
    is_switch,
    read_rules,
)
from dafu.streaming.sender import BatchSender
from dafu.tables.table import PackedTable

logger = logging.getLogger(__name__)

_STAGES: Final = 4
"""Stages with other models or rules that are kept: partitions come to a switch one by one."""


class ServingAgent(StageAgent[Output]):
    """A `StageAgent` whose log says which models and rules hold from where on.

    Parameters
    ----------
    stage : Stage
        With the models and rules that the worker is configured with.
    table, sender, outputs, dead_letters
        See `StageAgent`.
    shelf : Shelf
        Where deployed models are loaded.
    """

    def __init__(
        self,
        stage: Stage[Output],
        table: PackedTable,
        sender: SenderSource,
        shelf: Shelf,
        *,
        outputs: Sequence[Any],
        dead_letters: Any,
    ) -> None:
        super().__init__(stage, table, sender, outputs=outputs, dead_letters=dead_letters)
        self.shelf = shelf
        self._built: dict[tuple[tuple[str, str | None], ...], Stage[Output]] = {}

    @property
    @abc.abstractmethod
    def level(self) -> Level:
        """Of the models that the stage uses."""

    @abc.abstractmethod
    def rebuilt(
        self, champion: Any, candidates: Sequence[tuple[Role, Any]], rules: RuleSet | None
    ) -> Stage[Output]:
        """The stage with other models, and rules unless they are those configured."""

    async def rules_of(self, partition: int, version: str) -> RuleSet | None:  # noqa: ARG002
        """The rules of a version, which hold for a partition; None where a stage has none."""
        return None

    async def get_ready(self, switch: RulesSwitch) -> None:
        """See, before rules are switched to, that the stage can be built with them.

        Raises
        ------
        RulesMismatchError
            If it can not: the worker must not go on.
        """

    async def stage_with(self, lineup: Lineup, rules: RuleSet | None = None) -> Stage[Output]:
        """The stage with the models of a lineup, as far as they can be had, and with rules."""
        champion = await self.shelf.champion(self.level, lineup)
        found = [(c.role, await self.shelf.get(self.level, c.model)) for c in lineup.candidates]
        # One that stands in for the champion, or that the worker is configured with as well,
        # does not look on beside itself.
        deciding = None if champion is None else champion.version
        candidates = [
            (role, model)
            for role, model in found
            if model is not None and model.version != deciding
        ]
        key: tuple[tuple[str, str | None], ...] = tuple(
            (role, None if model is None else model.version)
            for role, model in [("champion", champion), *candidates]
        )
        if rules is not None:
            key = (*key, ("rules", rules.version))
        stage = self._built.pop(key, None) or self.rebuilt(champion, candidates, rules)
        self._built[key] = stage  # the latest used is the last
        while len(self._built) > _STAGES:
            del self._built[next(iter(self._built))]
        return stage

    async def apply(
        self, sender: BatchSender, source: str, batch: InputBatch, claims: Mapping[int, int]
    ) -> None:
        """Do what `process` says, each part of the batch with the models and rules that hold for
        it."""
        for part in cut_at_switches(batch):
            if is_switch(part, 0):
                await self._switch(sender, source, part, claims)
                continue
            for held, own in by_settings(part, self.table.partition):
                stage = self.stage
                if held != NOTHING_SWITCHED:
                    rules = None
                    if held.rules is not None:
                        rules = await self.rules_of(own.pieces[0].partition, held.rules)
                    stage = await self.stage_with(held.lineup or Lineup(), rules)
                await self.work(sender, source, own, claims, stage)

    async def _switch(
        self, sender: BatchSender, source: str, batch: InputBatch, claims: Mapping[int, int]
    ) -> None:
        """Let other models, rules or entries of lists hold from here on in this log."""
        partition = batch.pieces[0].partition
        changes = apply_switch(batch, self.table.partition)
        if changes is None:
            rejected = [Rejected(0, "invalid_switch", "not a switch of models, rules or lists")]
            await send_dead_letters(sender, self.dead_letter_topic, source, batch, rejected)
            self.counters.reject(rejected)
        elif len(changes):
            if (rules := read_rules(batch)) is not None:
                await self.get_ready(rules)
            await self.table.commit_batch(sender, partition, changes, claims[partition])
            held = in_force(self.table.partition, partition)
            logger.info("%s[%d]: from here on other settings: %s", source, partition, held)
            self._let_go()

    def lineups(self) -> dict[int, Lineup | None]:
        """The models that hold for each partition here; None for those configured."""
        held = self.table.records.open_partitions()
        return {number: in_force(self.table.partition, number).lineup for number in held}

    def _let_go(self) -> None:
        used = {
            ref
            for lineup in self.lineups().values()
            if lineup is not None
            for ref in (*lineup.models, *lineup.former)
            if ref is not None
        }
        self.shelf.keep_only(self.level, used)
