"""The page of rules: what they say, how often they fire, live and shadow, and their modes."""

from __future__ import annotations

import time
from typing import Annotated, Final, NamedTuple
from urllib.parse import urlencode

from aiohttp import web
from msgspec import Meta, Struct

from dafu.agents.merchants import MerchantsAgent
from dafu.rules.model import Mode, Rule
from dafu.rulesets import RulesEvent
from dafu.web.console.forms import read_form
from dafu.web.console.overview import Lately
from dafu.web.console.rendering import page
from dafu.web.control import ControlDesk, signed
from dafu.web.endpoints import Call
from dafu.web.rules import rules_in_force

__all__ = ["ModeForm", "RulePages", "RulesQuery"]

_SECONDS: Final = 900


class RulesQuery(Struct, frozen=True):
    """Which rule was just changed, to be told once more."""

    done: Annotated[str, Meta(max_length=100)] = ""


class ModeForm(Struct, frozen=True):
    """Another mode of a rule, and why."""

    mode: Mode
    why: Annotated[str, Meta(min_length=3, max_length=1000)]


class _Row(NamedTuple):
    """A rule beside how often it fired: on how many decisions, live and shadow."""

    rule: Rule
    live: int
    shadow: int


class RulePages:
    """The page of rules.

    Parameters
    ----------
    desk : ControlDesk
    lately : Lately
    merchants : MerchantsAgent
        Of the worker, which has the rules that it is configured with.
    """

    def __init__(self, desk: ControlDesk, lately: Lately, merchants: MerchantsAgent) -> None:
        self._desk = desk
        self._lately = lately
        self._merchants = merchants

    async def listed(self, call: Call) -> web.Response:
        """The rules in force."""
        registry = await self._desk.registry(call.request)
        if isinstance(registry, web.Response):
            return registry
        held = rules_in_force(registry, self._merchants, self._desk.agent.rules)
        series = await self._lately.series()
        total, counts = series.rules(int(time.time()) + 1, _SECONDS)
        fired = {(count.rule, count.mode): count.fired for count in counts}
        rows = [
            _Row(
                each.rule,
                fired.get((each.rule.id, "live"), 0),
                fired.get((each.rule.id, "shadow"), 0),
            )
            for each in held.rules
        ]
        return page(
            call,
            "rules.html",
            title="Rules",
            rows=rows,
            rules_version=held.version,
            history=held.history,
            total=total,
            minutes=_SECONDS // 60,
            done=call.query.done,
        )

    async def set_mode(self, call: Call) -> web.Response:
        """Put a rule into another mode, and go back to the rules."""
        partition = await self._desk.here(call.request)
        if isinstance(partition, web.Response):
            return partition
        form = await read_form(call.request, ModeForm)
        rule_id = call.path("rule_id")
        event = RulesEvent(
            action="set_rule_mode", rule_id=rule_id, mode=form.mode, **signed(call, form.why)
        )
        refused = await self._desk.ask(call, event, rule_id)
        if refused is not None:
            return refused
        raise web.HTTPSeeOther(f"/console/rules?{urlencode({'done': rule_id})}")
