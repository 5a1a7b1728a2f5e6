"""The kernels that read JSON text, each against the library that defines what it should read."""

from __future__ import annotations

import json
import math
import struct
from datetime import UTC, datetime
from fractions import Fraction

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dafu.schema import timestamp_ms
from dafu.stages import lexer
from dafu.stages.lexer import FAILED

decode_float = msgspec.json.Decoder(float).decode
decode_time = msgspec.json.Decoder(datetime).decode


def array(text: str | bytes) -> np.ndarray:
    return np.frombuffer(text.encode() if isinstance(text, str) else text, dtype=np.uint8)


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


def read_number(text: str) -> tuple[int, float, bool]:
    """With something behind it that would go on with the number, were it read."""
    return lexer.number(array(text + "5"), 0, len(text))


digits = st.text("0123456789", min_size=1, max_size=20)
spellings = st.builds(
    lambda sign, whole, point, fraction, e, power: (
        sign + whole + (point + fraction if point else "") + (e + power if e else "")
    ),
    st.sampled_from(["", "-"]),
    st.one_of(st.just("0"), st.integers(1, 10**19).map(str)),
    st.sampled_from(["", "."]),
    digits,
    st.sampled_from(["", "e", "E", "e+", "E-", "e-"]),
    st.one_of(st.integers(0, 40).map(str), st.sampled_from(["00", "022", "400", "9" * 30])),
)


@settings(deadline=None)
@given(spellings)
@example("9007199254740992")
@example("9007199254740993")
@example("1e22")
@example("1e23")
@example("1e-22")
@example("0.000e5")
def test_a_number_that_is_certain_is_the_one_that_msgspec_reads(text: str) -> None:
    end, value, exact = read_number(text)
    assert end == len(text)
    if exact:
        assert bits(value) == bits(decode_float(text)) == bits(float(text))
    else:
        assert math.isnan(value)


@settings(deadline=None)
@given(st.integers(0, 2**53), st.integers(0, 22), st.booleans())
def test_up_to_fifteen_digits_are_always_certain(mantissa: int, places: int, minus: bool) -> None:
    padded = str(mantissa).rjust(places + 1, "0")
    text = padded[: len(padded) - places] + ("." + padded[len(padded) - places :]) * (places > 0)
    text = "-" * (minus and mantissa > 0) + text
    assert read_number(text)[2]
    assert bits(read_number(text)[1]) == bits(float(text))


@settings(deadline=None)
@given(st.floats(-180, 180).filter(lambda x: abs(x) >= 0.001))
def test_doubles_as_programs_print_them(value: float) -> None:
    end, read, exact = read_number(repr(value))
    assert end == len(repr(value))
    assert not exact or bits(read) == bits(value)


def test_almost_all_doubles_as_programs_print_them_are_certain() -> None:
    values = np.random.default_rng(3).uniform(-180, 180, 5000).tolist()
    certain = [read_number(repr(v))[2] for v in values]
    assert sum(len(repr(v).strip("-").replace(".", "")) > 16 for v in values) > 1000
    assert np.mean(certain) > 0.99


@settings(deadline=None)
@given(
    st.floats(1e-4, 1e17, allow_subnormal=False),
    st.integers(16, 18),
    st.integers(-2, 2),
    st.booleans(),
)
def test_next_to_the_middle_of_two_doubles(value: float, n: int, off: int, at: bool) -> None:
    """The hard ones: decimals that lie as near to the middle, or to a double, as n digits can."""
    middle = (Fraction(value) + Fraction(math.nextafter(value, math.inf))) / 2
    target = Fraction(value) if at else middle
    places = n - 1 - math.floor(math.log10(target))
    text = f"{int(target * Fraction(10) ** places) + off}e{-places}"
    end, read, exact = read_number(text)
    assert end == len(text)
    assert not exact or bits(read) == bits(float(text)) == bits(decode_float(text))


@pytest.mark.parametrize("text", ["-0", "-0.0", "-0e3", "1e400", "1e-400", "9" * 19, "0e23"])
def test_numbers_that_need_more_than_one_rounding_are_read_to_their_end_only(text: str) -> None:
    end, value, exact = read_number(text)
    assert (end, exact) == (len(text), False)
    assert math.isnan(value)


@pytest.mark.parametrize(
    "text", ["", "-", "+1", ".5", "1.", "1.e2", "1e", "1e+", "1E-", "-.5", "-a", "NaN", "Infinity"]
)
def test_what_is_no_number_fails(text: str) -> None:
    assert lexer.number(array(text), 0, len(text))[0] == FAILED


def test_a_number_ends_after_a_leading_zero() -> None:
    assert lexer.number(array("012"), 0, 3)[0] == 1


@settings(deadline=None)
@given(st.integers(0, 10**18 - 1))
def test_integers(value: int) -> None:
    text = str(value)
    assert lexer.integer(array(text + "7"), 0, len(text)) == (len(text), value)


@pytest.mark.parametrize("text", ["", "x", "-1", "00", "01", "1" * 19, "9" * 40])
def test_what_is_no_integer_without_sign_or_too_long_fails(text: str) -> None:
    assert lexer.integer(array(text), 0, len(text))[0] == FAILED


@settings(deadline=None)
@given(st.binary(max_size=40), st.integers(0, 3), st.sampled_from([b'"', b"", b'"tail"\x00\\']))
def test_strings_end_at_the_first_quote_if_all_before_is_plain(
    content: bytes, at: int, after: bytes
) -> None:
    text = b"~~~"[:at] + content + after
    expected = FAILED
    for p in range(at, len(text)):
        if text[p] == ord('"'):
            expected = p
        if text[p] == ord('"') or not 32 <= text[p] <= 126 or text[p] == ord("\\"):
            break
    assert lexer.string_end(array(text), at, len(text)) == expected


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60), st.integers(0, 60))
def test_every_byte_alone_is_judged_rightly_wherever_it_stands(text: str, where: int) -> None:
    clean = text.replace('"', "'").replace("\\", "/").encode()
    where = min(where, len(clean))
    for byte in range(256):
        whole = clean[:where] + bytes([byte]) + clean[where:] + b'"'
        good = 32 <= byte <= 126 and byte != ord("\\")
        expected = where if byte == ord('"') else len(whole) - 1 if good else FAILED
        assert lexer.string_end(array(whole), 0, len(whole)) == expected


@settings(deadline=None)
@given(st.text(" \t\n\r\x0b\x0c\x00\x1fx", max_size=10))
def test_blanks_are_those_of_json(text: str) -> None:
    expected = len(text) - len(text.lstrip(" \t\n\r"))
    assert lexer.after_blanks(array(text), 0, len(text)) == expected


@pytest.mark.parametrize("text", ["true", "false", "null"])
def test_literals(text: str) -> None:
    assert lexer.after_literal(array(text + "x"), 0, len(text)) == len(text)
    for cut in range(len(text)):
        assert lexer.after_literal(array(text), 0, cut) == FAILED
        for other in "xTRUEnul \x00":
            broken = text[:cut] + other + text[cut + 1 :]
            if broken != text:
                assert lexer.after_literal(array(broken), 0, len(broken)) == FAILED


def read_time(text: str) -> int:
    return lexer.iso_ms(array(text + "0"), 0, len(text))


@settings(deadline=None)
@given(
    st.datetimes(datetime(1971, 1, 1), datetime(2399, 12, 30)),
    st.integers(0, 6),
    st.one_of(st.sampled_from(["", "Z"]), st.integers(-1439, 1439)),
)
def test_times_are_those_that_msgspec_reads(time: datetime, decimals: int, zone: str | int) -> None:
    text = (
        time.strftime("%Y-%m-%dT%H:%M:%S") + f".{time.microsecond:06}"[: decimals and decimals + 1]
    )
    if isinstance(zone, int):
        text += f"{'-' if zone < 0 else '+'}{abs(zone) // 60:02}:{abs(zone) % 60:02}"
    else:
        text += zone
    decoded = decode_time(json.dumps(text))
    utc = decoded if decoded.tzinfo else decoded.replace(tzinfo=UTC)
    expected = int((utc - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000 // 1)
    assert abs(read_time(text) - expected) <= 1  # total_seconds is not exact; the schema's is
    if 2001 <= time.year < 2099:
        assert read_time(text) == timestamp_ms(decoded)


@settings(deadline=None)
@given(st.text("0123456789-:.TZ+ tz", max_size=32))
@example("2024-02-29T00:00:00")
@example("2023-02-29T00:00:00")
@example("2100-02-29T00:00:00Z")
@example("2024-04-31T00:00:00Z")
@example("2024-00-10T00:00:00Z")
@example("2024-01-00T00:00:00Z")
@example("2024-13-01T00:00:00Z")
@example("2024-01-01T24:00:00Z")
@example("2024-01-01T23:60:00Z")
@example("2024-01-01T23:59:60Z")
@example("2024-01-01T00:00:00+24:00")
@example("2024-01-01T00:00:00+01:60")
@example("2024-01-01T00:00:00+0100")
@example("2024-01-01T00:00:00.Z")
@example("2024-01-01T00:00:00.1234567Z")
@example("2024-01-01 00:00:00Z")
@example("2024-01-01T00:00:00Zx")
@example("2024-01-01T00:00:00ZZ")
@example("2024-1-01T00:00:000Z")
@example("0000-01-01T00:00:00Z")
def test_a_time_that_is_read_is_a_time(text: str) -> None:
    ms = read_time(text)
    if ms == FAILED:
        return
    assert ms == timestamp_ms(decode_time(json.dumps(text)))


def test_the_calendar_is_kept() -> None:
    """Of all days that can be written, those are read that exist."""
    for year in (2000, 2001, 2004, 2096, 2099):
        for month in range(100):
            for day in range(100):
                text = f"{year}-{month:02}-{day:02}T01:02:03.004Z"
                try:
                    there = datetime(year, month, day, 1, 2, 3, 4000, tzinfo=UTC)
                except ValueError:
                    assert read_time(text) == FAILED, text
                else:
                    assert read_time(text) == timestamp_ms(there), text


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2000-01-01T00:00:00Z", 946_684_800_000),
        ("2000-02-29T23:59:59.999999Z", 951_868_799_999),
        ("2024-03-10T02:00:00.5-05:00", 1_710_054_000_500),
        ("2024-03-10T02:00:00.0009+05:30", 1_710_016_200_000),
    ],
)
def test_times_by_hand(text: str, ms: int) -> None:
    assert read_time(text) == ms
