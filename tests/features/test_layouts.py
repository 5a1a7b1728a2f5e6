"""The layouts in which state is stored, pinned: who changes one has deployed stores to think of.

A layout that changes needs a new `SCHEMA_VERSION`, and the former one a place among those that
`dafu.tables.migrations` upgrades from; only then is the number here to be changed.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from dafu.features.state import MERCHANTS, SCHEMA_VERSION, USERS, EntityLayout
from dafu.rings.sole import SOLE
from dafu.rings.sole import VERSION as SOLE_VERSION


def digest(*layouts: np.dtype[np.void] | None) -> str:
    told = repr([None if layout is None else layout.descr for layout in layouts])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("layout", "version", "pinned"),
    [(USERS, 3, "ab51b20f573c97bb"), (MERCHANTS, 3, "b1a63e61d438444e")],
)
def test_entities(layout: EntityLayout, version: int, pinned: str) -> None:
    parts = (layout.head, layout.event, layout.archive, layout.labels, layout.ring)
    assert (SCHEMA_VERSION, digest(*parts)) == (version, pinned), "raise SCHEMA_VERSION"


def test_identifiers_of_one_user() -> None:
    assert (SOLE_VERSION, digest(SOLE)) == (3, "0f2cfab8d5695554"), (
        "raise VERSION of dafu.rings.sole"
    )
