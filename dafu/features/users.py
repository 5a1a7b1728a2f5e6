"""Stage one's kernel: step each user's state through a batch and write the user features.

A pure function of (state, transactions): the same transactions in the same order give the same
features and the same state, bit for bit, however they are cut into batches.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from dafu.features.amounts import earlier_amount_features, high_amount_features
from dafu.features.catalogue import DAY, HOUR, USER_FEATURES, USER_INDEX
from dafu.features.facts import tell_facts
from dafu.features.geo import direction, haversine_km, unit_vector
from dafu.features.labels import (
    N_DELAYED,
    add_archived_delayed,
    archive_delayed,
    awaited,
    delayed_window_of,
    enter_label,
    write_label_features,
)
from dafu.features.state import (
    APPLIED,
    CONFLICT,
    DISTINCT_WINDOW_NUMBERS,
    DUPLICATE,
    ENROLLED,
    FENCED,
    FRAUD_LABEL,
    GENUINE_LABEL,
    HORIZON,
    LABELLED,
    N_WINDOWS,
    NEVER,
    PAYMENT,
    RETAINED_MAX,
    RING_MEMBERSHIP,
    USER_EVENT,
    USER_SLOTS,
    USERS,
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

USER_INPUT: Final = np.dtype(
    [
        ("user", "i8"),  # number of the user in this batch
        ("offset", "i8"),
        ("kind", "i8"),  # PAYMENT, RING_MEMBERSHIP, or what the label says
        ("observed", "i8"),  # of a label: when it came to be known
        *[(name, USER_EVENT[name].str) for name in USER_EVENT.names or ()],
        ("lat", "f8"),
        ("long", "f8"),
        ("merchant_lat", "f8"),
        ("merchant_long", "f8"),
    ]
)
"""What comes, as the kernel reads it; missing coordinates are NaN, missing hashes 0.

Of a label `time`, `amount`, `merchant` and `route` are those of the transaction that it is about as
far as it says so itself: NEVER, NaN, 0 and -1 where not."""

_CHUNK: Final = USERS.chunk
_N_FEATURES: Final = len(USER_FEATURES)
_LONGEST: Final = int(WINDOW_MS[-1])
_THINGS: Final = 4
_N_DISTINCT: Final = len(DISTINCT_WINDOW_NUMBERS)

_AMOUNT: Final = USER_INDEX["amount"]
_WINDOWED: Final = USER_INDEX["user_count_1m"]  # count, sum, mean, std; window after window
_MAX: Final = USER_INDEX["user_amount_max_30d"]
_DISTINCT: Final = USER_INDEX["user_merchants_1h"]  # merchants, devices, ips, countries
_NEW_MERCHANT: Final = USER_INDEX["new_merchant"]
_NEW_DEVICE: Final = USER_INDEX["new_device"]
_NEW_COUNTRY: Final = USER_INDEX["new_country"]
_NEW_IP: Final = USER_INDEX["new_ip"]
_SINCE_LAST: Final = USER_INDEX["seconds_since_last"]
_KM_SINCE_LAST: Final = USER_INDEX["km_since_last"]
_SPEED: Final = USER_INDEX["speed_kmh"]
_FROM_HOME: Final = USER_INDEX["km_from_home"]
_TO_MERCHANT: Final = USER_INDEX["km_to_merchant"]
_HOUR: Final = USER_INDEX["hour"]
_NIGHT: Final = USER_INDEX["is_night"]
_WEEKEND: Final = USER_INDEX["is_weekend"]
_AGE: Final = USER_INDEX["account_age_days"]
_TOTAL: Final = USER_INDEX["user_total_count"]
_APPROXIMATE: Final = USER_INDEX["user_windows_approximate"]
_LABELS: Final = USER_INDEX["user_delayed_count_1d"]  # where the label features begin
_RING: Final = USER_INDEX["ring_size"]  # where the features of rings begin
_RING_END: Final = USER_INDEX["days_since_ring_joined"]


@kernel
def _evict(head: Any, events: Any, origin: int, archive: Any) -> None:
    """Move the oldest events into the archive."""
    end = eviction_end(head)
    for number in range(head.first_event, end):
        event = events[origin + number]
        head.evicted_until = max(head.evicted_until, event.time)
        add_to_buckets(archive, event.time, event.amount)
        archive_delayed(archive, event.time)
        values = (event.merchant, event.device, event.ip, event.country)
        for a in range(_THINGS):
            if values[a] != 0:
                slot = values[a] % np.uint64(USER_SLOTS)
                archive.last_seen[a, slot] = max(archive.last_seen[a, slot], event.time)
    archive.through = end
    head.first_event = end
    head.archived = 1


@kernel
def _distinct_beyond(
    archive: Any,
    events: Any,
    low: int,
    high: int,
    time: int,
    evicted_until: int,
    slot_age: np.ndarray,
    out: np.ndarray,
) -> None:
    """Estimate the distinct counts of the windows that reach into the archive.

    `out[a, j]` comes in exact over the retained events and is raised where the estimate says more.
    """
    for a in range(_THINGS):
        for s in range(USER_SLOTS):
            seen = archive.last_seen[a, s]
            slot_age[s] = time - seen if seen <= time else _LONGEST
        for i in range(low, high):
            event = events[i]
            if event.time > time:
                continue
            value = event.merchant
            if a == 1:
                value = event.device
            elif a == 2:
                value = event.ip
            elif a == 3:
                value = event.country
            if value != 0:
                slot = value % np.uint64(USER_SLOTS)
                slot_age[slot] = min(slot_age[slot], time - event.time)
        for j in range(_N_DISTINCT):
            length = WINDOW_MS[DISTINCT_WINDOW_NUMBERS[j]]
            if evicted_until <= time - length:
                continue
            empty = 0
            for s in range(USER_SLOTS):
                if slot_age[s] >= length:
                    empty += 1
            out[a, j] = max(out[a, j], linear_count(empty, USER_SLOTS))


@kernel
def _place_features(head: Any, tx: Any, row: np.ndarray) -> None:
    lat, long = tx.lat, tx.long
    if math.isnan(lat) or math.isnan(long):
        lat, long = tx.merchant_lat, tx.merchant_long
    else:
        row[_TO_MERCHANT] = haversine_km(lat, long, tx.merchant_lat, tx.merchant_long)
    if math.isnan(lat) or math.isnan(long):
        return
    if head.places > 0:
        home_lat, home_long = direction(head.home_x, head.home_y, head.home_z)
        row[_FROM_HOME] = haversine_km(lat, long, home_lat, home_long)
        km = haversine_km(lat, long, head.place_lat, head.place_long)
        row[_KM_SINCE_LAST] = km
        row[_SPEED] = km / (max(abs(tx.time - head.place_time), 1000) / HOUR)
    x, y, z = unit_vector(lat, long)
    head.home_x += x
    head.home_y += y
    head.home_z += z
    head.places += 1
    head.place_lat = lat
    head.place_long = long
    head.place_time = tx.time


@kernel
def _time_features(head: Any, events: Any, low: int, high: int, tx: Any, row: np.ndarray) -> None:
    time = tx.time
    hour = (time % DAY) // HOUR
    row[_HOUR] = hour
    row[_NIGHT] = 1.0 if hour < 7 else 0.0
    row[_WEEKEND] = 1.0 if (time // DAY + 3) % 7 >= 5 else 0.0  # 1970-01-01 was a Thursday
    last = last_time(head, events, low, high, time)
    if last != NEVER:
        row[_SINCE_LAST] = (time - last) / 1000.0
    row[_AGE] = max(time - head.first_time, 0) / DAY if head.first_time != NEVER else 0.0
    row[_TOTAL] = head.total_count + 1


@kernel
def _known(head: Any, events: Any, origin: int, tx: Any) -> int:
    """APPLIED if the transaction is new, else how it repeats a retained one."""
    if tx.offset <= head.fence:
        return FENCED
    for i in range(origin + head.first_event, origin + head.next_event):
        if events[i].transaction == tx.transaction:
            event = events[i]
            same = (
                event.time == tx.time
                and event.amount == tx.amount
                and event.merchant == tx.merchant
            )
            return DUPLICATE if same else CONFLICT
    return APPLIED


@kernel
def _apply_label(head: Any, events: Any, origin: int, labels: Any, label: Any, entry: Any) -> None:
    """Note a label; what is new, of a transaction whose merchant is known, goes to `entry`."""
    time, amount = label.time, label.amount
    merchant, route = label.merchant, label.route
    for i in range(origin + head.first_event, origin + head.next_event):
        if events[i].transaction == label.transaction:
            time, amount = events[i].time, events[i].amount
            merchant, route = events[i].merchant, events[i].route
    new = enter_label(labels, label.transaction, label.kind, label.observed, time, amount)
    if new and time != NEVER and route >= 0:
        entry.kind = label.kind
        entry.transaction = label.transaction
        entry.time = time
        entry.amount = amount
        entry.merchant = merchant
        entry.route = route
        entry.observed = label.observed


@kernel
def _meet_label(labels: Any, tx: Any, entry: Any) -> None:
    """Give a label that came before its transaction to `entry`, if there is one."""
    k = awaited(labels, tx.transaction)
    if k < 0:
        return
    labels.time[k] = tx.time
    labels.amount[k] = tx.amount
    entry.kind = FRAUD_LABEL if labels.fraud[k] == 1 else GENUINE_LABEL
    entry.transaction = tx.transaction
    entry.time = tx.time
    entry.amount = tx.amount
    entry.merchant = tx.merchant
    entry.route = tx.route
    entry.observed = labels.observed[k]


@long_kernel
def step_users(
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
    entries: Any,
    facts: Any,
) -> None:
    """Apply transactions and labels to their users' states, in order, and write features.

    What a membership in a ring changes is the business of `dafu.features.rings`, and so are the
    features of those who are in one: here they are written as for a user without a ring.

    Parameters
    ----------
    heads : USER_HEAD[users]
        Changed in place.
    events : USER_EVENT[...]
        User u's event numbered s stands at `origins[u] + s`, with room for this batch's events.
    origins : int64[users]
    archives : USER_ARCHIVE[...]
        Changed in place; `archive_of[u]` is the row of user u or -1. A user who may exceed
        RETAINED_MAX events in this batch must have one.
    labels : USER_LABELS[...]
        Changed in place; `labels_of[u]` is the row of user u or -1. A user who gets a label in
        this batch must have one.
    transactions : USER_INPUT[n]
    features : float64[n, F]
        Written for transactions whose status is APPLIED; NaN is "missing".
    status : int8[n]
        APPLIED, FENCED, DUPLICATE, CONFLICT, LABELLED or ENROLLED.
    entries : ENTRY[n], zeros
        Filled in where a label, which may have waited for this transaction, is for the merchant.
    facts : FACTS[n], zeros
        Filled in for labels and memberships of users who are, or were, in a ring.
    """
    seen = np.zeros(_THINGS, SEEN)
    distinct = np.empty((_THINGS, _N_DISTINCT), np.float64)
    slot_age = np.empty(USER_SLOTS, np.int64)
    moments = np.empty((N_WINDOWS, MOMENTS), np.float64)
    sums = np.empty(N_WINDOWS, np.float64)
    earlier = np.empty(RETAINED_MAX, np.float64)
    delayed = np.empty(N_DELAYED + 1, np.float64)  # and those that are in none

    for n in range(len(transactions)):
        tx = transactions[n]
        head = heads[tx.user]
        origin = origins[tx.user]
        if tx.kind != PAYMENT:
            status[n] = FENCED
            if tx.offset > head.fence:
                if tx.kind == RING_MEMBERSHIP:
                    status[n] = ENROLLED
                    head.ringed = 1
                else:
                    status[n] = LABELLED
                    own = labels[labels_of[tx.user]]
                    _apply_label(head, events, origin, own, tx, entries[n])
                    head.labelled = 1
                if head.ringed == 1:
                    archive, known = archive_of[tx.user], labels_of[tx.user]
                    tell_facts(head, events, origin, archives, archive, labels, known, facts[n])
                head.fence = tx.offset
            continue
        status[n] = _known(head, events, origin, tx)
        if status[n] != APPLIED:
            head.fence = max(head.fence, tx.offset)
            continue
        forget_expired(head, events, origin, _CHUNK)
        if must_evict(head):
            _evict(head, events, origin, archives[archive_of[tx.user]])

        row = features[n]
        row[:] = np.nan
        row[_AMOUNT] = tx.amount
        low = origin + head.first_event
        high = origin + head.next_event
        _time_features(head, events, low, high, tx, row)
        _place_features(head, tx, row)

        merchants, devices, ips, countries = seen[0], seen[1], seen[2], seen[3]
        for a in range(_THINGS):
            forget_seen(seen[a])
        moments[:] = 0.0
        sums[:] = 0.0
        delayed[:] = 0.0
        n_earlier = 0
        largest = tx.amount
        seen_merchant = seen_device = seen_country = seen_ip = False
        # Most events have the device, IP and country of the one before: nothing new to count then.
        device = ip = country = np.uint64(0)
        k_before = N_WINDOWS
        for i in range(low, high):
            event = events[i]
            age = tx.time - event.time
            delayed[delayed_window_of(age)] += 1.0
            if age < 0 or age >= _LONGEST:
                continue
            k = window_of(age)
            d = event.amount - tx.amount
            moments[k, 0] += 1.0
            moments[k, 1] += d
            moments[k, 2] += d * d
            sums[k] += event.amount
            earlier[n_earlier] = event.amount
            n_earlier += 1
            largest = max(largest, event.amount)
            count_distinct(event.merchant, k, merchants)
            seen_merchant |= event.merchant == tx.merchant
            nearer = k < k_before
            k_before = k
            if event.device != 0 and (nearer or event.device != device):
                count_distinct(event.device, k, devices)
                seen_device |= event.device == tx.device
            if event.ip != 0 and (nearer or event.ip != ip):
                count_distinct(event.ip, k, ips)
                seen_ip |= event.ip == tx.ip
            if event.country != 0 and (nearer or event.country != country):
                count_distinct(event.country, k, countries)
                seen_country |= event.country == tx.country
            device, ip, country = event.device, event.ip, event.country
        moments[0, 0] += 1.0
        sums[0] += tx.amount
        count_distinct(tx.merchant, 0, merchants)
        row[_NEW_MERCHANT] = 0.0 if seen_merchant else 1.0
        if tx.device != 0:
            count_distinct(tx.device, 0, devices)
            row[_NEW_DEVICE] = 0.0 if seen_device else 1.0
        if tx.ip != 0:
            count_distinct(tx.ip, 0, ips)
            row[_NEW_IP] = 0.0 if seen_ip else 1.0
        if tx.country != 0:
            count_distinct(tx.country, 0, countries)
            row[_NEW_COUNTRY] = 0.0 if seen_country else 1.0
        for k in range(1, N_WINDOWS):
            moments[k, 0] += moments[k - 1, 0]
            moments[k, 1] += moments[k - 1, 1]
            moments[k, 2] += moments[k - 1, 2]
            sums[k] += sums[k - 1]

        if n_earlier > 0:
            earlier_amount_features(earlier, n_earlier, tx.amount, row)
            high_amount_features(events, low, high, tx.time, row)
        row[_MAX] = largest
        for a in range(_THINGS):
            running = 0
            k = 0
            for j in range(_N_DISTINCT):
                while k <= DISTINCT_WINDOW_NUMBERS[j]:
                    running += seen[a].youngest[k]
                    k += 1
                distinct[a, j] = running

        for j in range(1, N_DELAYED):
            delayed[j] += delayed[j - 1]
        row[_APPROXIMATE] = 0.0
        if head.evicted_until > tx.time - HORIZON:
            row[_APPROXIMATE] = 1.0
            if head.archived == 1:
                archive = archives[archive_of[tx.user]]
                add_archived_delayed(archive, tx.time, delayed)
                for k in range(N_WINDOWS):
                    if head.evicted_until > tx.time - WINDOW_MS[k]:
                        add_archived(archive, k, tx.time, tx.amount, moments)
                        sums[k] = moments[k, 1] + moments[k, 0] * tx.amount
                _distinct_beyond(
                    archive, events, low, high, tx.time, head.evicted_until, slot_age, distinct
                )

        if not write_label_features(labels, labels_of[tx.user], delayed, tx.time, row, _LABELS):
            row[_APPROXIMATE] = 1.0
        row[_RING:_RING_END] = 0.0
        if head.labelled == 1:
            _meet_label(labels[labels_of[tx.user]], tx, entries[n])
        for k in range(N_WINDOWS):
            count = moments[k, 0]
            mean_difference = moments[k, 1] / count
            at = _WINDOWED + 4 * k
            row[at] = count
            row[at + 1] = sums[k]
            row[at + 2] = tx.amount + mean_difference
            row[at + 3] = math.sqrt(
                max(moments[k, 2] / count - mean_difference * mean_difference, 0.0)
            )
        for a in range(_THINGS):
            for j in range(_N_DISTINCT):
                row[_DISTINCT + a * _N_DISTINCT + j] = distinct[a, j]

        event = events[high]
        event.transaction = tx.transaction
        event.time = tx.time
        event.amount = tx.amount
        event.merchant = tx.merchant
        event.device = tx.device
        event.ip = tx.ip
        event.country = tx.country
        event.route = tx.route
        head.next_event += 1
        head.total_count += 1
        head.first_time = tx.time if head.first_time == NEVER else min(head.first_time, tx.time)
        head.last_time = max(head.last_time, tx.time)
        head.fence = tx.offset
