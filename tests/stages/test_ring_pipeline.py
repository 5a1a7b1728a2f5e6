"""All stages together: what is found about rings comes back to whoever is decided next."""

from __future__ import annotations

import json

from dafu.features.catalogue import INDEX
from dafu.rings.records import RingAlert
from dafu.rules import compile_rules
from dafu.schema import decode_decision
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.stages.ring_pipeline import Passed, RingPipeline
from dafu.stages.users import UserStage

T0 = 1_750_000_000_000
MINUTE = 60_000
USERS = [f"u{i}" for i in range(8)]


def payment(number: int, user: str, minute: float, **more: object) -> tuple[bytes, bytes]:
    document = {
        "transaction_id": f"t{number}",
        "user_id": user,
        "merchant_id": f"m{number % 3}",
        "amount": 20.0,
        "timestamp": T0 + round(minute * MINUTE),
        **more,
    }
    return user.encode(), json.dumps(document).encode()


def stages() -> RingPipeline:
    rules = compile_rules([], {}, {}, {})
    return RingPipeline(UserStage(0), MerchantStage(rules, None, Thresholds()))


def farm(first: int, minute: float) -> list[tuple[bytes, bytes]]:
    """Eight new accounts on one device, behind one address."""
    shared = {"device_fingerprint": "dev-1", "ip_address": "198.18.0.9"}
    return [payment(first + i, user, minute + 3 * i, **shared) for i, user in enumerate(USERS)]


def run(pipeline: RingPipeline, records: list[tuple[bytes, bytes]]) -> Passed:
    return pipeline.run_chunk([key for key, _ in records], [value for _, value in records])


def history() -> list[tuple[bytes, bytes]]:
    """Months before, so that accounts which are opened later are new."""
    return [
        payment(10_000 + i, f"old{i % 5}", -60 * 24 * (90 - i), device_fingerprint=f"own-{i % 5}")
        for i in range(90)
    ]


def test_a_farm_is_found_and_its_members_are_told_of_it() -> None:
    pipeline = stages()
    assert run(pipeline, history()).alerts == []
    first = run(pipeline, farm(0, 0.0))
    assert first.memberships == 0
    rings = [alert.ring_id for alert in first.alerts]
    assert len(set(rings)) == 1
    last = first.alerts[-1]
    assert {member.user_id for member in last.members} <= set(USERS)
    assert last.size >= 6
    assert (first.merchants.features[:, INDEX["ring_size"]] == 0).all()

    second = run(pipeline, [*farm(100, 60.0), payment(200, "old1", 90.0)])
    assert second.memberships == second.users.memberships >= len(USERS)
    sizes = second.merchants.features[:, INDEX["ring_size"]]
    assert (sizes[:-1] >= 3).all()
    assert sizes[-1] == 0.0
    decided = [decode_decision(payload) for payload in second.merchants.decisions.present()]
    assert [d.user_id for d in decided] == [*USERS, "old1"]


def test_what_members_do_is_told_to_the_rings() -> None:
    pipeline = stages()
    run(pipeline, history())
    run(pipeline, farm(0, 0.0))
    rich = [payment(300 + i, user, 120.0 + i, amount=900.0) for i, user in enumerate(USERS * 3)]
    alerts: list[RingAlert] = run(pipeline, rich).alerts
    assert alerts[-1].event == "updated"
    assert alerts[-1].amount > 2 * 8 * 20.0


def test_the_same_records_give_the_same_bytes() -> None:
    chunks = [history(), farm(0, 0.0), farm(100, 60.0), farm(200, 60.0 * 24)]
    runs = []
    for _ in range(2):
        pipeline = stages()
        runs.append([run(pipeline, chunk) for chunk in chunks])
    for one, other in zip(*runs, strict=True):
        assert one.alerts == other.alerts
        assert one.sightings == other.sightings
        assert one.merchants.decisions == other.merchants.decisions.present()


def test_repeats_say_nothing_new() -> None:
    pipeline = stages()
    run(pipeline, history())
    run(pipeline, farm(0, 0.0))
    again = run(pipeline, farm(0, 0.0))
    assert again.users.duplicates == len(USERS)
    assert (again.alerts, again.sightings) == ([], [])
