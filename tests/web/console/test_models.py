"""What models say of the traffic, counted again; and a user's timeline."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from dafu.schema import CandidateScore, Versions
from dafu.tables.inspect import UserView, describe_user
from dafu.web.console.entities import timeline
from dafu.web.console.models import ENOUGH, Said, voices
from dafu.web.console.shown import Shown
from dafu.web.decisions.memory import Made
from tests.web.conftest import Worker, payment
from tests.web.decisions.documents import made

VERSIONS = Versions("r1", "m1", None, "f", "t")


def said(score: float, rules: float, looking_on: float) -> Said:
    candidates = [CandidateScore("challenger", "forest", "m2", looking_on)]
    return Said({"isolation": score, "rules": rules}, VERSIONS, candidates)


def test_each_model_has_its_own_figures() -> None:
    rng = np.random.default_rng(1)
    count = 2 * ENOUGH
    steady = rng.beta(1, 8, count)
    rising = np.concatenate([rng.beta(1, 8, ENOUGH), rng.beta(8, 1, ENOUGH)])
    decisions = [said(*row) for row in zip(steady, np.zeros(count), rising, strict=True)]
    found = {voice.model: voice for voice in voices(decisions)}
    assert {v.role for v in found.values()} == {"champion", "rules", "challenger"}
    assert [found[name].version for name in ("isolation", "rules", "forest")] == ["m1", "r1", "m2"]
    assert found["isolation"].mean == pytest.approx(steady.mean())
    assert found["forest"].high == pytest.approx((rising >= 0.6).mean())
    assert found["isolation"].verdict == "stable"
    assert found["forest"].verdict == "shifted"
    assert found["rules"].psi == 0.0


def test_of_few_scores_no_shift_is_told() -> None:
    (voice, *_) = voices([said(0.1, 0.2, 0.3)] * (2 * ENOUGH - 1))
    assert (voice.psi, voice.verdict) == (None, None)
    assert voices([]) == []


def shown(one: Made) -> Shown:
    return Shown(one.decision, 5, one.timestamp, 0, one.offset, "w")


async def test_a_timeline_joins_what_was_paid_and_what_was_decided(worker: Worker) -> None:
    worker.apply([payment(i, "ada", amount=10.0 + i) for i in range(3)])
    records = [worker.users.table.partition(n) for n in range(4)]
    (user,) = [u for r in records if (u := describe_user(r, b"ada")) is not None]
    assert isinstance(user, UserView)
    times = {f"t{i}": t.time for i, t in enumerate(reversed(user.transactions))}
    decisions = [
        shown(made("ada", "t0", 0, timestamp=times["t0"])),
        shown(made("ada", "t2", 1, timestamp=times["t2"])),
        shown(made("ada", "t2", 2, timestamp="2020-01-01T00:00:00.000Z")),  # of long ago
    ]
    events = timeline(user, decisions)
    assert [(e.amount, e.made and e.made.decision.transaction_id) for e in events] == [
        (12.0, "t2"),
        (11.0, None),
        (10.0, "t0"),
        (None, "t2"),
    ]
    assert [e.time for e in events] == sorted((e.time for e in events), reverse=True)
    assert msgspec.to_builtins(decisions[0].decision)["user_id"] == "ada"
