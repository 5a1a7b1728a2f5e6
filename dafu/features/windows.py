"""What users and merchants share: eviction, archived buckets, distinct counts, medians.

Compiled helpers on the arrays of `dafu.features.state`. Sums are taken in order of arrival, which
makes a figure independent of how the stream was cut into batches, and where a variance is wanted,
relative to the current amount, which keeps it accurate.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from dafu.features.state import (
    BUCKET_MS,
    BUCKETS,
    N_WINDOWS,
    NEVER,
    RETAINED_MAX,
    RETAINED_MIN,
    RETENTION,
    WINDOW_MS,
)
from dafu.kernel import kernel

MOMENTS: Final = 3
"""Columns of a window's moments: count, sum of (x - a), sum of (x - a)^2, with a the current amount
for users and 0 for merchants."""

TABLE_SIZE: Final = 512
"""Slots of a scratch hash table, a power of two; at most RETAINED_MAX + 1 are ever used."""

EMPTY: Final = 255
"""In place of the window of a slot that holds no value."""

SEEN: Final = np.dtype(
    [
        ("value", "u8", (TABLE_SIZE,)),
        ("window", "u1", (TABLE_SIZE,)),  # the shortest window that the value was seen in, or EMPTY
        ("youngest", "i8", (N_WINDOWS + 1,)),
    ]
)
"""Distinct values, by an open-addressing hash table; `youngest[k]` counts those whose youngest
sight falls into window k and no shorter one. One record, not arrays: handing an array to another
kernel costs two atomic operations, which is more than looking up a value."""


@kernel
def forget_expired(head: Any, events: Any, origin: int, chunk: int) -> None:
    """Move `first_event` past whole chunks that are older than the retention.

    The event numbered s stands at `events[origin + s]`.
    """
    while head.first_event + chunk <= head.next_event:
        first = origin + head.first_event
        latest = events[first].time
        for i in range(first + 1, first + chunk):
            latest = max(latest, events[i].time)
        if latest > head.last_time - RETENTION:
            return
        head.evicted_until = max(head.evicted_until, latest)
        head.first_event += chunk


@kernel
def last_time(head: Any, events: Any, low: int, high: int, time: int) -> int:
    """Latest time seen that is not after `time`, NEVER if there is none."""
    if head.last_time <= time:
        return int(head.last_time)
    last = head.evicted_until if head.evicted_until <= time else NEVER
    for i in range(low, high):
        if events[i].time <= time:
            last = max(last, events[i].time)
    return int(last)


@kernel
def add_to_buckets(archive: Any, time: int, amount: float) -> None:
    """Count an evicted event in the bucket it belongs to, for every window."""
    for k in range(N_WINDOWS):
        index = time // BUCKET_MS[k]
        slot = index % (BUCKETS + 1)
        held = archive.bucket[k, slot]
        if index < held:
            continue
        if index > held:
            archive.bucket[k, slot] = index
            archive.count[k, slot] = 0.0
            archive.sum[k, slot] = 0.0
            archive.squares[k, slot] = 0.0
        archive.count[k, slot] += 1.0
        archive.sum[k, slot] += amount
        archive.squares[k, slot] += amount * amount


@kernel
def must_evict(head: Any) -> bool:
    """Whether the entity holds as many events as it may."""
    return bool(head.next_event - head.first_event >= RETAINED_MAX)


@kernel
def eviction_end(head: Any) -> int:
    """Sequence number of the first event that an eviction leaves."""
    return int(head.first_event + (RETAINED_MAX - RETAINED_MIN))


@kernel
def window_of(age: int) -> int:
    """Number of the shortest window that still holds an event of this age, N_WINDOWS if none."""
    k = N_WINDOWS
    while k > 0 and age < WINDOW_MS[k - 1]:  # longest first: most events are old
        k -= 1
    return k


@kernel
def add_archived(archive: Any, k: int, time: int, amount: float, moments: np.ndarray) -> None:
    """Add to window k's moments what the archive holds of (time - w, time].

    The bucket that straddles the window's far edge counts whole: the window reaches back up to
    1/48 of its length too far.
    """
    oldest = (time - WINDOW_MS[k]) // BUCKET_MS[k]
    newest = time // BUCKET_MS[k]
    for slot in range(BUCKETS + 1):
        index = archive.bucket[k, slot]
        if oldest <= index <= newest:
            n = archive.count[k, slot]
            moments[k, 0] += n
            moments[k, 1] += archive.sum[k, slot] - n * amount
            moments[k, 2] += (
                archive.squares[k, slot] - 2.0 * amount * archive.sum[k, slot] + n * amount * amount
            )


@kernel
def linear_count(empty: int, slots: int) -> float:
    """Estimate of the distinct values that left `empty` of `slots` hash slots unused."""
    return -slots * math.log(max(empty, 0.5) / slots)


@kernel
def forget_seen(seen: Any) -> None:
    """Empty a `SEEN`."""
    seen.window[:] = EMPTY
    seen.youngest[:] = 0


@kernel
def slot_of(value: int, seen: Any) -> np.uint64:
    """The slot that holds a value, or else the one where it belongs."""
    mask = np.uint64(TABLE_SIZE - 1)
    slot = np.uint64(value) & mask
    while seen.window[slot] != EMPTY and seen.value[slot] != value:
        slot = (slot + np.uint64(1)) & mask
    return slot


@kernel
def count_distinct(value: int, k: int, seen: Any) -> None:
    """Note a value seen in window k."""
    slot = slot_of(value, seen)
    held = seen.window[slot]
    if held == EMPTY:
        seen.value[slot] = value
    elif k < held:
        seen.youngest[held] -= 1
    else:
        return
    seen.window[slot] = k
    seen.youngest[np.uint64(k)] += 1


@kernel
def median(values: np.ndarray, n: int) -> float:
    """Median of the first n >= 1 values, which are reordered."""
    upper = _select(values, n, n // 2)
    if n % 2 == 1:
        return upper
    lower = values[0]
    for i in range(1, n // 2):
        lower = max(lower, values[i])
    return float((lower + upper) / 2.0)


@kernel
def _select(values: np.ndarray, n: int, k: int) -> float:
    """The k-th smallest of n values (quickselect); those before position k are not larger then.

    Partitions without branches (Lomuto's way): which side a value goes to can not be predicted.
    What is no number, as in damaged state, counts as equal to any, so that this comes to an end.
    """
    low, high = 0, n
    while True:
        pivot = values[(low + high) // 2]
        smaller = low
        for i in range(low, high):
            value = values[i]
            values[i] = values[smaller]
            values[smaller] = value
            smaller += value < pivot
        if k < smaller:
            high = smaller
            continue
        equal = smaller
        for i in range(smaller, high):
            value = values[i]
            values[i] = values[equal]
            values[equal] = value
            larger = value > pivot
            equal += not larger
        if k < equal:
            return float(pivot)
        low = equal
