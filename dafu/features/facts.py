"""What is known of a user when it is no transaction that comes, but news of one in a ring."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from dafu.features.labels import count_known_frauds
from dafu.features.state import N_WINDOWS, NEVER, WINDOW_MS
from dafu.features.windows import MOMENTS, add_archived
from dafu.kernel import kernel

FACTS: Final = np.dtype(
    [
        ("as_of", "i8"),  # 0 where nothing is told
        ("since", "i8"),
        ("transactions", "i8"),
        ("amount", "f8"),
        ("frauds", "i8"),
    ]
)
"""What is known of a user when it is no transaction that comes; see `dafu.rings.records.Facts`."""

_LONGEST: Final = int(WINDOW_MS[-1])


@kernel
def tell_facts(
    head: Any,
    events: Any,
    origin: int,
    archives: Any,
    archive_of: int,
    labels: Any,
    labels_of: int,
    facts: Any,
) -> None:
    """Tell what is known of a user as of the latest transaction seen; nothing if there is none."""
    time = head.last_time
    if time == NEVER:
        return
    facts.as_of = time
    facts.since = head.first_time
    for i in range(origin + head.first_event, origin + head.next_event):
        if 0 <= time - events[i].time < _LONGEST:
            facts.transactions += 1
            facts.amount += events[i].amount
    if head.archived == 1 and head.evicted_until > time - _LONGEST:
        moments = np.zeros((N_WINDOWS, MOMENTS), np.float64)
        add_archived(archives[archive_of], N_WINDOWS - 1, time, 0.0, moments)
        facts.transactions += int(moments[N_WINDOWS - 1, 0])
        facts.amount += moments[N_WINDOWS - 1, 1]
    if labels_of >= 0:
        facts.frauds = count_known_frauds(labels[labels_of], time)
