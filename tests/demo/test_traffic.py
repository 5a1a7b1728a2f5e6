"""Traffic: what a producer would publish, in order, without end and without labels."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

from dafu.demo.traffic import FRAUD_RATE, HISTORY_DAYS, SEASON_DAYS, Traffic
from dafu.generator import SCENARIOS, generate, write
from dafu.ingest import TransactionReader, load_mapping, to_records


def test_records_are_those_that_publish_sends(tmp_path: Path) -> None:
    table = generate(12, 8, SEASON_DAYS, 5, fraud_rate=FRAUD_RATE)
    path = tmp_path / "payments.parquet"
    write(table, path)
    expected = [r for b in TransactionReader(path, load_mapping("dafu")) for r in to_records(b)]

    traffic = Traffic(12, 8, 5)
    history = list(traffic.history())
    split = f"2025-01-{1 + HISTORY_DAYS}T"
    assert all(time < split for piece in history for time in piece.times)
    n = sum(len(piece.ids) for piece in history)
    live = []
    for piece in traffic.live():
        live.append(piece)
        if n + sum(len(p.ids) for p in live) >= table.num_rows:
            break
    assert live[0].times[0] >= split
    pieces = [*history, *live]
    keys = [key for piece in pieces for key in piece.keys][: table.num_rows]
    values = [value for piece in pieces for value in piece.values][: table.num_rows]
    assert list(zip(keys, values, strict=True)) == expected
    scenarios = [s for piece in pieces for s in piece.scenarios][: table.num_rows]
    assert scenarios == table.column("fraud_scenario").to_pylist()
    assert any(scenario in SCENARIOS for scenario in scenarios)
    assert not any(b"fraud" in value for value in values)


def test_seasons_follow_each_other_with_the_same_people() -> None:
    traffic = Traffic(10, 4, 6)
    first = [name for piece in traffic.history() for name in piece.ids]
    pieces = list(islice(traffic.live(), 4))
    assert pieces[-1].times[-1] > "2025-05"  # beyond the first season
    ids = [*first, *(name for piece in pieces for name in piece.ids)]
    assert len(set(ids)) == len(ids)
    times = [time for piece in pieces for time in piece.times]
    assert times == sorted(times)
    documents = [json.loads(v) for piece in pieces for v in piece.values]
    cards: list[set[str]] = [
        {d["card_id"] for d in documents if (d["timestamp"] < "2025-04-02") is early}
        for early in (True, False)
    ]
    assert cards[0] & cards[1]
    assert {d["user_id"] for d in documents} <= {f"user-{i:08}" for i in range(10)}


def test_a_cut_keeps_what_belongs_together() -> None:
    piece = next(Traffic(10, 4, 6).history())
    part = piece.cut(3, 5)
    assert [len(column) for column in part] == [2] * 5
    assert part.ids == piece.ids[3:5]
    assert [json.loads(v)["transaction_id"] for v in part.values] == part.ids


def test_rings_are_in_the_traffic_and_not_named() -> None:
    traffic = Traffic(40, 10, 5, rings=5, look_alikes=6)
    pieces = list(traffic.history())
    assert "ring" in {scenario for piece in pieces for scenario in piece.scenarios}
    values = [value for piece in pieces for value in piece.values]
    assert not any(word in value for value in values for word in (b"ring", b"benign"))
    users = {json.loads(value)["user_id"] for value in values}
    assert max(users) > f"user-{40:08}"  # accounts that rings opened
