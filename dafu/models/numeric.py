"""Elementary functions that give the same bits on every machine.

The C library's differ in the last bit from version to version and from scalar to vector code, and
a replay on another machine is to give the same bytes. These use additions, multiplications and
divisions alone, in a fixed order, all of which IEEE 754 rounds in one way.

Those that end in 32 take and give float32. They have no branches (`np.divide` spares numba's check
for a zero divisor), so loops over them become vector code, whose lanes round as scalars do.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from dafu.kernel import kernel

LN2: Final = 0.6931471805599453
LOG2_E: Final = 1.4426950408889634
ODDS_LIMIT: Final = 1e-12
"""Probabilities are kept this far from 0 and 1 before their log-odds are taken."""
_SQRT_HALF: Final = 0.7071067811865476
_TWO_PI: Final = 6.283185307179586

_HALF32: Final = np.float32(0.5)
_ONE32: Final = np.float32(1.0)
_LOG2_E32: Final = np.float32(LOG2_E)
_TWO_LOG2_E32: Final = np.float32(2.0 * LOG2_E)
_MOST32: Final = np.float32(126.0)
# Taylor's series of 2^f: ln(2)^n / n!
_C1: Final = np.float32(LN2)
_C2: Final = np.float32(LN2**2 / 2)
_C3: Final = np.float32(LN2**3 / 6)
_C4: Final = np.float32(LN2**4 / 24)
_C5: Final = np.float32(LN2**5 / 120)
_C6: Final = np.float32(LN2**6 / 720)
_C7: Final = np.float32(LN2**7 / 5040)


@kernel
def exp2(x: float) -> float:
    """2^x for x within -1000..1000, relative error below 4e-16.

    Taylor's series of e^(f ln 2) on |f| <= 1/2, whose first neglected term is below 1e-18.
    """
    k = math.floor(x + 0.5)
    y = (x - k) * 0.6931471805599453
    e = 1.0
    for n in range(14, 0, -1):
        e = 1.0 + y * e / n
    return math.ldexp(e, int(k))


@kernel
def sigmoid(x: float) -> float:
    """1 / (1 + e^-x), relative error below 1e-13; x beyond -690..690 counts as the limit."""
    return 1.0 / (1.0 + exp2(-min(max(x, -690.0), 690.0) * LOG2_E))


@kernel
def ln(x: float) -> float:
    """The natural logarithm of a normal, finite x above 0, absolute error below 1e-15 near 1.

    ln(m) = 2 artanh(s) with s = (m - 1) / (m + 1), by its series on |s| <= 0.172, whose first
    neglected term is below 1e-18.
    """
    m, exponent = math.frexp(x)
    if m < _SQRT_HALF:
        m *= 2.0
        exponent -= 1
    s = (m - 1.0) / (m + 1.0)
    square = s * s
    series = 0.0
    for n in range(21, 0, -2):
        series = 1.0 / n + square * series
    return exponent * LN2 + 2.0 * s * series


@kernel
def log_odds(p: float) -> float:
    """ln(p / (1 - p)), for p kept within ODDS_LIMIT..1 - ODDS_LIMIT."""
    bounded = min(max(p, ODDS_LIMIT), 1.0 - ODDS_LIMIT)
    return ln(bounded) - ln(1.0 - bounded)


@kernel
def sine_of_turns(x: float) -> float:
    """The sine of x whole turns, sin(2 pi x), absolute error below 1e-14 for |x| up to 10."""
    x -= math.floor(x + 0.5)
    if x > 0.25:
        x = 0.5 - x
    elif x < -0.25:
        x = -0.5 - x
    y = x * _TWO_PI
    square = y * y
    series = 1.0
    for n in range(20, 0, -2):
        series = 1.0 - square / (n * (n + 1)) * series
    return y * series


@kernel
def exp2_32(x: Any) -> Any:
    """2^x in float32, relative error below 3e-7; x beyond -126..126 counts as the limit."""
    x = min(max(x, -_MOST32), _MOST32)
    k = np.float32(math.floor(x + _HALF32))
    f = x - k
    e = _C6 + f * _C7
    e = _C5 + f * e
    e = _C4 + f * e
    e = _C3 + f * e
    e = _C2 + f * e
    e = _C1 + f * e
    e = _ONE32 + f * e
    # A float32 whose exponent field is k + 127 and whose fraction is 0 is 2^k.
    return e * np.int32((np.int32(k) + 127) << 23).view(np.float32)


@kernel
def exp32(x: Any) -> Any:
    """e^x in float32 for |x| up to 20, relative error below 3e-6."""
    return exp2_32(x * _LOG2_E32)


@kernel
def sigmoid32(x: Any) -> Any:
    """1 / (1 + e^-x) in float32, absolute error below 3e-7."""
    return np.divide(_ONE32, _ONE32 + exp2_32(-x * _LOG2_E32))


@kernel
def tanh32(x: Any) -> Any:
    """The hyperbolic tangent in float32, absolute error below 3e-7."""
    e = exp2_32(x * _TWO_LOG2_E32)
    # Beyond |x| of 43 the exponential is cut off, where the quotient is 1 in float32 long since.
    return np.divide(e - _ONE32, e + _ONE32)
