"""The identifiers' stage: any cuts, any crash; what is refused; state of other versions."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.rings.records import Facts, Kind, Sighting, decode_inbox, encode
from dafu.stages.batch import InputBatch
from dafu.stages.identifiers import IdentifierStage
from dafu.tables.migrations import StateError
from dafu.tables.records import MemoryRecords
from tests.rings.streams import START, cuts, sighting_batch, sightings, sizes, streams


def by_key(parts: list[list[tuple[bytes, bytes]]]) -> dict[bytes, list[bytes]]:
    out: dict[bytes, list[bytes]] = {}
    for key, value in itertools.chain.from_iterable(parts):
        out.setdefault(key, []).append(value)
    return out


@settings(max_examples=100, deadline=None)
@given(described=streams, given_sizes=sizes)
def test_cuts_do_not_matter(described: list[tuple[Any, ...]], given_sizes: list[int]) -> None:
    stream = sightings(described)
    whole = IdentifierStage().run(sighting_batch(stream), lambda _: MemoryRecords())
    records, said = MemoryRecords(), []
    for a, b in cuts(len(stream), given_sizes):
        output = IdentifierStage().run(sighting_batch(stream[a:b], a), lambda _: records)
        records.write(output.only_changes)
        said.append(
            list(zip(output.links.keys.present(), output.links.values.present(), strict=True))
        )
    expected = list(zip(whole.links.keys.present(), whole.links.values.present(), strict=True))
    assert list(itertools.chain.from_iterable(said)) == expected
    if given_sizes == []:
        assert dict(iter(whole.only_changes)) == records.data


@settings(max_examples=100, deadline=None)
@given(described=streams, given_sizes=sizes, others=sizes, cut=st.floats(0, 1))
def test_a_crash_anywhere_in_the_changelog_changes_nothing(
    described: list[tuple[Any, ...]], given_sizes: list[int], others: list[int], cut: float
) -> None:
    """Links of one identifier come again as they were, or not at all if they were accounted for."""
    stream, stage = sightings(described), IdentifierStage()
    whole = stage.run(sighting_batch(stream), lambda _: MemoryRecords())
    expected = by_key(
        [list(zip(whole.links.keys.present(), whole.links.values.present(), strict=True))]
    )
    records, done = MemoryRecords(), 0
    batches = cuts(len(stream), given_sizes)
    said: list[tuple[bytes, bytes]] = []
    for number, (a, b) in enumerate(batches):
        output = stage.run(sighting_batch(stream[a:b], a), lambda _: records)
        said += zip(output.links.keys.present(), output.links.values.present(), strict=True)
        changes = output.only_changes
        if number == len(batches) // 2:
            records.write(changes[: round(cut * len(changes))])
            done = a
            break
        records.write(changes)
    for a, b in cuts(len(stream) - done, others):
        output = stage.run(sighting_batch(stream[done + a : done + b], done + a), lambda _: records)
        records.write(output.only_changes)
        said += zip(output.links.keys.present(), output.links.values.present(), strict=True)
    for key, values in by_key([said]).items():
        once = list(dict.fromkeys(values))
        assert [v for v in once if v in expected[key]] == once
        assert set(once) == set(expected[key])


def test_what_is_not_sound_is_rejected() -> None:
    good = Sighting("u", "device", "x1", "t", "m", Facts(START, START))
    raw = encode(good)
    values = [b"", b"[]", raw[:-1], raw.replace(b"x1", b"unknown"), raw.replace(b"x1", b" x1"), raw]
    keys = [b"device:x1"] * 5 + [b"device:x2"]
    batch = InputBatch.of(0, keys, values)
    output = IdentifierStage().run(batch, lambda _: MemoryRecords())
    assert [r.index for r in output.rejected] == list(range(6))
    assert [r.reason for r in output.rejected] == [
        "invalid_sighting", "invalid_sighting", "invalid_sighting",
        "invalid_identifier", "invalid_identifier", "wrong_key",
    ]  # fmt: skip
    assert "refused as placeholder" in output.rejected[3].detail
    assert "normally written 'x1'" in output.rejected[4].detail
    assert not len(output.only_changes)


def test_a_record_without_a_key_is_rejected_wherever_it_stands() -> None:
    raw = encode(Sighting("u", "device", "x1", "t", "m", Facts(START, START)))
    for keys in ([None, b"device:x1"], [b"device:x1", None], [None, None]):
        output = IdentifierStage().run(
            InputBatch.of(0, keys, [raw, raw]), lambda _: MemoryRecords()
        )
        assert [r.reason for r in output.rejected] == ["wrong_key"] * keys.count(None)
        assert [k for k, _ in output.only_changes] == [b"Hdevice:x1"] * (2 - keys.count(None))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("device", "unknown"),
        ("ip", "0.0.0.0"),
        ("ip", "::ffff:10.0.0.1"),
        ("card", "****1234"),
        ("email", "Jane@shop.test"),
    ],
)
def test_what_is_no_identifier_is_rejected_under_its_own_key_too(kind: Kind, value: str) -> None:
    bad = Sighting("u", kind, value, "t", "m", Facts(START, START))
    good = Sighting("u", "ip", "10.0.0.1", "t", "m", Facts(START, START))
    output = IdentifierStage().run(sighting_batch([bad, good]), lambda _: MemoryRecords())
    assert [(r.index, r.reason) for r in output.rejected] == [(0, "invalid_identifier")]
    assert [key for key, _ in output.only_changes] == [b"Hip:10.0.0.1"]


def test_what_is_ignored_is_counted() -> None:
    stream = [
        Sighting(f"u{k}", "ip", "10.0.0.1", f"t{k}", "m", Facts(START + k, START))
        for k in range(200)
    ]
    output = IdentifierStage().run(sighting_batch(stream), lambda _: MemoryRecords())
    assert output.withdrawn == 1
    assert output.ignored == 200 - 128
    assert decode_inbox(output.links.values.present()[-1]).weight == 0.0


def test_state_of_a_later_version_is_refused() -> None:
    stream = [Sighting("u", "device", "x1", "t", "m", Facts(START, START))]
    records = MemoryRecords()
    records.write(IdentifierStage().run(sighting_batch(stream), lambda _: records).only_changes)
    (key,) = records.data
    records.data[key] = b"\x09\x00" + records.data[key][2:]
    with pytest.raises(StateError, match="schema version 9"):
        IdentifierStage().run(sighting_batch(stream, 1), lambda _: records)
