"""The fuzzers run, for a moment; `make fuzz` gives them time and bounds checks."""

from __future__ import annotations

from tests.fuzz.state import StateFuzzer


def test_damaged_state_is_read_or_refused() -> None:
    fuzzer = StateFuzzer(seed=3)
    for _ in range(2500):
        fuzzer.step()
    assert fuzzer.outcomes["read"] > 300
    assert fuzzer.outcomes["StateError"] > 300
    assert set(fuzzer.outcomes) <= {"read", "StateError", "LayoutMismatchError"}
