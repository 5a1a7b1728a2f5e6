"""Rules over HTTP: which hold and how often they fire, changes, and trials before a change."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final, Literal

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from dafu.agents.merchants import MerchantsAgent
from dafu.agents.rules import RuleCounts, compiled
from dafu.recent import Trial
from dafu.registry import Registry
from dafu.rules import Explanation, RuleSet, RuleSetError
from dafu.rules.model import Rule
from dafu.rulesets import RulesChange, RulesEvent
from dafu.schema import InvalidRecordError, LongText
from dafu.trial import try_rules
from dafu.web.control import CHANGE_PROBLEMS, READ_PROBLEMS, ControlDesk, signed
from dafu.web.endpoints import Call, Endpoint
from dafu.web.masking import mask
from dafu.web.principals import Permission
from dafu.web.problems import RefusedError, answer, invalid, problem

__all__ = ["InForce", "rule_endpoints", "rules_in_force"]

MAX_BODY: Final = 1 << 18


class RuleInForce(Struct, frozen=True):
    """A rule, and on how many transactions it fired since this worker started."""

    rule: Rule
    fired: RuleCounts


class InForce(Struct, frozen=True):
    """The rules that hold.

    Attributes
    ----------
    version : str
    configured : bool
        They are those of the file that workers are configured with: none have been put.
    document : dict
        What a rule file would hold, to be changed and put.
    rules : list of RuleInForce
    former : list of str or None
        Versions that one can go back to, the latest first; None for those configured.
    history : list of RulesChange
        How it came to this, the latest first.
    """

    version: str
    configured: bool
    document: dict[str, Any]
    rules: list[RuleInForce]
    former: list[str | None]
    history: list[RulesChange]


class NewRules(Struct, frozen=True, forbid_unknown_fields=True):
    """A whole rule set, as in a rule file, and why."""

    rules: dict[str, Any]
    why: LongText = ""


class NewMode(Struct, frozen=True, forbid_unknown_fields=True):
    """The new mode of a rule, and why."""

    mode: Literal["live", "shadow", "off"]
    why: LongText = ""


class Back(Struct, frozen=True, forbid_unknown_fields=True):
    """Why."""

    why: LongText = ""


class RuleTest(Struct, frozen=True, forbid_unknown_fields=True):
    """What to try, and on what.

    Without `rules`, those in force. With a `transaction`, as it would be published, every rule is
    traced on it, with `features` in place of those of a first transaction; without one, the rules
    are tried on the transactions that the worker, or one that decides, decided last.
    """

    rules: dict[str, Any] | None = None
    transaction: dict[str, Any] | None = None
    features: dict[Annotated[str, Meta(max_length=100)], float | bool | str] = {}


class Tested(Struct, frozen=True):
    """What came of a test: `explanation` of one transaction, or `trial` on recent ones."""

    explanation: Explanation | None = None
    trial: Trial | None = None


def rules_in_force(registry: Registry, agent: MerchantsAgent, rules: RuleSet) -> InForce:
    """What is to be said of the rules that hold; `rules` are those configured."""
    state = registry.rules
    document = rules.document() if state.current is None else state.current.document
    return InForce(
        version=rules.version if state.current is None else state.current.version,
        configured=state.current is None,
        document=document,
        rules=[
            RuleInForce(rule, agent.fired.get(rule.id, RuleCounts()))
            for rule in msgspec.convert(document["rules"], list[Rule])
        ],
        former=[None if each is None else each.version for each in reversed(state.former)],
        history=list(reversed(state.history)),
    )


def rule_endpoints(desk: ControlDesk, agent: MerchantsAgent) -> list[Endpoint]:
    """List, put, switch, roll back, try."""
    configured = desk.agent.rules

    async def show(call: Call) -> web.Response:
        registry = await desk.registry(call.request)
        if isinstance(registry, web.Response):
            return registry
        return answer(rules_in_force(registry, agent, configured))

    async def change(call: Call, **fields: Any) -> web.Response:
        partition = await desk.here(call.request)
        if isinstance(partition, web.Response):
            return partition
        event = RulesEvent(**fields, **signed(call, call.body.why))
        refused = await desk.ask(call, event, event.rule_id or "rules")
        if refused is not None:
            return refused
        return answer(rules_in_force(desk.agent.registry(partition), agent, configured))

    async def put(call: Call) -> web.Response:
        return await change(call, action="put_rules", rules=call.body.rules)

    async def switch(call: Call) -> web.Response:
        rule = call.path("rule_id")
        return await change(call, action="set_rule_mode", rule_id=rule, mode=call.body.mode)

    async def rollback(call: Call) -> web.Response:
        return await change(call, action="rollback_rules")

    async def reset(call: Call) -> web.Response:
        return await change(call, action="reset_rules")

    async def test(call: Call) -> web.Response:
        asked: RuleTest = call.body
        document = asked.rules
        if document is None:
            registry = await desk.registry(call.request)
            if isinstance(registry, web.Response):
                return registry
            current = registry.rules.current
            document = None if current is None else current.document
        rules = configured if document is None else await _compiled(document)
        if asked.transaction is not None:
            return answer(mask(Tested(explanation=await _traced(rules, asked)), call))
        if (response := await desk.instead(call.request, agent.table)) is not None:
            return response
        run = agent.recent.trial(rules)
        for _ in run.steps():
            await asyncio.sleep(0)
        return answer(Tested(trial=run.result()))

    def changing(method: Any, path: str, name: str, summary: str, **more: Any) -> Endpoint:
        return Endpoint(
            method=method,
            path=path,
            name=name,
            summary=summary,
            tag="rules",
            permission=Permission.RULES,
            max_bytes=MAX_BODY,
            returns=InForce,
            problems=CHANGE_PROBLEMS,
            **more,
        )

    return [
        Endpoint(
            method="GET",
            path="/v1/rules",
            name="get_rules",
            summary="The rules in force, how often each fired here, and how it came to them",
            tag="rules",
            permission=Permission.READ,
            handler=show,
            returns=InForce,
            problems=READ_PROBLEMS,
        ),
        changing(
            "PUT", "/v1/rules", "put_rules", "Put a rule set in force", handler=put, body=NewRules
        ),
        changing(
            "PUT",
            "/v1/rules/{rule_id}/mode",
            "set_rule_mode",
            "Let a rule decide, look on, or rest",
            handler=switch,
            body=NewMode,
        ),
        changing(
            "POST",
            "/v1/rules/rollback",
            "rollback_rules",
            "Go back to the rules before",
            handler=rollback,
            body=Back,
        ),
        changing(
            "POST",
            "/v1/rules/reset",
            "reset_rules",
            "Go back to the rule file that each worker is configured with",
            handler=reset,
            body=Back,
        ),
        Endpoint(
            method="POST",
            path="/v1/rules/test",
            name="test_rules",
            summary="Try rules on one transaction, or on those that this worker decided last",
            tag="rules",
            permission=Permission.ANALYZE,
            handler=test,
            body=RuleTest,
            max_bytes=MAX_BODY,
            returns=Tested,
            problems={**READ_PROBLEMS, 422: "The rules or the transaction are not sound."},
        ),
    ]


async def _compiled(document: dict[str, Any]) -> RuleSet:
    try:
        return await compiled(document)
    except RuleSetError as exc:
        errors = [str(error) for error in exc.errors]
        raise RefusedError(problem(422, str(exc), field="rules", errors=errors)) from None


async def _traced(rules: RuleSet, asked: RuleTest) -> Explanation:
    raw = msgspec.json.encode(asked.transaction)
    try:
        return await asyncio.to_thread(try_rules, rules, raw, asked.features)
    except InvalidRecordError as exc:
        detail = f"the transaction would not be decided: {exc.detail}"
        raise RefusedError(invalid(detail, "transaction", status=422)) from None
