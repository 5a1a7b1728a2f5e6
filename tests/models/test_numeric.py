"""Elementary functions against the C library's, over the ranges that they promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dafu.kernel import kernel
from dafu.models.numeric import exp2, exp2_32, exp32, ln, sigmoid, sigmoid32, sine_of_turns, tanh32

F32 = NDArray[np.float32]


@kernel
def _exp2_32(x: F32, out: F32) -> None:
    for i in range(len(x)):
        out[i] = exp2_32(x[i])


@kernel
def _exp32(x: F32, out: F32) -> None:
    for i in range(len(x)):
        out[i] = exp32(x[i])


@kernel
def _sigmoid32(x: F32, out: F32) -> None:
    for i in range(len(x)):
        out[i] = sigmoid32(x[i])


@kernel
def _tanh32(x: F32, out: F32) -> None:
    for i in range(len(x)):
        out[i] = tanh32(x[i])


def over(loop: Callable[[F32, F32], None], x: F32) -> NDArray[np.float64]:
    out = np.empty_like(x)
    loop(x, out)
    return out.astype(np.float64)


@given(st.floats(-60, 10))
def test_exp2_is_accurate(x: float) -> None:
    assert exp2(x) == pytest.approx(2.0**x, rel=1e-15)


@given(st.integers(-900, 900))
def test_exp2_is_exact_for_whole_exponents(k: int) -> None:
    assert Fraction(exp2(float(k))) == Fraction(2) ** k


@given(st.floats(-690, 690))
def test_sigmoid(x: float) -> None:
    assert sigmoid(x) == pytest.approx(1.0 / (1.0 + math.exp(-x)), rel=1e-13)


@pytest.mark.parametrize("x", [700.0, 1e300, math.inf])
def test_sigmoid_has_limits(x: float) -> None:
    assert sigmoid(x) == 1.0
    assert 0.0 <= sigmoid(-x) < 1e-299


@given(st.floats(1e-300, 1e300))
def test_ln(x: float) -> None:
    assert ln(x) == pytest.approx(math.log(x), rel=1e-15, abs=1e-15)


@given(st.floats(-10, 10))
def test_sine_of_turns(x: float) -> None:
    assert sine_of_turns(x) == pytest.approx(math.sin(2 * math.pi * x), abs=1e-14)


@pytest.mark.parametrize("quarter, sine", [(0, 0.0), (1, 1.0), (2, 0.0), (3, -1.0)])
def test_sine_of_quarters(quarter: int, sine: float) -> None:
    assert sine_of_turns(quarter / 4) == pytest.approx(sine, abs=1e-15)


def test_exponentials_in_float32() -> None:
    x = np.linspace(-126, 126, 400_001).astype(np.float32)
    np.testing.assert_allclose(over(_exp2_32, x), np.exp2(x.astype(np.float64)), rtol=3e-7)
    x = np.linspace(-20, 20, 400_001).astype(np.float32)
    np.testing.assert_allclose(over(_exp32, x), np.exp(x.astype(np.float64)), rtol=3e-6)


@pytest.mark.parametrize("span", [1e-3, 1.0, 100.0])
def test_activations_in_float32(span: float) -> None:
    x = np.linspace(-span, span, 400_001).astype(np.float32)
    wide: Any = x.astype(np.float64)
    np.testing.assert_allclose(over(_sigmoid32, x), 1 / (1 + np.exp(-wide)), rtol=0, atol=3e-7)
    np.testing.assert_allclose(over(_tanh32, x), np.tanh(wide), rtol=0, atol=3e-7)


def test_activations_have_limits() -> None:
    x = np.array([-np.inf, -1e30, 1e30, np.inf], np.float32)
    np.testing.assert_allclose(over(_sigmoid32, x), [0, 0, 1, 1], atol=1e-37)
    np.testing.assert_array_equal(over(_tanh32, x), [-1, -1, 1, 1])


@pytest.mark.parametrize("loop", [_exp2_32, _sigmoid32, _tanh32])
def test_vector_code_gives_the_bits_of_scalar_code(loop: Callable[[F32, F32], None]) -> None:
    x = np.random.default_rng(0).normal(0, 5, 1000).astype(np.float32)
    alone = [over(loop, x[i : i + 1]) for i in range(len(x))]
    assert np.concatenate(alone).tobytes() == over(loop, x).tobytes()
