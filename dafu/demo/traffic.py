"""Endless generated payments as Kafka records, with the truth about each kept aside.

Knows the generator and the record format; no broker and no clock. The generator simulates a fixed
number of days, so traffic comes in seasons: the same people, cards and shops, each season other
purchases, each after the one before.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final, NamedTuple

import pyarrow as pa

from dafu.generator import GROUP_COLUMNS, LABEL_COLUMNS, generate_traffic
from dafu.generator.simulation import START
from dafu.ingest import to_records

FRAUD_RATE: Final = 0.02
HISTORY_DAYS: Final = 14
SEASON_DAYS: Final = 91
USERS_TO_A_GROUP: Final = 50
"""Users to each ring, and to each group of honest people who share as rings do."""
_SLICE_ROWS: Final = 2000  # converted together: a few milliseconds


class Piece(NamedTuple):
    """Consecutive transactions: records, and what only the demonstration knows of them.

    `scenarios` holds the kind of fraud, None for a genuine transaction; `times` the event times,
    ISO 8601.
    """

    keys: list[bytes | None]
    values: list[bytes]
    ids: list[str]
    scenarios: list[str | None]
    times: list[str]

    def cut(self, start: int, stop: int) -> Piece:
        """Some of its transactions."""
        return Piece(
            self.keys[start:stop],
            self.values[start:stop],
            self.ids[start:stop],
            self.scenarios[start:stop],
            self.times[start:stop],
        )


class Traffic:
    """Transactions in order of event time: first a history, then as many as anyone takes.

    Parameters
    ----------
    users, merchants, seed, rings, look_alikes
        As for `dafu.generator.generate`. The same rings come back every season.
    """

    def __init__(
        self, users: int, merchants: int, seed: int, *, rings: int = 0, look_alikes: int = 0
    ) -> None:
        self.users = users
        self.merchants = merchants
        self.seed = seed
        self.rings = rings
        self.look_alikes = look_alikes
        self._rest: pa.RecordBatch | None = None
        self._batches = self._seasons()

    def history(self) -> Iterator[Piece]:
        """The first `HISTORY_DAYS` days; take all of it before anything else."""
        end = (START + timedelta(days=HISTORY_DAYS)).strftime("%Y-%m-%dT%H:%M:%S")
        for batch in self._batches:
            times = batch.column("timestamp").to_pylist()
            rows = next((i for i, time in enumerate(times) if time >= end), None)
            yield from _pieces(batch.slice(0, rows))
            if rows is not None:
                self._rest = batch.slice(rows)
                return

    def live(self) -> Iterator[Piece]:
        """What comes after the history, without end."""
        if self._rest is not None:
            yield from _pieces(self._rest)
            self._rest = None
        for batch in self._batches:
            yield from _pieces(batch)

    def _seasons(self) -> Iterator[pa.RecordBatch]:
        start, season = START, 0
        while True:
            # Another length draws other purchases from the same seed, which fixes the people.
            days = SEASON_DAYS + season % 7
            yield from generate_traffic(
                self.users,
                self.merchants,
                days,
                self.seed,
                start=start,
                fraud_rate=FRAUD_RATE,
                rings=self.rings,
                look_alikes=self.look_alikes,
            ).batches
            start += timedelta(days=days)
            season += 1


def _pieces(batch: pa.RecordBatch) -> Iterator[Piece]:
    labels = [name for name in (*LABEL_COLUMNS, *GROUP_COLUMNS) if name in batch.schema.names]
    for begin in range(0, batch.num_rows, _SLICE_ROWS):
        rows = batch.slice(begin, _SLICE_ROWS)
        records = to_records(rows.drop_columns(labels))
        yield Piece(
            [key for key, _ in records],
            [value for _, value in records],
            rows.column("transaction_id").to_pylist(),
            rows.column("fraud_scenario").to_pylist(),
            rows.column("timestamp").to_pylist(),
        )
