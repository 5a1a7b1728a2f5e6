"""What is known of groups of users by whoever made them up or looked into them: for evaluation.

A ring is worked by fraudsters; a look-alike shares as much and is harmless: a family, an office,
the customers of a carrier. Knows nothing of how rings are found.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from dafu.errors import DafuError

CAMPAIGN: Final = "card_testing"
"""The kind of groups whose members have been tried out by machines, and are told of as bursts at
the merchant."""


class TruthError(DafuError):
    """What is no truth about groups; the message says why."""


class KnownGroup(Struct, frozen=True, omit_defaults=True):
    """A ring (`fraud`) or a look-alike, and what it did. Times are epoch milliseconds.

    `members` and `transactions` are those that have to do with the group: a ring member's own
    purchases from before are not counted. `reached` is the transaction with which three members
    were first tied together by what they share, None if that never happens; `reached_at` is its
    time. `times` are those of a ring's transactions in order; look-alikes have none.
    """

    group_id: str
    kind: str
    fraud: bool
    members: list[str]
    transactions: int
    frauds: int
    first_seen: int
    last_seen: int
    reached: str | None = None
    reached_at: int | None = None
    times: list[int] = []

    @property
    def is_ring(self) -> bool:
        """Whether it is a ring of accounts: fraud, and no campaign of card testing."""
        return self.fraud and self.kind != CAMPAIGN


class Truth(Struct, frozen=True):
    """All groups of a simulation or of a data set, and from how many members on they count."""

    min_size: int
    groups: list[KnownGroup]


encode_truth = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Truth).decode


def decode_truth(content: bytes, name: str) -> Truth:
    """The truth from JSON.

    Raises
    ------
    TruthError
        If it is something else; the message begins with `name`.
    """
    try:
        return _decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise TruthError(
            f"{name}: not what `dafu generate --truth` writes about groups: {exc}"
        ) from exc
