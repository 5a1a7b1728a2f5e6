"""Damaged state: whatever the records of a table hold, loading them works or says what is wrong.

Records of three tables, forwarded records and sightings are damaged at random, and transactions or
sightings are applied to them. A `DafuError` is an answer; anything else is a finding, also a read
outside an array when kernels are compiled with bounds checks, as `python -m tests.fuzz` does.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np

from dafu.errors import DafuError
from dafu.rings.records import Facts, Sighting, encode
from dafu.rules import Rule, compile_rules
from dafu.stages.batch import FORWARD, InputBatch
from dafu.stages.decide import Thresholds
from dafu.stages.identifiers import IdentifierStage
from dafu.stages.merchants import MerchantStage
from dafu.stages.names import RULE_NAMES
from dafu.stages.users import UserStage
from dafu.tables.records import MemoryRecords
from tests.oracle import Enrolment, Payment
from tests.streams import START, Event, to_json

_NUMBERS = [0, 1, -1, 2, 15, 16, 31, 383, 384, 385, 10**6, 2**31, 2**53, 2**62, 2**63 - 1, -(2**63)]
INTERESTING = [np.int64(n).tobytes() for n in _NUMBERS] + [
    np.float64(x).tobytes() for x in (np.nan, np.inf, -np.inf, -1.0, 1e308)
]
HOUR = 3_600_000
_LARGE = Rule(id="large", condition="amount > 50", risk_score=0.95, action="block")
"""Blocks about half of the transactions, so that they are told of and a ring is mentioned."""


def _payment(i: int, user: str) -> Payment:
    return Payment(
        transaction_id=f"t{i}",
        user_id=user,
        merchant_id=f"m{i % 2}",
        amount=float(i % 97),
        time=START + i * HOUR,
        device=f"d{i % 5}",
        ip=f"i{i % 7}",
        country="DE",
        lat=50.0 + i % 3,
        long=10.0,
        merchant_lat=51.0,
        merchant_long=9.0,
    )


def _joins(user: str) -> Enrolment:
    return Enrolment(
        user_id=user, ring_id="r", time=START, size=5, shared="device \u00fc", sharers=4
    )


def _sighting(i: int, users: int) -> tuple[bytes, bytes]:
    """Key and value of a sighting; the first `users` things have two users, the others one."""
    thing = i % 12
    user = f"u{thing}" if thing >= users or i % 24 < 12 else "other"
    time = START + i * HOUR
    facts = Facts(time, START, 1 + i, i / 4, i % 2, time if i % 3 == 0 else 0)
    if thing % 2:
        told = Sighting(user, "ip", f"10.0.0.{thing}", f"t{i}", f"m{i % 6}", facts)
    else:
        told = Sighting(user, "device", f"fp_{thing}", f"t{i}", f"m{i % 6}", facts)
    return f"{told.kind}:{told.value}".encode(), encode(told)


class StateFuzzer:
    """Applies transactions to damaged copies of a state with archives and closed chunks.

    Attributes
    ----------
    outcomes : Counter
        How often records were read in spite of the damage, and how often they were refused.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._users = UserStage(200 * 365 * 24 * HOUR)
        rules = compile_rules([_LARGE], {}, RULE_NAMES, {})
        self._merchants = MerchantStage(rules, None, Thresholds())
        self.outcomes: Counter[str] = Counter()
        history: list[Event] = [_payment(i, "much" if i % 40 else "little") for i in range(900)]
        history[800:800] = [_joins("much"), _joins("little")]
        users, merchants = MemoryRecords(), MemoryRecords()
        first = self._users.run(self._batch(history, 0), lambda _: users)
        users.write(first.only_changes)
        values = first.forward_values.present()
        log = InputBatch.of(0, first.forward_keys.present(), values)
        merchants.write(self._merchants.run(log, lambda _: merchants).only_changes)
        self._data = users.data, merchants.data
        fresh = [_payment(1000 + i, ("much", "little", "new")[i % 3]) for i in range(6)]
        self._fresh = self._batch(fresh, 1000)
        following = self._users.run(self._fresh, lambda _: users)
        self._keys = following.forward_keys.present()
        self._values = following.forward_values.present()
        self._identifiers = IdentifierStage()
        held, seen = MemoryRecords(), [_sighting(i, 3) for i in range(48)]
        held.write(self._identifiers.run(self._log(seen, 0), lambda _: held).only_changes)
        self._held = held.data
        self._seen = [_sighting(48 + i, 3) for i in range(14)]

    @staticmethod
    def _log(records: Sequence[tuple[bytes, bytes]], first: int) -> InputBatch:
        return InputBatch.of(0, [key for key, _ in records], [v for _, v in records], first)

    @staticmethod
    def _batch(payments: Sequence[Event], first: int) -> InputBatch:
        keys = [p.user_id.encode() for p in payments]
        return InputBatch.of(0, keys, [to_json(p) for p in payments], first)

    def step(self) -> None:
        """Damage something and apply transactions to it."""
        which = self._rng.randrange(5)
        try:
            if which == 0:
                records = self._damaged(self._data[0])
                records.write(self._users.run(self._fresh, lambda _: records).only_changes)
            elif which == 1:
                records = self._damaged(self._data[1])
                log = InputBatch.of(0, self._keys, self._values, 1000)
                records.write(self._merchants.run(log, lambda _: records).only_changes)
            elif which == 2:
                held = self._damaged(self._held)
                log = self._log(self._seen, 100)
                held.write(self._identifiers.run(log, lambda _: held).only_changes)
            elif which == 3:
                log = self._log([self._sighted(*record) for record in self._seen], 100)
                self._identifiers.run(log, lambda _: MemoryRecords())
            else:
                values = [self._forwarded(value) for value in self._values]
                log = InputBatch.of(0, self._keys, values, 1000)
                self._merchants.run(log, lambda _: MemoryRecords())
        except DafuError as exc:
            self.outcomes[f"{type(exc).__name__}"] += 1
        else:
            self.outcomes["read"] += 1

    def _damaged(self, data: dict[bytes, bytes]) -> MemoryRecords:
        records = MemoryRecords()
        records.data = dict(data)
        for _ in range(self._rng.choice((1, 1, 2, 4))):
            key = self._rng.choice(list(records.data))
            if self._rng.random() < 0.05:
                del records.data[key]
            elif self._rng.random() < 0.1:
                records.data[key] = self._rng.choice(list(records.data.values()))
            else:
                records.data[key] = self._mutated(records.data[key])
        return records

    def _forwarded(self, value: bytes) -> bytes:
        if self._rng.random() < 0.5:
            return value
        head = self._mutated(value[: FORWARD.itemsize])
        return (
            head + value[FORWARD.itemsize :] if self._rng.random() < 0.8 else self._mutated(value)
        )

    def _sighted(self, key: bytes, value: bytes) -> tuple[bytes, bytes]:
        if self._rng.random() < 0.2:
            key = self._mutated(key)
        return key, value if self._rng.random() < 0.3 else self._mutated(value)

    def _mutated(self, value: bytes) -> bytes:
        raw = bytearray(value)
        if not raw:
            return b"\0"
        match self._rng.randrange(6):
            case 0:
                at = self._rng.randrange(len(raw))
                raw[at] ^= 1 << self._rng.randrange(8)
            case 1 | 2:
                # Most numbers stand at the front.
                words = len(raw) // 8
                at = 8 * min(self._rng.randrange(words + 1), self._rng.randrange(words + 1))
                raw[at : at + 8] = self._rng.choice(INTERESTING)
            case 3:
                del raw[self._rng.randrange(len(raw)) :]
            case 4:
                raw += raw[-self._rng.choice((1, 8, 24, 56)) :]
            case _:
                at = self._rng.randrange(len(raw))
                raw[at : at + 8] = self._rng.randbytes(len(raw[at : at + 8]))
        return bytes(raw)
