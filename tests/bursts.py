"""Bursts at a merchant told naively: what `dafu.features.bursts` promises, from lists of payments.

Nothing here imports `dafu`. Every figure of a window is taken afresh from all payments before; what
is usual is a running mean by definition.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from msgspec import Struct

MINUTE, HOUR = 60_000, 3_600_000
DAY = 24 * HOUR
LENGTHS = (5 * MINUTE, HOUR, 6 * HOUR)
PATTERNS = {None: 0, "small": 1, "high": 2, "newcomers": 3}


class Paid(Struct, frozen=True):
    """A payment at the merchant."""

    time: int
    amount: float
    user: str


class Finding(Struct):
    """What is said of one payment."""

    score: float = 0.0
    users: int = 0
    pattern: str | None = None
    window: int = 0
    expected: float = 0.0
    count: int = 0
    amount: float = 0.0
    first: int = 0
    excess: float = 0.0
    beyond: float = 0.0
    alike: float = 0.0
    fresh: float = 0.0


class Episode(Struct):
    """A burst that is on."""

    since: int
    members: list[Paid]
    users: int
    score: float
    told: int = 1


class Told(Struct, frozen=True):
    """What there is to tell of an episode."""

    event: str
    since: int
    first: int
    last: int
    users: int
    count: int
    amount: float
    score: float
    number: int


class BurstOracle:
    """One merchant's payments, in order of arrival."""

    def __init__(self) -> None:
        self.seen: list[Paid] = []
        self.usual = 0
        self.mean = self.spread = self.small = self.high = 0.0
        self.peak = self.peak_at = self.hour = self.hour_at = 0
        self.episode: Episode | None = None

    def add(self, time: int, amount: float, user: str) -> tuple[Finding, Told | None]:
        """What is found of a payment, which is then one of those before."""
        tx = Paid(time, amount, user)
        latest = max((p.time for p in self.seen), default=-math.inf)
        busy = self._users(tx, HOUR)
        found = self._judge(tx, busy)
        told = self._follow(tx, found) if time > latest - HOUR else None
        if found.score < 0.35:
            self._learn(tx, busy)
        self.seen.append(tx)
        return found, told

    def pattern(self, amount: float) -> str | None:
        if self.mean > 0 and amount <= self.mean / 4:
            return "small"
        return "high" if self.mean > 0 and amount >= 3 * self.mean else None

    def _within(self, tx: Paid, length: int) -> list[Paid]:
        return [p for p in self.seen if tx.time - length < p.time <= tx.time] + [tx]

    def _users(self, tx: Paid, length: int) -> int:
        return len({p.user for p in self._within(tx, length)})

    def _judge(self, tx: Paid, busy: int) -> Finding:
        begun = min((p.time for p in self.seen), default=tx.time)
        age = tx.time - begun
        if self.usual < 20 or age < 2 * DAY or self._users(tx, DAY) < 8:
            return Finding()
        month = len(self._within(tx, 30 * DAY)) - len(self._within(tx, DAY))
        rate = month / (min(age, 30 * DAY) - DAY)
        findings = [Finding()]
        pattern = self.pattern(tx.amount)
        if pattern is not None:
            findings.append(self._by_amount(tx, pattern, rate))
        usual = max(5.0, 4 * rate * HOUR, 2.0 * self.peak)
        if age >= 35 * DAY and busy >= 40 and busy > usual:
            findings.append(self._newcomers(tx, usual))
        return max(findings, key=lambda f: f.score)

    def _by_amount(self, tx: Paid, pattern: str, rate: float) -> Finding:
        share = (self.small if pattern == "small" else self.high) + 1 / min(self.usual, 256)
        best: tuple[float, int, float, list[Paid]] | None = None
        for length in LENGTHS:
            inside = self._within(tx, length)
            members = [p for p in inside if self.pattern(p.amount) == pattern]
            others = len(inside) - len(members)
            expected = max(1.0, share * max(4 * rate * length, others))
            users = len({p.user for p in members})
            ratio = users / expected
            if users >= 8 and ratio > 1 and (best is None or ratio > best[0]):
                best = ratio, length, expected, members
        if best is None:
            return Finding()
        _, length, expected, members = best
        found = self._figures(tx, members, length, expected)
        mean = found.amount / found.count
        limit = self.mean / 4 if pattern == "small" else 3 * self.mean
        found.beyond = 1 - mean / limit if pattern == "small" else 1 - limit / mean
        found.alike = _alike(members, 0.5)
        found.pattern = pattern
        weight = 0.4 + 0.3 * found.beyond + 0.3 * found.alike
        found.score = found.excess * weight * (0.25 + 0.75 * found.fresh)
        return found

    def _newcomers(self, tx: Paid, usual: float) -> Finding:
        members = self._within(tx, HOUR)
        found = self._figures(tx, members, HOUR, usual)
        new = round(found.fresh * found.users)
        if new < 40:
            return Finding()
        found.users = new
        found.excess = _excess(new / usual)
        found.alike = _alike(members, self.spread / self.mean if self.mean else 0.0)
        found.pattern = "newcomers"
        found.score = found.excess * found.fresh * (0.55 + 0.45 * found.alike)
        return found

    def _figures(self, tx: Paid, members: Sequence[Paid], length: int, expected: float) -> Finding:
        users = {p.user for p in members}
        before = {
            p.user for p in self.seen if length <= tx.time - p.time < 30 * DAY and p.user in users
        }
        return Finding(
            users=len(users),
            window=length,
            expected=expected,
            count=len(members),
            amount=math.fsum(p.amount for p in members),
            first=min(p.time for p in members),
            excess=_excess(len(users) / expected),
            fresh=1 - len(before) / len(users),
        )

    def _follow(self, tx: Paid, found: Finding) -> Told | None:
        on = self.episode
        if on is None:
            if found.score < 0.5:
                return None
            # Those of the window, of which only figures are kept.
            self.episode = Episode(tx.time, [tx], found.users, found.score)
            self._before = found.count - 1, found.amount - tx.amount, found.first
            self.hour = 0
            return self._tell("opened")
        if tx.time - max(p.time for p in on.members) >= 6 * HOUR:
            on.told += 1
            told = self._tell("closed")
            self.episode = None
            return told
        if found.score < 0.35:
            return None
        began = self._before[2]
        known = any(
            p.user == tx.user
            and p.time >= began
            and (found.pattern == "newcomers" or self.pattern(p.amount) == found.pattern)
            for p in self.seen
        )
        on.members.append(tx)
        on.score = max(on.score, found.score)
        if known:
            return None
        on.users += 1
        if not math.log2(on.users).is_integer():
            return None
        on.told += 1
        return self._tell("grown")

    def _tell(self, event: str) -> Told:
        on = self.episode
        assert on is not None
        count, amount, first = self._before
        return Told(
            event=event,
            since=on.since,
            first=first,
            last=max(p.time for p in on.members),
            users=on.users,
            count=count + len(on.members),
            amount=amount + math.fsum(p.amount for p in on.members),
            score=on.score,
            number=on.told,
        )

    def _learn(self, tx: Paid, busy: int) -> None:
        pattern = self.pattern(tx.amount)
        cut = 10 * self.mean if self.usual and self.mean > 0 else math.inf
        amount = min(tx.amount, cut)
        self.usual += 1
        weight = 1 / min(self.usual, 256)
        self.mean += weight * (amount - self.mean)
        self.spread += weight * (abs(amount - self.mean) - self.spread)
        self.small += weight * ((pattern == "small") - self.small)
        self.high += weight * ((pattern == "high") - self.high)
        if self.episode is not None or tx.time < self.hour_at:
            return
        if tx.time >= self.hour_at + 6 * HOUR:
            if self.hour >= self.peak / 2:
                self.peak, self.peak_at = max(self.peak, self.hour), self.hour_at
            elif tx.time >= self.peak_at + 35 * DAY:
                self.peak, self.peak_at = self.hour, self.hour_at
            self.hour, self.hour_at = 0, tx.time
        self.hour = max(self.hour, busy)


def _excess(ratio: float) -> float:
    return min((math.sqrt(max(ratio, 1.0)) - 1) / (math.sqrt(6) - 1), 1.0)


def _alike(members: Sequence[Paid], unlike: float) -> float:
    amounts = [p.amount for p in members]
    mean = statistics.fmean(amounts)
    variation = statistics.pstdev(amounts) / mean if mean else 0.0
    return max(1 - variation / unlike, 0.0) if unlike else 0.0
