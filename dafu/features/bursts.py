"""Bursts at a merchant: many users within minutes or hours whose payments are alike.

Cards are tried out at one shop: many users, small amounts. A merchant charges stolen cards, or
lends its till to accomplices: many users, high amounts that hardly differ. Either way payments of
one *pattern* come from more users at once than the merchant's own past explains. A transaction is
judged by its own pattern, so that who buys the usual beside a burst has no part in it:

* **small**: at most a quarter of the merchant's usual amount;
* **high**: at least three times that;
* **newcomers**: of a user who has not paid there before, whatever the amount.

What is usual is learned from the merchant's transactions outside of bursts (`learn`): means over
about the last `USUAL_COUNT` of them, with amounts cut at ten times the mean. It does not depend on
how much history is retained, and a burst does not teach the merchant that bursts are usual.

**Excess.** In each of `BURST_WINDOW_MS`, the users of the pattern are counted against how many
there might be: the pattern's usual share, times the larger of four times the usual rate of the
last 30 days (rush hours, Saturdays, salary day) and of the payments in the window that do not show
the pattern (a sale brings more of everything). A count of Poisson's has a square root of constant
spread (Anscombe, Biometrika 35, 1948), so the excess is measured by the root of their ratio: 0 for
as many as might be, 1 for `FULL_RATIO` times as many. The window with the largest ratio speaks.

**Score.** The excess times how telling the payments are: how far their mean is beyond the
pattern's limit, and how alike they are (coefficient of variation); and times a share of users who
are new there, because stolen cards seldom belong to customers, whereas they are who comes to a
sale. What keeps busy merchants quiet:

* *Rush hour, salary day*: amounts are distributed as always, so small and high ones keep their
  share, which both sides of the comparison contain.
* *A sale*: as above; if it makes small amounts common, customers of old are among the buyers, and
  amounts differ.
* *A subscription, everybody charged the same on the first*: the amount is the usual one. There is
  neither a small nor a high one among them. Nor are they newcomers in unusual numbers: those are
  measured against the merchant's busiest hour of the last `PEAK_MEMORY` (35 days, so that a month
  always is in it), and alike counts only as far as payments are more alike than usual.
* *A popular new shop*: before `MIN_AGE` and `MIN_USUAL` payments nothing is judged, and newcomers
  not before the busiest hour of a whole month is known.

What can not be told from a burst by these figures: a ticket sale at several times the usual
amounts, a busload at a quiet shop that lets in 40 strangers within an hour. Both make a review.

**Episodes** (`follow`). A burst opens with the first transaction of a score of `OPEN`, goes on with
those of `HOLD`, tells of itself whenever the number of its users reaches a power of two, and closes
with the merchant's first transaction `QUIET` after its last one. All of this is in event time; who
comes more than `TIMELY` late is judged, and neither opens nor prolongs anything.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from dafu.features.catalogue import DAY, HOUR, MINUTE
from dafu.features.windows import count_distinct, forget_seen, slot_of
from dafu.kernel import kernel

BURST_WINDOW_MS: Final = np.array([5 * MINUTE, HOUR, 6 * HOUR], dtype=np.int64)
N_BURST_WINDOWS: Final = len(BURST_WINDOW_MS)
_HOUR_WINDOW: Final = 1
_LONGEST: Final = int(BURST_WINDOW_MS[-1])
_KNOWN_FOR: Final = 30 * DAY

SMALL: Final = 1
HIGH: Final = 2
NEWCOMERS: Final = 3
"""Patterns; 0 for none."""

SMALL_SHARE: Final = 0.25
"""Of the usual amount: what is at most that is small."""
HIGH_RATIO: Final = 3.0
"""To the usual amount: what is at least that is high."""

MIN_USERS: Final = 8
"""Users of a pattern below which nothing is a burst."""
MIN_NEWCOMERS: Final = 40
"""Newcomers within an hour below which their number alone says nothing."""
MIN_USUAL: Final = 20
"""Transactions that what is usual must have been learned from."""
MIN_AGE: Final = 2 * DAY
USUAL_COUNT: Final = 256
PEAK_MEMORY: Final = 35 * DAY
PEAK_SPAN: Final = 6 * HOUR
"""Busy hours are noted span by span, so that a burst is not compared with its own beginning."""

RUSH: Final = 4.0
"""A busy hour's rate to that of the month."""
_CUT: Final = 10.0
_FULL_RATIO: Final = 6.0
_MIN_EXPECTED: Final = 1.0
_MIN_EXPECTED_NEWCOMERS: Final = 5.0
_PEAK_RATIO: Final = 2.0
_UNLIKE: Final = 0.5
"""Coefficient of variation from which small and high amounts are not alike at all."""

OPEN: Final = 0.5
HOLD: Final = 0.35
QUIET: Final = 6 * HOUR
TIMELY: Final = HOUR

OPENED: Final = 1
GROWN: Final = 2
CLOSED: Final = 3
"""What happened to a merchant's episode with a transaction; 0: nothing to tell."""

BURST: Final = np.dtype(
    [
        ("score", "f8"),  # 0..1; of this transaction, as all down to `fresh`
        ("users", "i8"),  # who show its pattern in the window, itself included
        ("pattern", "i8"),
        ("window", "i8"),  # its length
        ("expected", "f8"),  # users that might be there in a busy hour
        ("count", "i8"),  # their transactions
        ("amount", "f8"),  # and the sum of those
        ("first", "i8"),  # time of the first
        ("excess", "f8"),  # parts of the score, each 0..1
        ("beyond", "f8"),
        ("alike", "f8"),
        ("fresh", "f8"),
        ("event", "i8"),  # OPENED and so on
        ("since", "i8"),  # of the episode, as what follows: time of the transaction that opened it;
        # all 0 for a transaction that is none of its own and closes none
        ("episode_first", "i8"),  # time of its first transaction, which may be before that
        ("episode_last", "i8"),
        ("episode_users", "i8"),
        ("episode_count", "i8"),
        ("episode_amount", "f8"),
        ("episode_score", "f8"),  # the highest so far
        ("number", "i8"),  # of the events that the episode has told of, this one included
    ]
)
"""What the kernel says of one transaction; all zeros where there is nothing to say."""


@kernel
def pattern_of(head: Any, amount: float) -> int:
    """SMALL or HIGH by the merchant's usual amount, 0 for neither."""
    if head.usual_amount <= 0.0:
        return 0
    if amount <= SMALL_SHARE * head.usual_amount:
        return SMALL
    return HIGH if amount >= HIGH_RATIO * head.usual_amount else 0


@kernel
def judge(
    head: Any,
    events: Any,
    low: int,
    high: int,
    tx: Any,
    rate: float,
    users_1h: float,
    users_1d: float,
    seen: Any,
    found: Any,
) -> None:
    """Score a transaction by its patterns and write what was found to `found` (a fresh BURST).

    Parameters
    ----------
    head, events, low, high
        The merchant's, before the transaction; the retained events stand at low..high-1.
    tx : MERCHANT_INPUT
    rate : float
        Transactions a millisecond in the 30 days before the last one.
    users_1h, users_1d : float
        Distinct users at the merchant in these windows: fewer than it takes make a short answer.
    seen : SEEN
        Scratch.
    """
    old = head.usual_count >= MIN_USUAL and tx.time - head.first_time >= MIN_AGE
    if not old or users_1d < MIN_USERS:
        return
    pattern = pattern_of(head, tx.amount)
    if pattern != 0 and _enough(head, events, low, high, tx.time, pattern):
        _count(head, events, low, high, tx, rate, pattern, 0.0, seen, found)
    if users_1h < MIN_NEWCOMERS or tx.time - head.first_time < PEAK_MEMORY:
        return
    usual = max(_MIN_EXPECTED_NEWCOMERS, RUSH * rate * HOUR, _PEAK_RATIO * head.peak_users)
    if users_1h > usual:
        _count(head, events, low, high, tx, rate, NEWCOMERS, usual, seen, found)


@kernel
def _enough(head: Any, events: Any, low: int, high: int, time: int, pattern: int) -> bool:
    """Whether there may be `MIN_USERS` of a pattern: a quick look that spares most the long one."""
    least = HIGH_RATIO * head.usual_amount if pattern == HIGH else -np.inf
    most = SMALL_SHARE * head.usual_amount if pattern == SMALL else np.inf
    found = 1
    for i in range(low, high):
        event = events[i]
        if 0 <= time - event.time < _LONGEST and least <= event.amount <= most:
            found += 1
    return found >= MIN_USERS


@kernel
def _count(
    head: Any,
    events: Any,
    low: int,
    high: int,
    tx: Any,
    rate: float,
    pattern: int,
    usual: float,
    seen: Any,
    found: Any,
) -> None:
    """Count a pattern's users window by window; the telling window goes to `_weigh`."""
    forget_seen(seen)
    users = seen.youngest
    count = np.zeros(N_BURST_WINDOWS, np.int64)
    others = np.zeros(N_BURST_WINDOWS, np.int64)
    offsets = np.zeros(N_BURST_WINDOWS)
    squares = np.zeros(N_BURST_WINDOWS)
    first = np.full(N_BURST_WINDOWS, tx.time)
    count[0] = 1
    count_distinct(tx.user, 0, seen)
    for i in range(low, high):
        age = tx.time - events[i].time
        if age < 0 or age >= _LONGEST:
            continue
        k = 0
        while age >= BURST_WINDOW_MS[k]:
            k += 1
        if pattern != NEWCOMERS and pattern_of(head, events[i].amount) != pattern:
            others[k] += 1
            continue
        off = events[i].amount - tx.amount
        count[k] += 1
        offsets[k] += off
        squares[k] += off * off
        first[k] = min(first[k], events[i].time)
        count_distinct(events[i].user, k, seen)
    share = head.usual_small if pattern == SMALL else head.usual_high
    share += 1.0 / min(head.usual_count, USUAL_COUNT)
    best = -1
    best_ratio = 1.0
    best_expected = usual
    for k in range(N_BURST_WINDOWS):
        if k > 0:
            users[k] += users[k - 1]
            count[k] += count[k - 1]
            others[k] += others[k - 1]
            offsets[k] += offsets[k - 1]
            squares[k] += squares[k - 1]
            first[k] = min(first[k], first[k - 1])
        expected = usual
        if pattern == NEWCOMERS:
            if k != _HOUR_WINDOW:
                continue
        else:
            around = max(RUSH * rate * BURST_WINDOW_MS[k], float(others[k]))
            expected = max(_MIN_EXPECTED, share * around)
        ratio = users[k] / expected
        if users[k] >= MIN_USERS and ratio > best_ratio:
            best = k
            best_ratio = ratio
            best_expected = expected
    if best < 0:
        return
    n = count[best]
    off = offsets[best] / n
    mean = tx.amount + off
    spread = math.sqrt(max(squares[best] / n - off * off, 0.0))
    known = _known(events, low, high, tx.time, best, seen)
    _weigh(
        head, pattern, best, users[best], known, best_expected, mean, spread, n, first[best], found
    )


@kernel
def _known(events: Any, low: int, high: int, time: int, window: int, seen: Any) -> int:
    """How many of the users counted in a window had paid before it began; they are struck off."""
    known = 0
    for i in range(low, high):
        age = time - events[i].time
        if age < BURST_WINDOW_MS[window] or age >= _KNOWN_FOR:
            continue
        slot = slot_of(events[i].user, seen)
        if seen.window[slot] <= window:
            known += 1
            seen.window[slot] = N_BURST_WINDOWS
    return known


@kernel
def _weigh(
    head: Any,
    pattern: int,
    window: int,
    users: int,
    known: int,
    expected: float,
    mean: float,
    spread: float,
    count: int,
    first: int,
    found: Any,
) -> None:
    """The score of a pattern in a window, written to `found` if it is the highest so far."""
    fresh = (users - known) / users
    beyond = 0.0
    variation = spread / mean if mean > 0.0 else 0.0
    unlike = _UNLIKE
    if pattern == NEWCOMERS:
        if users - known < MIN_NEWCOMERS:
            return
        users -= known
        unlike = head.usual_spread / head.usual_amount if head.usual_amount > 0.0 else 0.0
    elif pattern == SMALL:
        beyond = 1.0 - mean / (SMALL_SHARE * head.usual_amount)
    else:
        beyond = 1.0 - HIGH_RATIO * head.usual_amount / mean
    ratio = max(users / expected, 1.0)
    excess = min((math.sqrt(ratio) - 1.0) / (math.sqrt(_FULL_RATIO) - 1.0), 1.0)
    alike = max(1.0 - variation / unlike, 0.0) if unlike > 0.0 else 0.0
    if pattern == NEWCOMERS:
        score = excess * fresh * (0.55 + 0.45 * alike)
    else:
        score = excess * (0.4 + 0.3 * beyond + 0.3 * alike) * (0.25 + 0.75 * fresh)
    if score <= found.score:
        return
    found.score = score
    found.users = users
    found.pattern = pattern
    found.window = BURST_WINDOW_MS[window]
    found.expected = expected
    found.count = count
    found.amount = mean * count
    found.first = first
    found.excess = excess
    found.beyond = beyond
    found.alike = alike
    found.fresh = fresh


@kernel
def follow(head: Any, events: Any, low: int, high: int, tx: Any, found: Any) -> None:
    """Open, carry on or close the merchant's episode, and note in `found` what there is to tell."""
    if tx.time <= head.last_time - TIMELY:
        return
    event = 0
    if head.burst_since != 0:
        if tx.time - head.burst_last >= QUIET:
            event = CLOSED
        elif found.score < HOLD:
            return
        else:
            head.burst_count += 1
            head.burst_amount += tx.amount
            head.burst_last = max(head.burst_last, tx.time)
            head.burst_score = max(head.burst_score, found.score)
            if _joins(head, events, low, high, tx, found.pattern):
                head.burst_users += 1
                if head.burst_users & (head.burst_users - 1) == 0:
                    event = GROWN
    elif found.score >= OPEN:
        event = OPENED
        head.burst_since = tx.time
        head.burst_first = found.first
        head.burst_last = tx.time
        head.burst_users = found.users
        head.burst_count = found.count
        head.burst_amount = found.amount
        head.burst_score = found.score
        head.burst_number = 0
        head.hour_users = 0  # the burst's own beginning is in it
    else:
        return
    if event != 0:
        head.burst_number += 1
    found.event = event
    found.since = head.burst_since
    found.episode_first = head.burst_first
    found.episode_last = head.burst_last
    found.episode_users = head.burst_users
    found.episode_count = head.burst_count
    found.episode_amount = head.burst_amount
    found.episode_score = head.burst_score
    found.number = head.burst_number
    if event == CLOSED:
        head.burst_since = 0
        head.burst_first = 0
        head.burst_last = 0
        head.burst_users = 0
        head.burst_count = 0
        head.burst_amount = 0.0
        head.burst_score = 0.0
        head.burst_number = 0


@kernel
def _joins(head: Any, events: Any, low: int, high: int, tx: Any, pattern: int) -> bool:
    """Whether the user is new to the episode, as far as its transactions are retained."""
    for i in range(high - 1, low - 1, -1):
        event = events[i]
        own = event.user == tx.user and event.time >= head.burst_first
        if own and (pattern == NEWCOMERS or pattern_of(head, event.amount) == pattern):
            return False
    return True


@kernel
def learn(head: Any, tx: Any, users_1h: float, score: float) -> None:
    """Learn what is usual from a transaction that belongs to no burst."""
    if score >= HOLD:
        return
    pattern = pattern_of(head, tx.amount)
    amount = tx.amount
    if head.usual_count > 0 and head.usual_amount > 0.0:
        amount = min(amount, _CUT * head.usual_amount)
    head.usual_count += 1
    weight = 1.0 / min(head.usual_count, USUAL_COUNT)
    head.usual_amount += weight * (amount - head.usual_amount)
    head.usual_spread += weight * (abs(amount - head.usual_amount) - head.usual_spread)
    head.usual_small += weight * ((1.0 if pattern == SMALL else 0.0) - head.usual_small)
    head.usual_high += weight * ((1.0 if pattern == HIGH else 0.0) - head.usual_high)
    if head.burst_since != 0 or tx.time < head.hour_time:
        return
    if tx.time - head.hour_time >= PEAK_SPAN:
        if 2 * head.hour_users >= head.peak_users:
            head.peak_time = head.hour_time
            head.peak_users = max(head.peak_users, head.hour_users)
        elif tx.time - head.peak_time >= PEAK_MEMORY:
            head.peak_time = head.hour_time
            head.peak_users = head.hour_users
        head.hour_time = tx.time
        head.hour_users = 0
    head.hour_users = max(head.hour_users, int(users_1h))
