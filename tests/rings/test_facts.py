"""Facts are states as of a time: order and repeats do not matter."""

from __future__ import annotations

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from dafu.rings.facts import merge_facts
from dafu.rings.records import Facts

small = st.integers(0, 3)
facts = st.builds(Facts, small, small, small, small.map(float), small, small)


@given(told=st.lists(facts, min_size=1, max_size=6), order=st.randoms(use_true_random=False))
def test_order_and_repeats_do_not_matter(told: list[Facts], order: object) -> None:
    again = told + told[:3]
    order.shuffle(again)  # type: ignore[attr-defined]
    assert reduce(merge_facts, again) == reduce(merge_facts, told)


def test_the_later_holds_but_for_the_block() -> None:
    early, late = Facts(1, 0, 9, 9.0, 2, 8), Facts(2, 0, 1, 1.0, 0, 3)
    assert merge_facts(early, late) == Facts(2, 0, 1, 1.0, 0, 8)
