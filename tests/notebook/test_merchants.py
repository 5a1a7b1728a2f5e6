from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dafu.features.bursts import HOLD
from dafu.models import MerchantRiskProcessor
from dafu.notebook import merchants as module
from dafu.notebook.errors import NotebookError
from dafu.rings.records import decode_alert
from dafu.rules import compile_rules
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.stages.pipeline import Pipeline
from tests.oracle import Payment
from tests.streams import to_json, user_stage

DAY, HOUR = 86_400_000, 3_600_000
START = 1_704_067_200_000


def regulars(shop: str = "shop", days: int = 12) -> list[dict[str, Any]]:
    return [
        {
            "transaction_id": f"{shop}-{d}-{k}",
            "user_id": f"c{(d + k) % 9}",
            "merchant_id": shop,
            "amount": 15.0 + (d * 5 + k * 3) % 17,
            "timestamp": START + d * DAY + (9 + 2 * k) * HOUR,
        }
        for d in range(days)
        for k in range(5)
    ]


def probes(n: int = 20, day: int = 9, shop: str = "shop") -> list[dict[str, Any]]:
    return [
        {
            "transaction_id": f"probe-{day}-{i}",
            "user_id": f"v{day}-{i}",
            "merchant_id": shop,
            "amount": 1.0,
            "timestamp": START + day * DAY + 20 * HOUR + i * 15_000,
        }
        for i in range(n)
    ]


def assess(rows: Any, merchant: str = "shop", **known: Any) -> module.MerchantRisk:
    return MerchantRiskProcessor().assess_merchant_risk(merchant, rows, **known)


def test_a_merchant_where_cards_are_tried_is_told_with_its_episode() -> None:
    rows = regulars() + regulars("other") + probes()
    found = assess(rows)
    (episode,) = found.bursts
    assert (episode.users, episode.transactions, episode.amount) == (20, 20, 20.0)
    assert (episode.first, episode.over) == ("2024-01-10T20:00:00.000Z", True)
    assert episode.opened == "2024-01-10T20:01:45.000Z"
    assert found.parts == {"bursts": episode.score}
    assert found.risk == pytest.approx(episode.score) and found.risk > 0.8
    assert found.reasons[0].startswith("20 users paid small amounts within 5 minutes")
    assert (found.transactions, found.users, found.in_bursts) == (80, 29, 13)
    assert found.fraud_share is None and found.labelled == 0
    quiet = assess(rows, "other")
    assert (quiet.risk, quiet.bursts, quiet.reasons) == (0.0, [], [])
    assert quiet.transactions == 60


def test_any_table_will_do_and_one_of_the_merchant_alone_needs_no_column_of_it() -> None:
    rows = regulars() + probes()
    expected = assess(rows)
    assert assess(pa.Table.from_pylist(rows)) == expected
    shuffled = np.random.default_rng(1).permutation(len(rows))
    assert assess([rows[i] for i in shuffled]) == expected
    bare = [{k: v for k, v in row.items() if k != "merchant_id"} for row in rows]
    assert assess(bare) == expected


def test_labels_prove_a_share_of_fraud_the_more_the_more_they_are() -> None:
    rows = [{**row, "is_fraud": i % 10 == 0} for i, row in enumerate(regulars(days=40))]
    many, few = assess(rows), assess(rows[:10])
    assert (many.frauds, many.labelled, many.fraud_share) == (20, 200, 0.1)
    assert (few.frauds, few.labelled, few.fraud_share) == (1, 10, 0.1)
    assert many.parts["fraud"] > few.parts["fraud"] > 0.0
    assert many.reasons == ["20 of 200 transactions with a label are fraud"]


def test_what_else_is_known_adds_to_the_risk() -> None:
    rows = regulars() + probes()
    plain, more = assess(rows), assess(rows, risk_factors={"young": 0.5, "nothing": 0.0})
    assert more.risk == pytest.approx(1 - (1 - plain.risk) / 2)
    assert more.parts["young"] == 0.5
    assert more.reasons == [*plain.reasons, "young: 0.5"]


def test_episodes_are_those_that_the_stream_tells_of() -> None:
    rows = regulars() + probes() + probes(37, 10) + regulars("other") + probes(30, 9, "other")
    ordered = sorted(rows, key=lambda row: row["timestamp"])
    stream = [
        Payment(
            time=row["timestamp"],
            **{k: row[k] for k in ("transaction_id", "user_id", "merchant_id", "amount")},
        )
        for row in ordered
    ]
    rules = compile_rules([], {}, {}, {})
    pipeline = Pipeline(user_stage(), MerchantStage(rules, None, Thresholds()))
    keys = [p.user_id.encode() for p in stream]
    _, output = pipeline.run(keys, [to_json(p) for p in stream])
    alerts = [decode_alert(value) for value in output.alerts.values.present()]
    for shop in ("shop", "other"):
        closed = [a for a in alerts if a.merchant_id == shop and a.event == "closed"]
        bursts = assess(rows, shop).bursts
        assert len(bursts) == len(closed) == (2 if shop == "shop" else 1)
        for mine, theirs in zip(bursts, closed, strict=True):
            assert (mine.users, mine.transactions) == (theirs.size, theirs.transactions)
            assert mine.score == pytest.approx(theirs.score, abs=1e-6)
            assert mine.over


def test_an_episode_that_is_on_has_its_present_figures() -> None:
    (episode,) = assess(regulars(days=9) + probes(27)).bursts
    assert (episode.users, episode.transactions, episode.over) == (27, 27, False)
    assert episode.score >= HOLD


def test_errors_say_what_to_do() -> None:
    with pytest.raises(NotebookError, match="no valid transactions of merchant 'nobody'"):
        assess(regulars(), "nobody")
    with pytest.raises(NotebookError, match=r"young is 1.5; it must be within 0\.\.1"):
        assess(regulars(), risk_factors={"young": 1.5})
    with pytest.raises(NotebookError, match="name of a part"):
        assess(regulars(), risk_factors={"fraud": 0.5})
    with pytest.raises(NotebookError, match="plainly user_id"):
        assess([{"a": 1}])


def test_the_examples_hold() -> None:
    ran = doctest.testmod(module)
    assert ran.attempted > 0 and ran.failed == 0
