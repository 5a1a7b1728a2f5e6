"""The scanner against the parser: what it takes it reads alike, and ordinary records it takes."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dafu.stages.scan as module
from dafu.columns import NULL, ByteColumn
from dafu.generator import LABEL_COLUMNS, generate
from dafu.hashing import hash64
from dafu.ingest import to_records
from dafu.schema import (
    MAX_RECORD_BYTES,
    MAX_TIMESTAMP_MS,
    MIN_TIMESTAMP_MS,
    TRANSACTION_FIELDS,
    Transaction,
    parse_transaction,
)
from dafu.stages.scan import HASHED_FIELDS, NUMBER_FIELDS, TEXT_FIELDS, Scan, scan

NOW = 1_700_000_000_000
GOOD: dict[str, Any] = {
    "transaction_id": "t",
    "user_id": "u",
    "merchant_id": "m",
    "amount": 12.5,
    "timestamp": NOW,
}
FULL: dict[str, Any] = {
    **GOOD,
    **{f.name: f"a {f.name}" for f in TEXT_FIELDS if f.name != "currency"},
    **{f.name: -12.25 for f in NUMBER_FIELDS},
    "currency": "EUR",
}


def encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def bits(value: float | None) -> bytes:
    return struct.pack("<d", math.nan if value is None else value)


def check(values: Sequence[bytes | None]) -> list[bool]:
    """That every record taken is read as the parser reads it; returns which were taken."""
    result = scan(ByteColumn.of(values))
    for i, raw in enumerate(values):
        if result.plain[i]:
            assert raw is not None
            assert_same(result, i, raw)
        else:
            assert_empty(result, i)
    return [bool(taken) for taken in result.plain]


def assert_same(result: Scan, i: int, raw: bytes) -> None:
    transaction, time = parse_transaction(raw)
    assert result.time[i] == time, raw
    assert bits(result.amount[i]) == bits(transaction.amount), raw
    for k, number in enumerate(NUMBER_FIELDS):
        assert bits(result.places[i, k]) == bits(getattr(transaction, number.name)), raw
    for k, text in enumerate(TEXT_FIELDS):
        expected = getattr(transaction, text.name)
        start, length = result.text_start[i, k], result.text_length[i, k]
        found = None if length == NULL else raw[start : start + length]
        assert found == (None if expected is None else expected.encode()), raw
    for k, name in enumerate(HASHED_FIELDS):
        expected = getattr(transaction, name)
        assert int(result.hashes[i, k]) == (hash64(expected.encode()) if expected else 0), raw


def assert_empty(result: Scan, i: int) -> None:
    assert math.isnan(result.amount[i])
    assert np.isnan(result.places[i]).all()
    assert (result.text_length[i] == NULL).all()
    assert not result.text_start[i].any()
    assert not result.hashes[i].any()
    assert result.time[i] == 0


def generated_values() -> list[bytes]:
    """Records as the generator makes them."""
    table = generate(users=60, merchants=30, days=10, seed=11).drop_columns(list(LABEL_COLUMNS))
    return [value for batch in table.to_batches() for _, value in to_records(batch)]


@pytest.fixture(scope="module")
def generated() -> list[bytes]:
    return generated_values()


# What the scanner knows of the schema


def test_every_field_is_read() -> None:
    names = {f.name for f in TEXT_FIELDS} | {f.name for f in NUMBER_FIELDS}
    assert names | {"amount", "timestamp"} == set(TRANSACTION_FIELDS)
    assert [f.name for f in TEXT_FIELDS] == [n for n in TRANSACTION_FIELDS if n in names][:12]
    assert [f.name for f in NUMBER_FIELDS] == ["lat", "long", "merchant_lat", "merchant_long"]
    assert all(f.encode_name == f.name for f in msgspec.structs.fields(Transaction))


@pytest.mark.parametrize("field", TEXT_FIELDS, ids=lambda f: f.name)
def test_limits_of_texts_are_the_schemas(field: Any) -> None:
    lengths = [0, 1, field.max_length, field.max_length + 1]
    values = [encode({**GOOD, field.name: "x" * n}) for n in lengths]
    assert check(values) == [field.min_length == 0, True, True, False]
    assert check([encode({**GOOD, field.name: None})]) == [not field.required]


@pytest.mark.parametrize("field", NUMBER_FIELDS, ids=lambda f: f.name)
def test_limits_of_places_are_the_schemas(field: Any) -> None:
    beyond = [field.low - 1e-6, field.high + 1e-6, field.high + 1]
    within = [field.low, field.high, 0, 0.000001, None]
    values = [encode({**GOOD, field.name: v}) for v in (*within, *beyond)]
    assert check(values) == [True] * 5 + [False] * 3


def test_limits_of_amount_and_time_are_the_schemas() -> None:
    amounts = [encode({**GOOD, "amount": a}) for a in (0, 1e12, 10**12, -0.01, 1e12 + 1, None)]
    assert check(amounts) == [True, True, True, False, False, False]
    times = [MIN_TIMESTAMP_MS, MAX_TIMESTAMP_MS - 1, MIN_TIMESTAMP_MS - 1, MAX_TIMESTAMP_MS]
    assert check([encode({**GOOD, "timestamp": t}) for t in times]) == [True, True, False, False]
    texts = [
        "2000-01-01T00:00:00.000Z",
        "2099-12-31T23:59:59.999999Z",
        "1999-12-31T23:00:00-01:00",
        "1999-12-31T23:59:59.999999Z",
        "2000-01-01T00:00:00+00:01",
        "2100-01-01T00:00:00",
    ]
    values = [encode({**GOOD, "timestamp": t}) for t in texts]
    assert check(values) == [True, True, True, False, False, False]


@pytest.mark.parametrize(
    "name", ["transaction_id", "user_id", "merchant_id", "amount", "timestamp"]
)
def test_required_fields_must_be_there(name: str) -> None:
    assert check([encode({k: v for k, v in GOOD.items() if k != name}), encode(GOOD)]) == [
        False,
        True,
    ]


def test_a_schema_that_the_scanner_can_not_read_is_refused_at_import() -> None:
    class Flagged(Transaction, frozen=True):
        flag: bool = False

    class Unbounded(Transaction, frozen=True):
        note: str | None = None

    for schema in (Flagged, Unbounded):
        with pytest.raises(TypeError, match=f"no scanner for .* of {schema.__name__}"):
            module._fields(schema)
    with pytest.raises(TypeError, match="no perfect hash"):
        module._perfect_hash(["user_id", "user_xd"])


# Ordinary records are taken


def test_all_that_the_generator_makes_is_plain(generated: list[bytes]) -> None:
    assert len(generated) > 300
    assert all(check(generated))


plain_text = st.text(
    st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\'), max_size=40
)
blanks = st.text(" \t\r\n", max_size=2)


@st.composite
def numerals(draw: st.DrawFn, low: float, high: float) -> str:
    """Spellings of numbers of up to 15 digits within bounds, but minus zero."""
    mantissa = draw(st.integers(0, 10 ** draw(st.integers(1, 15)) - 1))
    places = draw(st.integers(0, 14))
    power = draw(st.integers(-8, 8))
    padded = str(mantissa).rjust(places + 1, "0")
    text = padded[: len(padded) - places] + ("." + padded[len(padded) - places :]) * (places > 0)
    if draw(st.booleans()):
        text += draw(st.sampled_from("eE")) + (f"{power:+}" if draw(st.booleans()) else str(power))
    if mantissa and draw(st.booleans()):
        text = "-" + text
    return text if low <= float(text) <= high else str(int(max(low, 0.0)) + mantissa % 90)


times = st.one_of(
    st.integers(MIN_TIMESTAMP_MS, MAX_TIMESTAMP_MS - 1).map(str),
    st.builds(
        lambda t, decimals, zone: (
            '"' + t.strftime("%Y-%m-%dT%H:%M:%S") + f".{t.microsecond:06}"[:decimals] + zone + '"'
        ),
        st.datetimes(datetime(2000, 1, 2), datetime(2099, 12, 30)),
        st.sampled_from([0, 2, 3, 4, 5, 6, 7]),
        st.sampled_from(["", "Z", "+00:00", "-00:00", "+05:30", "-11:45", "+23:59", "-23:59"]),
    ),
)
unknown_values = st.one_of(
    plain_text.map(lambda s: f'"{s}"'),
    st.sampled_from(["true", "false", "null", "-0", "0", "-0.0e-0", "1e400", "9" * 40, "1E+0009"]),
    st.floats(allow_nan=False, allow_infinity=False).map(json.dumps),
    st.integers().map(str),
)


@st.composite
def plain_records(draw: st.DrawFn) -> bytes:
    """Good records within what the scanner should take, spelled in every way JSON allows."""
    members: list[tuple[str, str]] = [
        ("amount", draw(numerals(0.0, 1e12))),
        ("timestamp", draw(times)),
    ]
    for text in TEXT_FIELDS:
        if text.required or draw(st.booleans()):
            value = draw(plain_text)[: text.max_length].ljust(text.min_length, "x")
            null = not text.required and draw(st.integers(0, 5)) == 0
            members.append((text.name, "null" if null else f'"{value}"'))
    for number in NUMBER_FIELDS:
        if draw(st.booleans()):
            null = draw(st.integers(0, 5)) == 0
            spelled = draw(numerals(number.low, number.high))
            members.append((number.name, "null" if null else spelled))
    for name in draw(st.lists(plain_text, max_size=4)):
        value = draw(unknown_values)
        members += [(name, value)] * (name not in TRANSACTION_FIELDS)
    members = draw(st.permutations(members))
    gap = [draw(blanks) for _ in range(4)]
    body = (gap[1] + "," + gap[2]).join(
        f'"{name}"{gap[0]}:{gap[3]}{value}' for name, value in members
    )
    return f"{gap[2]}{{{gap[0]}{body}{gap[1]}}}{gap[3]}".encode()


@settings(max_examples=400, deadline=None)
@given(st.lists(plain_records(), min_size=1, max_size=4))
def test_good_records_are_plain_however_they_are_spelled(values: list[bytes]) -> None:
    assert all(check(values))


# Everything else is left alone

NOT_PLAIN = {
    "absent": None,
    "empty": b"",
    "blank": b"  ",
    "array": b"[1]",
    "no object": b'"text"',
    "no members": b"{}",
    "escape": encode(GOOD).replace(b'"u"', b'"\\u0075"'),
    "escape in a key": encode(GOOD).replace(b'"user_id"', b'"user\\u005fid"'),
    "escape in an unknown key": encode({**GOOD, "a\\b": 1}),
    "escape in an unknown value": encode({**GOOD, "a": "\\"}),
    "not ASCII": encode({**GOOD, "category": "caf\u00e9"}),
    "not ASCII in an unknown value": encode({**GOOD, "more": "caf\u00e9"}),
    "not UTF-8": encode(GOOD).replace(b'"u"', b'"\xff"'),
    "delete": encode({**GOOD, "category": "\x7f"}),
    "control character": encode(GOOD).replace(b'"u"', b'"\x01"'),
    "tab in a string": encode(GOOD).replace(b'"u"', b'"\t"'),
    "byte order mark": b"\xef\xbb\xbf" + encode(GOOD),
    "nested array": encode({**GOOD, "more": []}),
    "nested object": encode({**GOOD, "more": {}}),
    "repeated": encode(GOOD)[:-1] + b',"amount":1}',
    "repeated, the first bad": b'{"amount":"x",' + encode(GOOD)[1:],
    "repeated null": encode(GOOD)[:-1] + b',"lat":null,"lat":null}',
    "comma at the end": encode(GOOD)[:-1] + b",}",
    "comma at the start": b"{," + encode(GOOD)[1:],
    "two commas": encode(GOOD).replace(b", ", b",,", 1),
    "no comma": encode(GOOD).replace(b", ", b" ", 1),
    "no colon": encode(GOOD).replace(b":", b" ", 1),
    "two colons": encode(GOOD).replace(b":", b"::", 1),
    "something after": encode(GOOD) + b" x",
    "a second object": encode(GOOD) * 2,
    "form feed": encode(GOOD) + b"\x0c",
    "text as amount": encode({**GOOD, "amount": "1"}),
    "truth as amount": encode({**GOOD, "amount": True}),
    "minus zero": encode({**GOOD, "amount": -0.0}),
    "many digits": encode(GOOD).replace(b"12.5", b"0.3000000000000000444"),
    "number as text": encode({**GOOD, "user_id": 1}),
    "float as time": encode({**GOOD, "timestamp": NOW + 0.5}),
    "power as time": encode(GOOD).replace(str(NOW).encode(), b"1.7e12"),
    "leading zero": encode(GOOD).replace(b"12.5", b"012.5"),
    "plus": encode(GOOD).replace(b"12.5", b"+12.5"),
    "no fraction": encode(GOOD).replace(b"12.5", b"12."),
    "unknown leading zero": encode(GOOD)[:-1] + b',"more":01}',
    "unknown NaN": encode(GOOD)[:-1] + b',"more":NaN}',
    "oversized": encode(GOOD) + b" " * MAX_RECORD_BYTES,
}


@pytest.mark.parametrize("value", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_not_plain_is_not_taken(value: bytes | None) -> None:
    assert check([encode(GOOD), value, encode(GOOD)]) == [True, False, True]


def test_the_largest_record_is_taken() -> None:
    assert check([encode(GOOD).ljust(MAX_RECORD_BYTES)]) == [True]


def test_names_that_resemble_fields_are_unknown() -> None:
    names = [
        n[:k] + c + n[k + 1 :] for n in TRANSACTION_FIELDS for k in range(len(n)) for c in "~a"
    ]
    names += [n + "s" for n in TRANSACTION_FIELDS] + [n[:-1] for n in TRANSACTION_FIELDS]
    names += [n[1:] for n in TRANSACTION_FIELDS] + [n.upper() for n in TRANSACTION_FIELDS]
    names = [n for n in names if n not in TRANSACTION_FIELDS]
    assert all(check([encode({**GOOD, name: "x" * 2000}) for name in names]))


# Whatever the bytes, reading alike and within bounds

TOKENS = [
    *(b"0 -0 00 01 1. .5 +1 -1 1e5 1E+5 1e-5 1e 1e23 1e400 9007199254740993 0.1e1 12345.678901 "
      b"true false null nul True NaN Infinity - . e , : { } [ ] [] {} \" \\ \\n \\u0041 \"\" "
      b"\"x\" \"\\\"\" 1700000000000 1700000000000.0 1700000000 4102444800000 946684800000 "
      b"\"2024-02-29T12:00:00Z\" \"2023-02-29T12:00:00Z\" \"2024-01-01T00:00:00.1234567Z\" "
      b"\"2024-01-01T00:00:00-05:30\" \"2024-01-01\" \"2024-01-01T23:59:60Z\" ,\"lat\":1 "
      b",\"amount\":1 ,\"user_id\":\"v\" ,\"country\":null ,\"x\":[1] ,\"x\":1 \xc3\xa9 \xff "
      b"\xe2\x82\xac").split(b" "),
    b" ", b"\t", b"\n", b"\r", b"\x0b", b"\x00", b"\x7f", b"",
]  # fmt: skip


def mutant(rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """A record with something done to it, mostly one thing."""
    raw = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        at = rng.randrange(len(raw) + 1)
        to = min(len(raw), at + rng.choice((1, 1, 1, 2, 5, 20)))
        match rng.randrange(9):
            case 0:
                raw[at:to] = bytes(rng.randrange(256) for _ in range(to - at))
            case 1:
                raw[at:to] = bytes(rng.randrange(32, 127) for _ in range(to - at))
            case 2:
                del raw[at:to]
            case 3:
                raw[at:at] = raw[at:to]
            case 4:
                raw[at:at] = rng.choice(TOKENS)
            case 5:
                values = [i + 1 for i, c in enumerate(raw) if c in b":,"] or [0]
                at = rng.choice(values)
                end = next((i for i in range(at, len(raw)) if raw[i] in b",}"), len(raw))
                raw[at:end] = rng.choice(TOKENS)
            case 6:
                other = rng.choice(corpus)
                raw[at:] = other[rng.randrange(len(other) + 1) :]
            case 7:
                digits = [i for i, c in enumerate(raw) if c in b"0123456789"] or [0]
                at = rng.choice(digits)
                raw[at : at + 1] = rng.choice(b"0123456789.eE+-Z:T ").to_bytes()
            case _:
                members = bytes(raw).strip(b"{} ").split(b",")
                if rng.random() < 0.3:
                    members.append(rng.choice(members))
                rng.shuffle(members)
                raw = bytearray(b"{" + b",".join(members) + b"}")
    return bytes(raw)


def corpus(generated: Sequence[bytes]) -> list[bytes]:
    more = [GOOD, FULL, {**FULL, "timestamp": "2024-06-30T23:59:59.999-07:00", "more": [1, {}]}]
    spaced = [json.dumps(d, indent=1).encode() for d in more]
    return [*generated[:40], *map(encode, more), *spaced, b"{}"]


def fuzz(generated: Sequence[bytes], seed: int, n: int) -> float:
    """Check n mutants; returns the share that was taken."""
    rng = random.Random(seed)
    seeds = corpus(generated)
    return sum(check([mutant(rng, seeds) for _ in range(n)])) / n


def test_mutants_are_read_as_the_parser_reads_them(generated: list[bytes]) -> None:
    taken = fuzz(generated, seed=5, n=20_000)
    assert 0.15 < taken < 0.8  # else this would show little


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(plain_records(), st.binary(max_size=60)), min_size=1), st.data())
def test_mutants_of_any_spelling(values: list[bytes], data: st.DataObject) -> None:
    rng = data.draw(st.randoms(use_true_random=False))
    usable = [v for v in values if v] or [b"{}"]
    check([mutant(rng, usable) for _ in range(10)])


def test_a_record_cut_anywhere_is_not_taken_whatever_follows_it() -> None:
    raw = encode(FULL)
    cuts = np.arange(len(raw), dtype=np.int64)
    starts = np.zeros(len(raw), dtype=np.int64)
    assert not scan(ByteColumn(raw, starts, cuts)).plain.any()  # the rest follows
    assert not any(check([raw[:k] for k in range(len(raw))]))
    assert not any(check([raw[k:] for k in range(1, len(raw))]))
    for k in range(len(raw)):
        assert not scan(ByteColumn(raw[:k], starts[:1], np.array([k]))).plain.any()


@settings(deadline=None)
@given(plain_records(), st.binary(max_size=12), st.binary(max_size=12))
def test_what_stands_around_a_record_does_not_matter(
    raw: bytes, before: bytes, after: bytes
) -> None:
    alone = scan(ByteColumn.of([raw]))
    place = np.array([len(before)])
    among = scan(ByteColumn(before + raw + after, place, np.array([len(raw)])))
    for left, right in zip(
        msgspec.structs.astuple(alone), msgspec.structs.astuple(among), strict=True
    ):
        np.testing.assert_array_equal(left, right)


def test_spans_outside_the_buffer_are_not_followed() -> None:
    raw = encode(GOOD)
    starts = np.array([0, 1, -1, len(raw), 10**12, 0], dtype=np.int64)
    lengths = np.array([len(raw), len(raw), len(raw), 1, 5, len(raw) + 1], dtype=np.int64)
    assert scan(ByteColumn(raw, starts, lengths)).plain.tolist() == [True] + [False] * 5


def test_no_records() -> None:
    result = scan(ByteColumn.of([]))
    assert result.plain.shape == (0,)
    assert result.text_start.shape == (0, 12)
    assert result.hashes.shape == (0, 8)


def test_one_array_type_whatever_the_source() -> None:
    """Else numba compiles a second time, in the middle of traffic."""
    raw = encode(GOOD)
    compiled: Any = module._scan
    column = ByteColumn.of([raw, None])
    for values in (column, column.take([0]), ByteColumn.repeated(raw, 3), ByteColumn.of([])):
        scan(values)
    scan(ByteColumn(bytearray(raw), np.zeros(1, np.int64), np.array([len(raw)])))
    assert len(compiled.signatures) == 1
