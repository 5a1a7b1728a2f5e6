"""What rings and look-alikes have in common: names, and how many there are of each kind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dafu.generator.plan import Plan, join
from dafu.rings.truth import CAMPAIGN

I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Groups:
    """All groups of a simulation, the first `rings` of which are rings: their ids and kinds.

    `Plan.group` is an index into these.
    """

    ids: list[str]
    kinds: list[str]
    rings: int


def put_together(
    genuine: Plan, fraud: Plan, work: Plan, rings: list[str], look_alikes: list[str]
) -> tuple[Plan, Groups]:
    """All transactions, and all groups, numbered from 0 by each of these plans.

    Parameters
    ----------
    genuine, look_alikes
        Genuine transactions, of which `group` is that of a look-alike; the look-alikes' kinds.
    fraud
        Fraud by scenario, of which `group` is that of a campaign of card testing: a ring, too.
    work, rings
        What rings do, and their kinds.
    """
    campaigns = int(fraud.group.max(initial=-1)) + 1
    kinds = [*rings, *[CAMPAIGN] * campaigns]
    for plan, first in ((fraud, len(rings)), (genuine, len(kinds))):
        plan.group[plan.group >= 0] += first
    ids = [f"ring-{i:06d}" for i in range(len(kinds))]
    ids += [f"benign-{i:06d}" for i in range(len(look_alikes))]
    return join([genuine, fraud, work]), Groups(ids, kinds + look_alikes, len(kinds))


def draw_kinds(rng: Generator, shares: tuple[float, ...], count: int) -> I64:
    """The kind of each of `count` groups: in these shares but for rounding, in random order."""
    edges = np.cumsum(shares) / sum(shares)
    kinds = np.searchsorted(edges, (np.arange(count) + 0.5) / max(count, 1), side="right")
    return np.asarray(rng.permutation(np.minimum(kinds, len(shares) - 1)))
