"""What is changed from pages: rules and lists, by whom, and what is told when it can not be."""

from __future__ import annotations

from pathlib import Path

import pytest

from dafu.lists import ListEntry, ListEvent
from dafu.models.package import read_manifest
from dafu.registry import Candidate, ControlEvent, Lineup, ModelRef, Registry
from dafu.rulesets import RulesEvent
from dafu.web.auth.records import AuthRecords, KeyRecord, digest
from dafu.web.principals import Role
from dafu.web.problems import problem
from tests.packages import forest
from tests.web.conftest import payment
from tests.web.console.conftest import Console
from tests.web.decisions.documents import made

OFFERS = {
    "/console/decisions/ada/t1": ("/console/decisions/ada/t1/label", {"analyst", "engineer"}),
    "/console/rules": ('action="/console/rules/', {"engineer"}),
    "/console/lists": ('action="/console/lists/', {"analyst"}),
    "/console/models": ('action="/console/models/', {"model_owner"}),
}
"""Of pages, a form that they may offer, and to which roles."""

CLOSED = {"/console/dead-letters": {"engineer"}, "/console/audit": set[str]()}
"""Pages that not everybody may see, and who may."""


def key_of(role: str) -> str:
    return f"a-key-for-tests-of-{role}".ljust(40, "0")


@pytest.mark.parametrize("role", ["viewer", "analyst", "model_owner", "engineer"])
async def test_everybody_is_offered_what_he_may_do(console: Console, role: Role) -> None:
    record = KeyRecord(role, digest(key_of(role)), role)
    console.worker.app.auth.identities.file.change(lambda _: AuthRecords(keys=(record,)))
    console.worker.apply([payment(1, "ada")])
    console.feed.tell(made("ada", "t1"))
    console.entries.append(ListEntry("deny", "device", "dev-1"))
    await console.sign_in(key_of(role))
    token = {"csrf_token": await console.csrf()}
    for path, (offer, roles) in OFFERS.items():
        page = await console.get(path)
        assert page.status == 200
        assert (offer in page.text) == (role in roles), path
    for path, roles in CLOSED.items():
        page = await console.get(path)
        assert page.status == (200 if role in roles else 403) or path == "/console/audit"
        assert (f'href="{path}"' in page.text) == (role in roles)
    forms = {
        "/console/rules/large/mode": ({"mode": "shadow", "why": "to see"}, {"engineer"}),
        "/console/lists/add": (
            {"list": "deny", "kind": "user", "value": "ada", "why": "to see"},
            {"analyst"},
        ),
        "/console/models/rollback": (
            {"level": "scoring", "why": "to see"},
            {"model_owner"},
        ),
    }
    for path, (form, roles) in forms.items():
        page = await console.post(path, {**form, **token})
        assert page.status == (303 if role in roles else 403)
    shown = await console.get("/console/lists")
    assert ("dev-1" in shown.words) == (role == "analyst"), "devices are not for everybody"


async def test_a_rule_is_put_into_another_mode(console: Console) -> None:
    await console.sign_in()
    token = {"csrf_token": await console.csrf()}
    path = "/console/rules/large/mode"
    for form in (
        {"mode": "loud", "why": "to see"},
        {"mode": "shadow"},
        {"mode": "shadow", "why": ""},
    ):
        assert (await console.post(path, {**form, **token})).status == 400
    assert (await console.post(path, {"mode": "shadow", "why": "to see"})).status == 403
    assert console.asked == []
    page = await console.post(path, {"mode": "shadow", "why": "to see", **token})
    assert (page.status, page.headers["Location"]) == (303, "/console/rules?done=large")
    (event,) = console.asked
    assert isinstance(event, RulesEvent)
    assert (event.action, event.rule_id, event.mode) == ("set_rule_mode", "large", "shadow")
    assert (event.by, event.why) == ("admin", "to see")
    assert (
        "The rule large is in its new mode" in (await console.get(page.headers["Location"])).words
    )


async def test_models_are_deployed_promoted_stopped_and_rolled_back(
    console: Console, tmp_path: Path
) -> None:
    forest(tmp_path / "forest", seed=1)
    manifest = read_manifest(str(tmp_path / "forest"))
    seen = ModelRef("seen", "v2", "file:///models/seen")
    lineup = Lineup(candidates=(Candidate("shadow", seen),), former=(None,))
    console.registry = Registry(scoring=lineup)
    await console.sign_in()
    page = await console.get("/console/models")
    assert "Let it decide seen v2" in page.words and "Stop it seen v2" in page.words
    assert "Go back to the champion before (scoring)" in page.words
    assert "Go back to the champion before (sequence)" not in page.words
    token = {"csrf_token": await console.csrf(), "level": "scoring", "why": "it is better"}
    deployment = {"url": str(tmp_path / "forest"), "role": "shadow"}
    forms: dict[str, dict[str, str]] = {
        "deploy": deployment,
        "promote": {"version": "v2"},
        "stop": {"version": "v2"},
        "rollback": {},
    }
    for action, form in forms.items():
        path = f"/console/models/{action}"
        assert (await console.post(path, {**form, **token, "why": "no"})).status == 400
        assert (await console.post(path, {**form, "level": "scoring", "why": "yes"})).status == 403
        page = await console.post(path, {**form, **token})
        assert (page.status, page.headers["Location"]) == (303, f"/console/models?done={action}")
        assert "Granted: " in (await console.get(page.headers["Location"])).words
    missing = {**token, **deployment, "url": str(tmp_path / "none")}
    page = await console.post("/console/models/deploy", missing)
    assert page.status == 422 and "no usable package" in page.words
    deploy, promote, stop, back = console.asked
    model = ModelRef(manifest.name, manifest.version, str(tmp_path / "forest"))
    assert isinstance(deploy, ControlEvent) and isinstance(promote, ControlEvent)
    assert isinstance(stop, ControlEvent) and isinstance(back, ControlEvent)
    assert (deploy.action, deploy.role, deploy.model) == ("deploy", "shadow", model)
    assert [(e.action, e.version) for e in (promote, stop)] == [("promote", "v2"), ("stop", "v2")]
    assert (back.action, back.level, back.by, back.why) == (
        "rollback", "scoring", "admin", "it is better"
    )  # fmt: skip


async def test_what_is_refused_is_told(console: Console) -> None:
    await console.sign_in()
    console.refusal = problem(409, "the rule large is shadow already")
    form = {"mode": "shadow", "why": "to see", "csrf_token": await console.csrf()}
    page = await console.post("/console/rules/large/mode", form)
    assert page.status == 409
    assert page.headers["Content-Type"].startswith("text/html")
    assert "the rule large is shadow already" in page.words


async def test_rules_are_listed_with_how_often_they_fired(console: Console) -> None:
    console.feed.tell(*(made("ada", f"t{i}", i) for i in range(4)))
    await console.sign_in()
    page = await console.get("/console/rules")
    assert "Version" in page.words
    assert "large amount > 1000 live" in page.words
    assert "huge amount > 9000 shadow" in page.words


async def test_entries_are_put_and_taken_off(console: Console) -> None:
    await console.sign_in()
    token = {"csrf_token": await console.csrf()}
    form = {"list": "deny", "kind": "device", "value": "fp 1", "why": "stolen", **token}
    page = await console.post("/console/lists/add", {**form, "until": "soon"})
    assert page.status == 400
    assert console.asked == []
    page = await console.post("/console/lists/add", {**form, "until": "2026-03-01T10:15"})
    assert (page.status, page.headers["Location"]) == (303, "/console/lists")
    page = await console.post("/console/lists/remove", form)
    assert page.status == 303
    added, removed = console.asked
    assert isinstance(added, ListEvent) and isinstance(removed, ListEvent)
    assert added.action == "add_entries"
    assert added.entries == (ListEntry("deny", "device", "fp 1", 1_772_360_100_000),)
    assert (removed.action, removed.why, removed.by) == ("remove_entries", "stolen", "admin")


async def test_forms_are_forms(console: Console) -> None:
    await console.sign_in()
    token = await console.csrf()
    console.feed.tell(made("ada", "t1"))
    path = "/console/decisions/ada/t1/label"
    headers = {"X-CSRF-Token": token}
    page = await console.post(
        path, b'{"verdict":"fraud"}', **{"Content-Type": "application/json", **headers}
    )
    assert page.status == 415
    for body in (b"verdict=fraud&verdict=genuine", b"verdict=fraud&more=1", b"", b"\xff=\xff"):
        assert (await console.post(path, body, **headers)).status == 400
    assert (await console.post(path, b"verdict=\xff")).status == 400, "no token can be found in it"
    assert console.published == []
