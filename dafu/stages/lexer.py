"""Strings, numbers, literals and times in JSON text (RFC 8259), read in place by kernels.

Each kernel reads `text[at:end]`, never beyond, and answers where what it read ends, or FAILED:
either it is not JSON, or it is JSON of a kind that is left to a full parser. What they do accept
means to them exactly what it means to that parser. They know no field and no record.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dafu.hashing import word
from dafu.kernel import kernel

__all__ = ["FAILED", "after_blanks", "after_literal", "integer", "iso_ms", "number", "string_end"]

U8 = NDArray[np.uint8]

FAILED: Final = -1

_ONES: Final = np.uint64(0x0101010101010101)
_HIGH: Final = np.uint64(0x8080808080808080)
_QUOTES: Final = np.uint64(0x2222222222222222)
_ESCAPES: Final = np.uint64(0x5C5C5C5C5C5C5C5C)
_SPACES: Final = np.uint64(0x2020202020202020)

_MAX_EXACT: Final = 2**53
_MAX_POWER: Final = 22
_POWERS: Final = np.array([float(10**k) for k in range(_MAX_POWER + 1)])
_MAX_DIGITS: Final = 18  # always fit an int64


def _binary_power(k: int) -> tuple[int, int]:
    """10**k as (f, e): f * 2**e <= 10**k < (f + 1) * 2**e, where f has 64 bits."""
    exact = Fraction(10) ** k
    e = exact.numerator.bit_length() - exact.denominator.bit_length() - 64
    f = int(exact / Fraction(2) ** e)
    return (f, e) if f < 2**64 else (f // 2, e + 1)


_SIGNIFICANDS: Final = np.array(
    [_binary_power(k)[0] for k in range(-_MAX_POWER, _MAX_POWER + 1)], dtype=np.uint64
)
_EXPONENTS: Final = np.array([_binary_power(k)[1] for k in range(-_MAX_POWER, _MAX_POWER + 1)])
_TOP: Final = np.uint64(1 << 63)
_LOW_HALF: Final = np.uint64(0xFFFFFFFF)
_ONE: Final = np.uint64(1)
_32: Final = np.uint64(32)

_DAYS_IN_MONTH: Final = np.array([0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


@kernel
def after_blanks(text: U8, at: int, end: int) -> int:
    """Where the whitespace ends that may begin here."""
    p = at
    while p < end and text[p] <= 32 and text[p] in (32, 10, 13, 9):
        p += 1
    return p


@kernel
def string_end(text: U8, at: int, end: int) -> int:
    r"""Where the closing quote is of a string whose first character is at `at`.

    FAILED if a character comes before it that is not printable ASCII, or a backslash. Looks at
    eight bytes at once: a byte b < 0x80 is a quote where the high bit of (b ^ '"') - 1 is set, and
    so on. A borrow or carry only spoils bytes above the first one found, which is the one used.
    """
    p = at
    while p + 8 <= end:
        w = word(text, p)
        found = ((w ^ _QUOTES) - _ONES) | ((w ^ _ESCAPES) - _ONES) | (w - _SPACES) | w | (w + _ONES)
        found &= _HIGH
        if found:
            bytes_up_to_it = ((found ^ (found - np.uint64(1))) & _ONES) * _ONES >> np.uint64(56)
            p += int(np.int64(bytes_up_to_it)) - 1
            return p if text[p] == 34 else FAILED
        p += 8
    while p < end:
        c = text[p]
        if c == 34:
            return p
        if c < 32 or c > 126 or c == 92:
            return FAILED
        p += 1
    return FAILED


@kernel
def after_literal(text: U8, at: int, end: int) -> int:
    """Where `true`, `false` or `null` ends."""
    if at + 4 > end:
        return FAILED
    c, d, e, f = text[at], text[at + 1], text[at + 2], text[at + 3]
    if c == 116:
        return at + 4 if d == 114 and e == 117 and f == 101 else FAILED
    if c == 110:
        return at + 4 if d == 117 and e == 108 and f == 108 else FAILED
    if c == 102 and at + 5 <= end and d == 97 and e == 108 and f == 115 and text[at + 4] == 101:
        return at + 5
    return FAILED


@kernel
def integer(text: U8, at: int, end: int) -> tuple[int, int]:
    """Where an integer without sign ends, and its value; of at most 18 digits."""
    value = 0
    p = at
    while p < end and 48 <= text[p] <= 57:
        value = value * 10 + (text[p] - 48)
        p += 1
        if p - at > _MAX_DIGITS:
            return FAILED, 0
    if p == at or (text[at] == 48 and p > at + 1):
        return FAILED, 0
    return p, value


@kernel
def number(text: U8, at: int, end: int) -> tuple[int, float, bool]:
    """Where a number ends, its value, and whether that is the nearest double for certain.

    It is if mantissa and power of ten are doubles themselves, because then the one operation on
    them is rounded once (Clinger, "How to Read Floating Point Numbers Accurately", 1990); with up
    to 18 digits, where a product of 128 bits leaves no doubt. It is not for minus zero, which
    parsers read in two ways. Without certainty the value is NaN.
    """
    p = at
    negative = p < end and text[p] == 45
    if negative:
        p += 1
    if p >= end or text[p] < 48 or text[p] > 57:
        return FAILED, np.nan, False
    mantissa = 0
    digits = 0  # from the first that is not zero on
    exponent = 0
    if text[p] == 48:
        p += 1
    else:
        while p < end and 48 <= text[p] <= 57:
            if digits < _MAX_DIGITS:
                mantissa = mantissa * 10 + (text[p] - 48)
            digits += 1
            p += 1
    if p < end and text[p] == 46:
        p += 1
        first = p
        while p < end and 48 <= text[p] <= 57:
            if digits < _MAX_DIGITS:
                mantissa = mantissa * 10 + (text[p] - 48)
            if mantissa > 0:
                digits += 1
            p += 1
        if p == first:
            return FAILED, np.nan, False
        exponent = first - p
    if p < end and text[p] | 32 == 101:
        p += 1
        down = p < end and text[p] == 45
        if p < end and (text[p] == 43 or down):
            p += 1
        first = p
        power = 0
        while p < end and 48 <= text[p] <= 57:
            power = min(power * 10 + (text[p] - 48), 1_000_000)
            p += 1
        if p == first:
            return FAILED, np.nan, False
        exponent += -power if down else power
    if digits > _MAX_DIGITS or abs(exponent) > _MAX_POWER or (negative and mantissa == 0):
        return p, np.nan, False
    if mantissa > _MAX_EXACT:
        value = _nearest(mantissa, exponent)
    elif exponent < 0:
        value = float(mantissa) / _POWERS[-exponent]
    else:
        value = float(mantissa) * _POWERS[exponent]
    return p, -value if negative else value, not math.isnan(value)


@kernel
def _nearest(mantissa: int, exponent: int) -> float:
    """The double nearest to mantissa * 10**exponent, or NaN in the rare case of doubt.

    As Lemire, "Number Parsing at a Gigabyte per Second" (2021), section 5, without its second
    product. The power of ten is cut to 64 bits, hence the true product, in units of the upper
    half, is in [upper, upper + 2): only next to the middle between two doubles is that too vague.
    """
    w = np.uint64(mantissa)
    down = 0
    while w < _TOP:
        w <<= _ONE
        down += 1
    k = exponent + _MAX_POWER
    upper = _upper_half(w, _SIGNIFICANDS[k])
    shift = 11 if upper >= _TOP else 10
    rest = upper & np.uint64((1 << shift) - 1)
    middle = np.uint64(1 << (shift - 1))
    if rest in (middle - _ONE, middle):
        return np.nan
    significand = np.int64(upper >> np.uint64(shift))
    if rest > middle:
        significand += 1
    return math.ldexp(float(significand), shift + 64 + _EXPONENTS[k] - down)


@kernel
def _upper_half(a: np.uint64, b: np.uint64) -> np.uint64:
    """The upper 64 of the 128 bits of a * b."""
    a0, a1 = a & _LOW_HALF, a >> _32
    b0, b1 = b & _LOW_HALF, b >> _32
    middle = a1 * b0 + ((a0 * b0) >> _32)
    other = a0 * b1 + (middle & _LOW_HALF)
    return a1 * b1 + (middle >> _32) + (other >> _32)


@kernel
def iso_ms(text: U8, at: int, end: int) -> int:
    """Epoch milliseconds, rounded down, of a time in ISO 8601 text that fills `text[at:end]`.

    FAILED if it is not of the form YYYY-MM-DDTHH:MM:SS[.f][Z|+HH:MM|-HH:MM] with one to six
    digits for f, not in the calendar, or before 1970. Without an offset it is UTC. Days are
    counted as by Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms" (days_from_civil).
    """
    if end - at < 19:
        return FAILED
    if text[at + 4] != 45 or text[at + 7] != 45 or text[at + 10] != 84:
        return FAILED
    if text[at + 13] != 58 or text[at + 16] != 58:
        return FAILED
    century = _two_digits(text, at)
    year = _two_digits(text, at + 2)
    month = _two_digits(text, at + 5)
    day = _two_digits(text, at + 8)
    hour = _two_digits(text, at + 11)
    minute = _two_digits(text, at + 14)
    second = _two_digits(text, at + 17)
    if min(century, year, hour, minute, second) < 0 or hour > 23 or minute > 59 or second > 59:
        return FAILED
    year += 100 * century
    if month < 1 or month > 12 or day < 1 or day > _DAYS_IN_MONTH[month]:
        return FAILED
    if month == 2 and day == 29 and (year % 4 != 0 or (year % 100 == 0 and year % 400 != 0)):
        return FAILED
    p = at + 19
    ms = 0
    if p < end and text[p] == 46:
        p += 1
        first = p
        scale = 100
        while p < end and 48 <= text[p] <= 57:
            ms += scale * (text[p] - 48)
            scale //= 10
            p += 1
        if p == first or p > first + 6:
            return FAILED
    offset = 0
    if p < end:
        sign = text[p]
        if sign == 90:
            p += 1
        elif sign in (43, 45) and p + 6 <= end and text[p + 3] == 58:
            hours = _two_digits(text, p + 1)
            minutes = _two_digits(text, p + 4)
            if hours < 0 or minutes < 0 or hours > 23 or minutes > 59:
                return FAILED
            offset = 60 * hours + minutes
            if sign == 45:
                offset = -offset
            p += 6
    if p != end:
        return FAILED
    since_march = (month + 9) % 12
    if month <= 2:
        year -= 1
    days = 365 * year + year // 4 - year // 100 + year // 400
    days += (153 * since_march + 2) // 5 + day - 1 - 719_468
    return max(
        (((days * 24 + hour) * 60 + minute - offset) * 60 + second) * 1000 + ms,
        FAILED,
    )


@kernel
def _two_digits(text: U8, at: int) -> int:
    tens = int(np.int64(text[at])) - 48
    ones = int(np.int64(text[at + 1])) - 48
    if tens < 0 or tens > 9 or ones < 0 or ones > 9:
        return FAILED
    return tens * 10 + ones
