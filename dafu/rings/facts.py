"""What is known of a user, told several times and in any order, as one statement. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from dafu.rings.records import Facts


def merge_facts(known: Facts, told: Facts) -> Facts:
    """Both together, in whatever order and however often they are told.

    The later one holds. Of two that are of one time, such as a payment's and its block's, each
    field is the larger (of `since`, the smaller); `blocked_at` and `reviewed_at` are always the
    later.

    Examples
    --------
    >>> merge_facts(Facts(5, 1, 2, 30.0, 0, 4), Facts(7, 1, 3, 40.0))
    Facts(as_of=7, since=1, transactions=3, amount=40.0, frauds=0, blocked_at=4, reviewed_at=0)
    """
    blocked_at = max(known.blocked_at, told.blocked_at)
    reviewed_at = max(known.reviewed_at, told.reviewed_at)
    if told.as_of != known.as_of:
        later = told if told.as_of > known.as_of else known
        if (later.blocked_at, later.reviewed_at) == (blocked_at, reviewed_at):
            return later
        return replace(later, blocked_at=blocked_at, reviewed_at=reviewed_at)
    if told == known:
        return known
    return Facts(
        known.as_of,
        min(known.since, told.since),
        max(known.transactions, told.transactions),
        max(known.amount, told.amount),
        max(known.frauds, told.frauds),
        blocked_at,
        reviewed_at,
    )
