"""Named selections: features that exist, each once, and none that names an account or a day."""

from __future__ import annotations

import pytest

from dafu.features.catalogue import INDEX
from dafu.features.selections import SELECTIONS


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_selection_is_of_the_catalogue(name: str) -> None:
    chosen = SELECTIONS[name]
    assert len(set(chosen)) == len(chosen) > 0
    assert set(chosen) <= set(INDEX)
    grows = {"user_total_count", "account_age_days", "is_weekend", "sequence_risk"}
    assert not grows & set(chosen)
