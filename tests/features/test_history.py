"""A whole history through both stages against the numpy oracle.

By default the history is generated. DAFU_TEST_HISTORY=path.parquet takes the first seven days of a
file instead, with the columns TRANSACTION_ID, TX_DATETIME, CUSTOMER_ID, TERMINAL_ID and TX_AMOUNT,
in the order of the file; DAFU_TEST_HISTORY_DAYS takes more or fewer days. `python -m
tests.features.test_history` prints what it finds, per group of features.
"""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from msgspec import Struct

from dafu.features.catalogue import FEATURES, INDEX, MERCHANT_FEATURES
from dafu.rules import compile_rules
from dafu.stages.batch import InputBatch, Piece
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.tables.records import MemoryRecords
from tests.oracle import (
    DAY_MS,
    MS,
    Payment,
    merchant_history,
    tolerance,
    user_history,
)
from tests.streams import START, alone, batches, user_stage

FILE = os.environ.get("DAFU_TEST_HISTORY")
DAYS = float(os.environ.get("DAFU_TEST_HISTORY_DAYS", "7"))


Name = Callable[[Payment], str]


class Run(Struct):
    """What both stages made of a history: float64 [n, F] and bytes logged per transaction."""

    features: np.ndarray
    logged: tuple[float, float]
    seconds: float


class Agreement(Struct):
    """Largest differences between two columns where both have a value."""

    absolute: float
    relative: float


def generated(n: int = 6000) -> list[Payment]:
    """Sixty days of 150 users at 50 merchants, a few busy; one in ten is up to a week late."""
    rng = np.random.default_rng(2018)
    times = np.sort(START + rng.integers(0, 60 * DAY_MS, n))
    late = rng.random(n) < 0.1
    times[late] -= rng.integers(0, 7 * DAY_MS, late.sum())
    users = np.minimum(rng.geometric(0.02, n), 150)
    merchants = np.minimum(rng.geometric(0.3, n), 50)
    amounts = np.round(rng.lognormal(3, 1.5, n), 2)
    return [
        Payment(transaction_id=str(i), user_id=f"u{u}", merchant_id=f"m{m}", amount=a, time=t)
        for i, (u, m, a, t) in enumerate(
            zip(*(c.tolist() for c in (users, merchants, amounts, times)), strict=True)
        )
    ]


def read(path: Path, days: float) -> list[Payment]:
    """The first days of a file, in its order."""
    frame = pl.read_parquet(path)
    when = frame["TX_DATETIME"].cast(pl.Datetime("ms"))
    frame = frame.filter(when < when[0].replace(hour=0, minute=0, second=0) + timedelta(days))
    return [
        Payment(transaction_id=str(i), user_id=str(u), merchant_id=str(m), amount=a, time=t)
        for i, u, m, a, t in zip(
            frame["TRANSACTION_ID"],
            frame["CUSTOMER_ID"],
            frame["TERMINAL_ID"],
            frame["TX_AMOUNT"].cast(pl.Float64),
            frame["TX_DATETIME"].cast(pl.Datetime("ms")).dt.epoch("ms"),
            strict=True,
        )
    ]


def run(history: list[Payment], size: int) -> Run:
    """Both stages, one partition each, in batches of a size."""
    users, merchants = (
        user_stage(),
        MerchantStage(compile_rules([], {}, {}, {}), None, Thresholds()),
    )
    state = MemoryRecords(), MemoryRecords()
    logged = [0, 0]
    rows = []
    began = time.perf_counter()
    for batch in batches(history, [size] * (len(history) // size + 1)):
        first = users.run(batch, alone(state[0]))
        assert not first.rejected
        assert len(first.forward_keys) == len(batch)
        forwarded = InputBatch(
            [Piece(0, 0, len(batch))],
            first.forward_keys,
            first.forward_values,
            batch.offsets,
            batch.timestamps,
        )
        second = merchants.run(forwarded, alone(state[1]))
        rows.append(second.features)
        for k, changes in enumerate((first.only_changes, second.only_changes)):
            state[k].write(changes)
            logged[k] += sum(len(key) + len(value or b"") for key, value in changes)
    per = (logged[0] / len(history), logged[1] / len(history))
    return Run(np.vstack(rows), per, time.perf_counter() - began)


def recomputed(history: list[Payment]) -> dict[str, np.ndarray]:
    """What the oracle says, by feature name; NaN is missing."""
    times = np.array([p.time for p in history])
    amounts = np.array([p.amount for p in history])
    out: dict[str, np.ndarray] = {}
    ways: list[tuple[Name, Name, Callable[..., dict[str, np.ndarray]]]] = [
        (lambda p: p.user_id, lambda p: p.merchant_id, user_history),
        (lambda p: p.merchant_id, lambda p: p.user_id, merchant_history),
    ]
    for entity, other, oracle in ways:
        own: dict[str, list[int]] = defaultdict(list)
        for i, p in enumerate(history):
            own[entity(p)].append(i)
        others = np.unique([other(p) for p in history], return_inverse=True)[1]
        for where in own.values():
            for name, values in oracle(times[where], amounts[where], others[where]).items():
                out.setdefault(name, np.full(len(history), np.nan))[where] = values
    return out


def compare(got: Run, expected: dict[str, np.ndarray]) -> dict[str, Agreement]:
    """Differences by feature; a value where the other has none is one of infinity."""
    out = {}
    for name, wanted in expected.items():
        column = got.features[:, INDEX[name]]
        if (np.isnan(column) != np.isnan(wanted)).any():
            out[name] = Agreement(np.inf, np.inf)
            continue
        off = np.nan_to_num(np.abs(column - wanted))
        size = np.maximum(np.nan_to_num(np.abs(wanted)), 1.0)
        out[name] = Agreement(float(off.max()), float((off / size).max()))
    return out


@pytest.fixture(scope="module")
def history() -> list[Payment]:
    return read(Path(FILE), DAYS) if FILE else generated()


def test_a_history_agrees_with_the_definitions(history: list[Payment]) -> None:
    whole = run(history, 1000)
    flagged = [INDEX[f"{who}_windows_approximate"] for who in ("user", "merchant")]
    assert whole.features[:, flagged].max() == (0.0 if FILE else 1.0)
    exact = (whole.features[:, flagged] == 0.0).all(axis=1)
    assert exact.mean() > 0.3
    whole.features = whole.features[exact]
    expected = {name: values[exact] for name, values in recomputed(history).items()}
    assert {f.name for f in MERCHANT_FEATURES} - expected.keys() == {"merchant_windows_approximate"}
    for name, found in compare(whole, expected).items():
        assert found.relative <= tolerance(name), (name, found)


def test_cuts_do_not_matter_to_a_history(history: list[Payment]) -> None:
    some = history[:1000]
    assert run(some, 1).features.tobytes() == run(some, 1000).features.tobytes()


@pytest.mark.parametrize("size", [1, 1000])
def test_the_changelog_stays_within_a_kilobyte_a_transaction(
    history: list[Payment], size: int
) -> None:
    some = history[: 2500 if size == 1 else 6000]
    assert max(run(some, size).logged) < 1024


def group_of(name: str) -> str:
    """A feature's family: its name without the window."""
    return re.sub(f"_({'|'.join(MS)})$", "", name)


def report() -> None:
    """Print agreement by group of features, and bytes logged."""
    payments = read(Path(FILE), DAYS) if FILE else generated()
    entities = {p.user_id for p in payments}, {p.merchant_id for p in payments}
    print(f"{len(payments)} transactions, {len(entities[0])} users, {len(entities[1])} merchants")
    began = time.perf_counter()
    expected = recomputed(payments)
    print(f"oracle: {time.perf_counter() - began:.1f} s, {len(expected)} of {len(FEATURES)}")
    runs = {size: run(payments, size) for size in (1, 1000)}
    assert runs[1].features.tobytes() == runs[1000].features.tobytes()
    groups: dict[str, list[Agreement]] = defaultdict(list)
    for name, found in compare(runs[1000], expected).items():
        groups[group_of(name)].append(found)
    for group, members in groups.items():
        worst = max(m.absolute for m in members), max(m.relative for m in members)
        print(f"{group:32} absolute {worst[0]:.3g}  relative {worst[1]:.3g}")
    for size, one in runs.items():
        print(
            f"batches of {size}: {one.logged[0]:.0f} B logged per transaction in stage one, "
            f"{one.logged[1]:.0f} B in stage two, {one.seconds / len(payments) * 1e6:.0f} us"
        )


if __name__ == "__main__":
    report()
