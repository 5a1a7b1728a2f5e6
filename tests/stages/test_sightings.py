"""Sightings as kernels write and read them: what msgspec would write, and nothing misread."""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from dafu.columns import ByteColumn
from dafu.features.facts import FACTS
from dafu.hashing import hash64
from dafu.rings.hygiene import clean
from dafu.rings.records import KINDS, Facts, Sighting, decode_sighting, encode
from dafu.rings.sole import MOST
from dafu.stages.decide import APPROVE, BLOCK, REVIEW
from dafu.stages.reading import parse_batch
from dafu.stages.sightings import MOST_HUNDREDTHS, read_sightings, sightings, usual_addresses

WHOSE = ("user", "transaction", "merchant")
ids = st.one_of(st.text(min_size=1, max_size=12), st.sampled_from(("u-1", 'qu"ote', "back\\slash")))
plain = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)
addresses = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.from_regex(r"\A[0-9]{1,3}(\.[0-9]{1,3}){2,4}\Z"),
    st.sampled_from(("0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1", "1.2.3", "01.2.3.4", "")),
    st.ip_addresses(v=6).map(str),
)
numbers = st.one_of(st.integers(0, MOST), st.sampled_from((0, 9, 10, MOST)))
facts = st.builds(
    Facts,
    as_of=numbers,
    since=numbers,
    transactions=numbers,
    amount=st.integers(0, MOST_HUNDREDTHS).map(lambda n: n / 100),
    frauds=numbers,
)
transactions = st.fixed_dictionaries(
    {"user_id": ids, "transaction_id": ids, "merchant_id": ids},
    optional={
        "device_fingerprint": st.one_of(ids, plain),
        "ip_address": addresses,
        "card_id": plain,
        "email": st.one_of(plain, st.sampled_from(("a@b.cd", 'A"b@c.de', "no-reply@b.cd"))),
    },
)


def packed(told: list[Facts]) -> np.ndarray:
    rows = [(f.as_of, f.since, f.transactions, f.amount, f.frauds) for f in told]
    return np.array(rows, FACTS)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            transactions,
            facts,
            st.lists(st.booleans(), min_size=4, max_size=4),
            st.sampled_from((APPROVE, REVIEW, BLOCK)),
        )
    ),
    st.booleans(),
)
def test_what_is_written_is_what_msgspec_writes(given: list[Any], decided: bool) -> None:
    values = [
        msgspec.json.encode({**tx, "amount": 5.0, "timestamp": 1_700_000_000_000})
        for tx, *_ in given
    ]
    parsed = parse_batch(ByteColumn.of(values))
    kept = parsed.rows.tolist()
    expected, refused = [], 0
    for i in kept:
        tx, known, wanted, decision = given[i]
        at = {decision: known.as_of} if decided else {}
        for kind, wants in zip(KINDS, wanted, strict=True):
            field = {"device": "device_fingerprint", "ip": "ip_address", "card": "card_id"}
            text = tx.get(field.get(kind, "email"))
            if not wants or not text:
                continue
            value = clean(kind, text)
            if value is None:
                refused += 1
                continue
            said = Facts(
                known.as_of, known.since, known.transactions, known.amount, known.frauds,
                at.get(BLOCK, 0), at.get(REVIEW, 0),
            )  # fmt: skip
            user, transaction, merchant = (tx[f"{what}_id"] for what in WHOSE)
            expected.append(encode(Sighting(user, kind, value, transaction, merchant, said)))
    wanted_rows = np.array([given[i][2] for i in kept], np.bool_).reshape(-1, len(KINDS))
    decisions = np.array([given[i][3] for i in kept], np.int8) if decided else None
    told, dropped = sightings(
        parsed.texts, parsed.rows, wanted_rows, packed([given[i][1] for i in kept]), decisions
    )
    assert told.values.present() == expected
    assert dropped == refused
    found = [decode_sighting(value) for value in expected]
    assert told.keys.present() == [f"{s.kind}:{s.value}".encode() for s in found]


@settings(max_examples=300, deadline=None)
@given(addresses)
def test_a_usual_address_is_one_that_stays_as_it_is(text: str) -> None:
    column = ByteColumn.of([b"x", text.encode()]).part(1, 2)
    try:
        right = isinstance(ipaddress.ip_address(text), ipaddress.IPv4Address)
    except ValueError:
        right = False
    assert usual_addresses(column).tolist() == [right and clean("ip", text) == text]


def read(value: bytes, key: bytes) -> np.ndarray:
    """Read a record that stands among other bytes, which none may rely on."""
    values = ByteColumn.of([b'{"type":', value, b"}}}}}}}}"]).part(1, 2)
    return read_sightings(ByteColumn.of([b"device:", key, b"x"]).part(1, 2), values)


@settings(max_examples=300, deadline=None)
@given(
    ids,
    st.sampled_from(KINDS),
    st.one_of(ids, plain),
    ids,
    ids,
    st.builds(replace, facts, blocked_at=numbers, reviewed_at=numbers),
)
def test_what_is_read_is_what_msgspec_reads(
    user: str, kind: Any, value: str, transaction: str, merchant: str, told: Facts
) -> None:
    raw = encode(Sighting(user, kind, value, transaction, merchant, told))
    (found,) = read(raw, f"{kind}:{value}".encode())
    texts = (user, value, transaction, merchant)
    simple = all(t.isascii() and t.isprintable() and not set(t) & {'"', "\\"} for t in texts)
    assert (found["kind"] >= 0) == simple
    if not simple:
        return
    assert KINDS[found["kind"]] == kind
    start = len(b'{"type":')
    for name, text in (("user", user), ("value", value)):
        at = found[f"{name}_at"] - start
        assert raw[at : at + found[f"{name}_n"]] == text.encode()
    assert found["merchant"] == hash64(merchant.encode()) >> 32
    for name in told.__struct_fields__:
        assert found[name] == getattr(told, name)


_GOOD = encode(Sighting("u", "device", "x1", "t", "m", Facts(5, 4, 3, 2.5, 1, 5, 5)))


@settings(max_examples=500, deadline=None)
@given(st.integers(0, len(_GOOD)), st.binary(max_size=3), st.integers(0, 3))
def test_nothing_is_read_that_msgspec_reads_otherwise(at: int, new: bytes, gone: int) -> None:
    damaged = _GOOD[:at] + new + _GOOD[at + gone :]
    (found,) = read(damaged, b"device:x1")
    if found["kind"] < 0:
        return
    told = decode_sighting(damaged)
    assert (told.kind, told.value) == ("device", "x1")
    assert [found[name].item() for name in Facts.__struct_fields__] == [
        getattr(told.facts, name) for name in Facts.__struct_fields__
    ]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        _GOOD[:-1],
        _GOOD + b" ",
        _GOOD.replace(b'"as_of":5', b'"as_of":-5'),
        _GOOD.replace(b'"as_of":5', b'"as_of":%d' % (MOST + 1)),
        _GOOD.replace(b"2.5", b"-2.5"),
        _GOOD.replace(b"2.5", b"1e16"),
        _GOOD.replace(b"device", b"phone"),
        _GOOD.replace(b"x1", b"x2"),
    ],
)
def test_what_is_out_of_the_ordinary_is_left_to_the_decoder(value: bytes) -> None:
    assert read(value, b"device:x1")["kind"].tolist() == [-1]


def test_an_absent_record_is_none() -> None:
    none = ByteColumn.of([None])
    assert read_sightings(none, none)["kind"].tolist() == [-1]
