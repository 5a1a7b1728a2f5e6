"""Which transactions a model is trained and which it is tested on: prequential folds.

The protocol of the Fraud Detection Handbook (Le Borgne, Siblini, Lebichot, Bontempi, "Reproducible
Machine Learning for Credit Card Fraud Detection", Universite Libre de Bruxelles, 2022, chapters 3
and 5): train on some days, let the delay pass in which labels become known, test on the days that
follow. A test day leaves out the cards that are known to be compromised by then, which a bank would
have blocked. Days are counted from the start of training. Times are epoch milliseconds.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.errors import DafuError
from dafu.features.catalogue import DAY

I64 = NDArray[np.int64]

_FRAUD: Final = 1


class ProtocolError(DafuError):
    """A fold that the data can not fill."""


class Fold(Struct, frozen=True):
    """Training from `train_start` (epoch milliseconds), then the delay, then the test; in days."""

    train_start: int
    train_days: int = 7
    delay_days: int = 7
    test_days: int = 7

    @property
    def train_end(self) -> int:
        """When training ends, exclusive."""
        return self.train_start + self.train_days * DAY

    @property
    def test_start(self) -> int:
        """When the test begins."""
        return self.train_end + self.delay_days * DAY

    @property
    def test_end(self) -> int:
        """When the test ends, exclusive."""
        return self.test_start + self.test_days * DAY

    def earlier(self, days: int) -> Fold:
        """The same fold so many days before."""
        return Fold(self.train_start - days * DAY, self.train_days, self.delay_days, self.test_days)

    def describe(self) -> str:
        """In words, with inclusive dates.

        >>> Fold(1_531_267_200_000).describe()
        'train 2018-07-11..2018-07-17, test 2018-07-25..2018-07-31'
        """
        train = f"{_date(self.train_start)}..{_date(self.train_end - 1)}"
        return f"train {train}, test {_date(self.test_start)}..{_date(self.test_end - 1)}"


class Split(NamedTuple):
    """Positions of a fold's transactions, ascending.

    Attributes
    ----------
    train, test : int64 [...]
    test_days : int64 [test]
        Day of the test, from 0, of each of `test`.
    left_out : int
        Transactions of the test's days whose cards were known to be compromised.
    """

    train: I64
    test: I64
    test_days: I64
    left_out: int


def prequential(latest: Fold, n: int) -> list[Fold]:
    """A fold and those before it, each earlier by the length of the test, latest first."""
    return [latest.earlier(k * latest.test_days) for k in range(n)]


def folds_before(fold: Fold, n: int) -> list[Fold]:
    """Folds to choose parameters on, latest first: all their labels are known when `fold` trains.

    The latest one ends its test where `fold` ends its training, as in the handbook.
    """
    shift = fold.delay_days + fold.test_days
    return prequential(fold.earlier(shift), n)


def split(fold: Fold, times: I64, users: I64, labels: NDArray[np.int8]) -> Split:
    """Tell the transactions of a fold.

    A test day leaves out the users with a fraud in the training days, or in the days after them
    up to `delay_days` + 1 before the test day: those whose labels are known when it begins.

    Parameters
    ----------
    times : int64 [n]
        Epoch milliseconds, in any order.
    users : int64 [n]
        Numbers of the cards or users, not negative.
    labels : int8 [n]
        1 fraud, 0 genuine, -1 unknown; what is unknown counts as no fraud here.

    Raises
    ------
    ProtocolError
        If no transaction is in the training, or in the test.
    """
    days = (times - fold.train_start) // DAY
    first_test = fold.train_days + fold.delay_days
    train = np.flatnonzero((days >= 0) & (days < fold.train_days))
    candidates = np.flatnonzero((days >= first_test) & (days < first_test + fold.test_days))
    for what, rows in (("training", train), ("test", candidates)):
        if not rows.size:
            span = (
                f"the file covers {_date(int(times.min()))}..{_date(int(times.max()))}"
                if len(times)
                else "the file has none at all"
            )
            raise ProtocolError(f"no transactions in the {what} of {fold.describe()}; {span}")
    # The day of each user's first known fraud, counted from the start of training.
    never = np.iinfo(np.int64).max
    compromised = np.full(int(users.max()) + 1, never)
    frauds = np.flatnonzero((labels == _FRAUD) & (days >= 0))
    np.minimum.at(compromised, users[frauds], days[frauds])
    first = compromised[users[candidates]]
    known_by = np.maximum(days[candidates] - fold.delay_days - 1, fold.train_days - 1)
    blocked = first <= known_by
    test = candidates[~blocked]
    if not test.size:
        raise ProtocolError(f"every card in the test of {fold.describe()} was compromised before")
    return Split(train, test, days[test] - first_test, int(blocked.sum()))


def _date(ms: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)).date().isoformat()
