"""A transaction that somebody wants decided, and what tells it from others."""

from __future__ import annotations

from msgspec import Struct

from dafu.schema import Transaction, parse_transaction

__all__ = ["Asked", "Content", "Key"]

Key = tuple[str, str]
"""User and transaction."""


class Content(Struct, frozen=True, gc=False):
    """What must be the same in a transaction that comes again: the users agent's criteria."""

    timestamp: int
    amount: float
    merchant_id: str


class Asked(Struct, frozen=True, gc=False):
    """A transaction to be decided.

    Attributes
    ----------
    raw : bytes
        As it came, and as it is published.
    transaction : Transaction
        The same, read.
    timestamp : int
        Its time in epoch milliseconds.
    """

    raw: bytes
    transaction: Transaction
    timestamp: int

    @classmethod
    def read(cls, raw: bytes) -> Asked:
        """Check a transaction as the users agent does.

        Raises
        ------
        InvalidRecordError
        """
        return cls(raw, *parse_transaction(raw))

    @property
    def key(self) -> Key:
        """What tells it from all others."""
        return self.transaction.user_id, self.transaction.transaction_id

    @property
    def content(self) -> Content:
        """What must not differ when it comes again."""
        return Content(self.timestamp, float(self.transaction.amount), self.transaction.merchant_id)
