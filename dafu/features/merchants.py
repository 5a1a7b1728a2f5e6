"""Stage two's kernel: step each merchant's state through a batch and write the merchant features.

The counterpart of `dafu.features.users`, for transactions that arrive keyed by merchant. A pure
function of (state, transactions).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from dafu.features.bursts import follow, judge, learn
from dafu.features.catalogue import DAY, MERCHANT_INDEX, WINDOWS
from dafu.features.labels import (
    N_DELAYED,
    add_archived_delayed,
    archive_delayed,
    archived_until,
    delayed_window_of,
    enter_label,
    write_label_features,
)
from dafu.features.state import (
    APPLIED,
    FENCED,
    HORIZON,
    LABEL_DELAY,
    LABELLED,
    MERCHANT_SLOTS,
    MERCHANTS,
    N_WINDOWS,
    NEVER,
    PAYMENT,
    WINDOW_MS,
)
from dafu.features.windows import (
    MOMENTS,
    SEEN,
    add_archived,
    add_to_buckets,
    count_distinct,
    eviction_end,
    forget_expired,
    forget_seen,
    last_time,
    linear_count,
    must_evict,
    window_of,
)
from dafu.kernel import kernel, long_kernel

MERCHANT_INPUT: Final = np.dtype(
    [
        ("merchant", "i8"),  # number of the merchant in this batch
        ("offset", "i8"),  # in the merchant-keyed topic
        ("time", "i8"),
        ("amount", "f8"),
        ("user", "u8"),
        ("kind", "i8"),  # PAYMENT, or what the label says that this is instead
        ("label", "i8"),  # of a payment: what a label says that came before it, 0 for none
        ("transaction", "u8"),
        ("observed", "i8"),
    ]
)
"""One transaction or label as the kernel reads it; the last two fields are the label's."""

_CHUNK: Final = MERCHANTS.chunk
_LONGEST: Final = int(WINDOW_MS[-1])
_HOUR: Final = list(WINDOWS).index("1h")
_DAY: Final = list(WINDOWS).index("1d")
_MONTH: Final = list(WINDOWS).index("30d")
_WINDOWED: Final = MERCHANT_INDEX["merchant_count_1m"]  # count, mean, users; window after window
_TO_MEAN: Final = MERCHANT_INDEX["amount_to_merchant_mean_30d"]
_SINCE_LAST: Final = MERCHANT_INDEX["merchant_seconds_since_last"]
_AGE: Final = MERCHANT_INDEX["merchant_age_days"]
_APPROXIMATE: Final = MERCHANT_INDEX["merchant_windows_approximate"]
_STREAK: Final = MERCHANT_INDEX["merchant_fraud_streak"]
_SINCE_LABELLED: Final = MERCHANT_INDEX["merchant_days_since_labelled"]
_STREAK_DAYS: Final = MERCHANT_INDEX["merchant_fraud_streak_days"]
_BURST_USERS: Final = MERCHANT_INDEX["merchant_burst_users"]
_BURST_SCORE: Final = MERCHANT_INDEX["merchant_burst_score"]
_LABELS: Final = MERCHANT_INDEX["merchant_delayed_count_1d"]  # where the label features begin


@kernel
def _evict(head: Any, events: Any, origin: int, archive: Any) -> None:
    """Move the oldest events into the archive."""
    end = eviction_end(head)
    for number in range(head.first_event, end):
        event = events[origin + number]
        head.evicted_until = max(head.evicted_until, event.time)
        add_to_buckets(archive, event.time, event.amount)
        archive_delayed(archive, event.time)
        slot = event.user % np.uint64(MERCHANT_SLOTS)
        archive.last_seen[0, slot] = max(archive.last_seen[0, slot], event.time)
    archive.through = end
    head.first_event = end
    head.archived = 1


@kernel
def _users_beyond(
    archive: Any, events: Any, low: int, high: int, time: int, slot_age: np.ndarray
) -> None:
    """Fill the age at which each hash slot last saw a user, over archive and retained events."""
    for s in range(MERCHANT_SLOTS):
        seen = archive.last_seen[0, s]
        slot_age[s] = time - seen if seen <= time else _LONGEST
    for i in range(low, high):
        if events[i].time <= time:
            slot = events[i].user % np.uint64(MERCHANT_SLOTS)
            slot_age[slot] = min(slot_age[slot], time - events[i].time)


@kernel
def _is_fraud(own: Any, event: Any) -> bool:
    """Whether a label says of this event, which is told by its time and amount, that it was one."""
    for k in range(own.count):
        if own.fraud[k] == 1 and own.time[k] == event.time and own.amount[k] == event.amount:
            return True
    return False


@kernel
def _streak(
    labels: Any, row_of: int, events: Any, low: int, high: int, time: int, row: np.ndarray
) -> None:
    """Frauds that no genuine transaction has followed, as far as labels have had time to come."""
    row[_STREAK] = 0.0
    if row_of < 0:
        return
    own = labels[row_of]
    genuine = NEVER
    for i in range(high - 1, low - 1, -1):
        event = events[i]
        old = LABEL_DELAY <= time - event.time < HORIZON
        if old and event.time > genuine and not _is_fraud(own, event):
            genuine = event.time
    first = NEVER
    for k in range(own.count):
        old = LABEL_DELAY <= time - own.time[k] < HORIZON
        if own.fraud[k] == 1 and old and own.time[k] > genuine:
            row[_STREAK] += 1.0
            first = own.time[k] if first == NEVER else min(first, own.time[k])
    if first != NEVER:
        row[_STREAK_DAYS] = (time - first) / DAY


@long_kernel
def step_merchants(
    heads: Any,
    events: Any,
    origins: np.ndarray,
    archives: Any,
    archive_of: np.ndarray,
    labels: Any,
    labels_of: np.ndarray,
    transactions: Any,
    features: np.ndarray,
    status: np.ndarray,
    bursts: Any,
) -> None:
    """Apply transactions and labels to their merchants' states, in order, and write features.

    Parameters are those of `dafu.features.users.step_users` with the merchant dtypes; `features`
    is float64[n, F], `status` int8[n] is APPLIED, FENCED or LABELLED, and `bursts` BURST[n], zeros
    at first, says what there is to tell of bursts.
    """
    scratch = np.zeros(1, SEEN)
    slot_age = np.empty(MERCHANT_SLOTS, np.int64)
    moments = np.empty((N_WINDOWS, MOMENTS), np.float64)
    delayed = np.empty(N_DELAYED + 1, np.float64)  # and those that are in none

    for n in range(len(transactions)):
        tx = transactions[n]
        head = heads[tx.merchant]
        if tx.offset <= head.fence:
            status[n] = FENCED
            continue
        if tx.kind != PAYMENT:
            status[n] = LABELLED
            own = labels[labels_of[tx.merchant]]
            enter_label(own, tx.transaction, tx.kind, tx.observed, tx.time, tx.amount)
            head.labelled = 1
            head.fence = tx.offset
            continue
        status[n] = APPLIED
        origin = origins[tx.merchant]
        forget_expired(head, events, origin, _CHUNK)
        if must_evict(head):
            _evict(head, events, origin, archives[archive_of[tx.merchant]])

        row = features[n]
        row[:] = np.nan
        low = origin + head.first_event
        high = origin + head.next_event
        last = last_time(head, events, low, high, tx.time)
        if last != NEVER:
            row[_SINCE_LAST] = (tx.time - last) / 1000.0
        row[_AGE] = max(tx.time - head.first_time, 0) / DAY if head.first_time != NEVER else 0.0

        seen = scratch[0]
        forget_seen(seen)
        moments[:] = 0.0
        delayed[:] = 0.0
        # Since when labels have had the time to come, of what is evicted and what is retained.
        labelled = NEVER
        if tx.time - head.evicted_until >= LABEL_DELAY:
            labelled = head.evicted_until
        for i in range(low, high):
            age = tx.time - events[i].time
            delayed[delayed_window_of(age)] += 1.0
            if age >= LABEL_DELAY:
                labelled = max(labelled, events[i].time)
            if age < 0 or age >= _LONGEST:
                continue
            k = window_of(age)
            moments[k, 0] += 1.0
            moments[k, 1] += events[i].amount  # earlier ones only: their mean is wanted as well
            count_distinct(events[i].user, k, seen)
        moments[0, 0] += 1.0
        count_distinct(tx.user, 0, seen)
        for k in range(1, N_WINDOWS):
            moments[k, 0] += moments[k - 1, 0]
            moments[k, 1] += moments[k - 1, 1]
            seen.youngest[k] += seen.youngest[k - 1]

        for j in range(1, N_DELAYED):
            delayed[j] += delayed[j - 1]
        approximate = head.evicted_until > tx.time - HORIZON
        row[_APPROXIMATE] = 1.0 if approximate else 0.0
        beyond = approximate and head.archived == 1
        if beyond:
            archive = archives[archive_of[tx.merchant]]
            _users_beyond(archive, events, low, high, tx.time, slot_age)
            add_archived_delayed(archive, tx.time, delayed)
        for k in range(N_WINDOWS):
            users = float(seen.youngest[k])
            if beyond and head.evicted_until > tx.time - WINDOW_MS[k]:
                add_archived(archive, k, tx.time, 0.0, moments)
                empty = 0
                for s in range(MERCHANT_SLOTS):
                    if slot_age[s] >= WINDOW_MS[k]:
                        empty += 1
                users = max(users, linear_count(empty, MERCHANT_SLOTS))
            at = _WINDOWED + 3 * k
            row[at] = moments[k, 0]
            row[at + 1] = (moments[k, 1] + tx.amount) / moments[k, 0]
            row[at + 2] = users
        if not write_label_features(labels, labels_of[tx.merchant], delayed, tx.time, row, _LABELS):
            row[_APPROXIMATE] = 1.0
        if beyond:
            labelled = max(labelled, archived_until(archive, tx.time - LABEL_DELAY))
        if tx.time - labelled < HORIZON:
            row[_SINCE_LABELLED] = (tx.time - labelled) / DAY
        _streak(labels, labels_of[tx.merchant], events, low, high, tx.time, row)
        if tx.label != PAYMENT:
            own = labels[labels_of[tx.merchant]]
            enter_label(own, tx.transaction, tx.label, tx.observed, tx.time, tx.amount)
            head.labelled = 1
        earlier = moments[N_WINDOWS - 1, 0] - 1.0
        if earlier > 0.0:
            mean = moments[N_WINDOWS - 1, 1] / earlier
            if mean > 0.0:
                row[_TO_MEAN] = tx.amount / mean

        found = bursts[n]
        span = min(tx.time - head.first_time, WINDOW_MS[_MONTH]) - WINDOW_MS[_DAY]
        rate = (moments[_MONTH, 0] - moments[_DAY, 0]) / span if span > 0 else 0.0
        users_1h = row[_WINDOWED + 3 * _HOUR + 2]
        users_1d = seen.youngest[_DAY]
        judge(head, events, low, high, tx, rate, users_1h, users_1d, seen, found)
        row[_BURST_USERS] = found.users
        row[_BURST_SCORE] = found.score
        follow(head, events, low, high, tx, found)
        learn(head, tx, users_1h, found.score)

        event = events[high]
        event.time = tx.time
        event.amount = tx.amount
        event.user = tx.user
        head.next_event += 1
        head.total_count += 1
        head.first_time = tx.time if head.first_time == NEVER else min(head.first_time, tx.time)
        head.last_time = max(head.last_time, tx.time)
        head.fence = tx.offset
