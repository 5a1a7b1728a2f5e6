"""Distances on a spherical Earth. Degrees in, kilometres out; NaN in, NaN out."""

from __future__ import annotations

import math
from typing import Final

from dafu.kernel import kernel

EARTH_RADIUS_KM: Final = 6371.0088
"""Mean radius of the Earth (IUGG)."""


@kernel
def haversine_km(lat1: float, long1: float, lat2: float, long2: float) -> float:
    """Great-circle distance in kilometres between two WGS 84 points in degrees."""
    p1 = math.radians(lat1)
    p2 = math.radians(lat2)
    h = (
        math.sin((p2 - p1) / 2.0) ** 2
        + math.cos(p1) * math.cos(p2) * math.sin(math.radians(long2 - long1) / 2.0) ** 2
    )
    if h > 1.0:  # by rounding, near antipodes; min() would turn NaN into 1
        return math.pi * EARTH_RADIUS_KM
    return 2.0 * EARTH_RADIUS_KM * math.asin(math.sqrt(h))


@kernel
def unit_vector(lat: float, long: float) -> tuple[float, float, float]:
    """The point on the unit sphere, so that places can be averaged across the date line."""
    p = math.radians(lat)
    q = math.radians(long)
    return math.cos(p) * math.cos(q), math.cos(p) * math.sin(q), math.sin(p)


@kernel
def direction(x: float, y: float, z: float) -> tuple[float, float]:
    """Latitude and longitude in degrees of a vector; of the null vector, (0, 0)."""
    return math.degrees(math.atan2(z, math.hypot(x, y))), math.degrees(math.atan2(y, x))
