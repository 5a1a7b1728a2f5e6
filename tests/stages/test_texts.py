"""Text fields of plain records and of decoded ones, read alike one by one and several at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from dafu.columns import NULL, ByteColumn
from dafu.schema import Transaction
from dafu.stages.texts import TEXTS, Texts

A, B, C = "transaction_id", "country", "currency"


def texts(documents: Mapping[int, Any]) -> Texts:
    records = ByteColumn.of([b"xxid-1DE", b"id-22", b"id3EURFR"])
    spans = {
        A: [(2, 4), (0, 5), (0, 3)],
        B: [(6, 2), (0, NULL), (6, 2)],
        C: [(0, NULL), (0, NULL), (3, 3)],
    }
    starts, lengths = np.zeros((3, len(TEXTS)), np.int32), np.full((3, len(TEXTS)), NULL, np.int32)
    for name, found in spans.items():
        k = TEXTS.index(name)
        starts[:, k], lengths[:, k] = [s for s, _ in found], [n for _, n in found]
    return Texts(records, starts, lengths, documents)


DOCUMENT = Transaction("\u00fc", "u", "m", 1.0, 0, country="FR", currency=None)


@pytest.mark.parametrize("documents", [{}, {1: DOCUMENT}], ids=["plain", "one decoded"])
def test_several_fields_are_what_each_is(documents: Mapping[int, Any]) -> None:
    found = texts(documents).strings([A, B, C])
    assert found == [texts(documents).utf8(name).strings() for name in (A, B, C)]
    second = ("\u00fc", "FR", None) if documents else ("id-22", None, None)
    assert [values[1] for values in found] == list(second)
    assert [values[2] for values in found] == ["id3", "FR", "EUR"]


@pytest.mark.parametrize("documents", [{}, {1: DOCUMENT}], ids=["plain", "one decoded"])
def test_a_part_has_the_texts_of_its_records(documents: Mapping[int, Any]) -> None:
    rows = np.array([2, 1])
    whole, part = texts(documents), texts(documents).part(rows)
    for name in (A, B, C):
        assert part.utf8(name).tolist() == whole.utf8(name).take(rows).tolist()
    assert part.strings([A, C])[0] == [whole.utf8(A).strings()[i] for i in (2, 1)]


def test_no_field_is_no_list() -> None:
    assert texts({}).strings([]) == []
