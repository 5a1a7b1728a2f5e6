"""Requests count from the moment they were due, whenever they were sent."""

from __future__ import annotations

import pytest

pytest.importorskip("hdrh", reason="needs the bench extra")
pytest.importorskip("psutil", reason="needs the bench extra")

from bench.checkout import Answers
from bench.http import evaluate

MS = 1_000_000


def test_a_stalled_client_counts_with_its_whole_wait() -> None:
    start = 5_000 * MS  # ten a second: due at 5000, 5100, 5200, 5300 ms
    sent = [5_000 * MS, 5_100 * MS, 5_350 * MS, 5_350 * MS]
    at = [5_010 * MS, 5_120 * MS, 5_360 * MS, 5_380 * MS]
    measured = evaluate(Answers(sent, at, [200, 200, 202, 0]), start, 10, warm_up=0.05)
    assert measured.latencies.tolist() == [20_000, 160_000, 80_000]
    assert measured.late.tolist() == [0, 150_000, 50_000]
    assert measured.statuses == {200: 1, 202: 1, 0: 1}
