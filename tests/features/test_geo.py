"""Distances on the sphere, against another formula."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.features.geo import EARTH_RADIUS_KM, direction, haversine_km, unit_vector
from tests.oracle import sphere_km

places = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


@settings(deadline=None)
@given(a=places, b=places)
def test_distance_is_that_of_unit_vectors(a: tuple[float, float], b: tuple[float, float]) -> None:
    # Near the antipode a haversine has only half of a float's digits: 0.1 km of 20,000.
    assert haversine_km(*a, *b) == pytest.approx(sphere_km(a, b), rel=1e-9, abs=1e-6) or (
        sphere_km(a, b) > 19_000 and haversine_km(*a, *b) == pytest.approx(sphere_km(a, b), abs=0.2)
    )


@pytest.mark.parametrize("missing", range(4))
def test_a_missing_coordinate_gives_a_missing_distance(missing: int) -> None:
    point = [50.0, 8.0, 51.0, 9.0]
    point[missing] = math.nan
    assert math.isnan(haversine_km(*point))


def test_antipodes_are_half_way_round() -> None:
    assert haversine_km(12.0, 30.0, -12.0, -150.0) == pytest.approx(math.pi * EARTH_RADIUS_KM)


@settings(deadline=None)
@given(lat=st.floats(-89.9, 89.9), long=st.floats(-179.9, 179.9))
def test_direction_undoes_unit_vector(lat: float, long: float) -> None:
    assert direction(*unit_vector(lat, long)) == pytest.approx((lat, long), abs=1e-9)


def test_the_null_vector_has_a_direction_all_the_same() -> None:
    assert direction(0.0, 0.0, 0.0) == (0.0, 0.0)
