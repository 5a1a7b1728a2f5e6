"""The world in which the generator lives: cities, merchants, users.

Fixed tables and vectorised draws from the generators it is given. It knows no transaction.
Coordinates are WGS 84 degrees; amounts are in the currency of the cardholder, all of which are
within a factor of two of each other, so that an amount means about the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

EARTH_RADIUS_KM: Final = 6371.0088  # mean radius, IUGG
CITY_RADIUS_KM: Final = 12.0
"""Nobody lives or shops farther than this from the centre of a city."""

# name, country, currency, latitude, longitude, weight (inhabitants, roughly, in millions)
_CITIES: Final = (
    ("London", "GB", "GBP", 51.5072, -0.1276, 9.0),
    ("New York", "US", "USD", 40.7128, -74.0060, 8.5),
    ("Paris", "FR", "EUR", 48.8566, 2.3522, 7.0),
    ("Berlin", "DE", "EUR", 52.5200, 13.4050, 3.7),
    ("Madrid", "ES", "EUR", 40.4168, -3.7038, 3.3),
    ("Sydney", "AU", "AUD", -33.8688, 151.2093, 5.3),
    ("Toronto", "CA", "CAD", 43.6532, -79.3832, 2.9),
    ("Singapore", "SG", "SGD", 1.3521, 103.8198, 5.6),
    ("Rome", "IT", "EUR", 41.9028, 12.4964, 2.8),
    ("Zurich", "CH", "CHF", 47.3769, 8.5417, 0.9),
    ("Los Angeles", "US", "USD", 34.0522, -118.2437, 4.0),
    ("Amsterdam", "NL", "EUR", 52.3676, 4.9041, 1.1),
    ("Manchester", "GB", "GBP", 53.4808, -2.2426, 2.0),
    ("Munich", "DE", "EUR", 48.1351, 11.5820, 1.5),
    ("Lyon", "FR", "EUR", 45.7640, 4.8357, 1.4),
    ("Barcelona", "ES", "EUR", 41.3874, 2.1686, 1.6),
    ("Chicago", "US", "USD", 41.8781, -87.6298, 2.7),
    ("Vienna", "AT", "EUR", 48.2082, 16.3738, 1.9),
    ("Dublin", "IE", "EUR", 53.3498, -6.2603, 1.3),
    ("Milan", "IT", "EUR", 45.4642, 9.1900, 1.4),
    ("Lisbon", "PT", "EUR", 38.7223, -9.1393, 1.0),
    ("Brussels", "BE", "EUR", 50.8503, 4.3517, 1.2),
    ("Hamburg", "DE", "EUR", 53.5511, 9.9937, 1.8),
    ("Melbourne", "AU", "AUD", -37.8136, 144.9631, 5.0),
    ("Vancouver", "CA", "CAD", 49.2827, -123.1207, 1.2),
    ("Birmingham", "GB", "GBP", 52.4862, -1.8904, 1.1),
    ("Houston", "US", "USD", 29.7604, -95.3698, 2.3),
    ("Athens", "GR", "EUR", 37.9838, 23.7275, 0.7),
    ("Helsinki", "FI", "EUR", 60.1699, 24.9384, 0.7),
    ("Auckland", "NZ", "NZD", -36.8509, 174.7645, 1.6),
    ("Cologne", "DE", "EUR", 50.9375, 6.9603, 1.1),
    ("Geneva", "CH", "CHF", 46.2044, 6.1432, 0.5),
    ("Naples", "IT", "EUR", 40.8518, 14.2681, 0.9),
    ("Porto", "PT", "EUR", 41.1579, -8.6291, 0.5),
    ("Valencia", "ES", "EUR", 39.4699, -0.3763, 0.8),
    ("Montreal", "CA", "CAD", 45.5019, -73.5674, 1.8),
)
COUNTRIES: Final = tuple(sorted({c[1] for c in _CITIES}))
CURRENCIES: Final = tuple(sorted({c[2] for c in _CITIES}))

# name, median amount, sigma of ln(amount), share of merchants, share of them that sell online
_CATEGORIES: Final = (
    ("grocery", 32.0, 0.75, 0.20, 0.08),
    ("restaurant", 24.0, 0.65, 0.20, 0.10),
    ("fuel", 48.0, 0.40, 0.08, 0.00),
    ("pharmacy", 18.0, 0.70, 0.07, 0.15),
    ("clothing", 55.0, 0.75, 0.12, 0.40),
    ("electronics", 140.0, 1.00, 0.07, 0.55),
    ("travel", 220.0, 0.90, 0.04, 0.75),
    ("entertainment", 28.0, 0.70, 0.08, 0.40),
    ("digital_goods", 11.0, 0.60, 0.06, 1.00),
    ("home_garden", 60.0, 0.85, 0.06, 0.35),
    ("jewelry", 260.0, 0.90, 0.02, 0.40),
)
CATEGORIES: Final = tuple(c[0] for c in _CATEGORIES)
_MEDIAN: Final = np.array([c[1] for c in _CATEGORIES])
_SIGMA: Final = np.array([c[2] for c in _CATEGORIES])

FAVOURITES: Final = 8
ONLINE_FAVOURITES: Final = 4
_CANDIDATES: Final = 24


@dataclass(frozen=True, slots=True)
class Cities:
    """The cities that merchants are in, C of them; country and currency as indices."""

    country: I64
    currency: I64
    lat: F64
    long: F64
    weight: F64


@dataclass(frozen=True, slots=True)
class Merchants:
    """M merchants. `shop_*` order the physical ones by city, `web_*` the ones that sell online."""

    city: I64
    country: I64
    category: I64
    lat: F64
    long: F64
    price: F64
    shops: I64
    shop_edges: F64
    shop_cumulative: F64
    web: I64
    web_cumulative: F64


@dataclass(frozen=True, slots=True)
class Users:
    """U users: where they live, how much and how they spend, whom they buy from."""

    city: I64
    lat: F64
    long: F64
    currency: I64
    rate: F64
    spending: F64
    online: F64
    devices: I64
    cards: I64
    secret: U64
    favourites: I64
    online_favourites: I64


def distance_km(lat1: F64, long1: F64, lat2: F64, long2: F64) -> F64:
    """Great-circle distance by the haversine formula, elementwise.

    >>> round(float(distance_km(*(np.array([v]) for v in (51.5, -0.13, 48.86, 2.35)))[0]))
    343
    """
    p1, p2 = np.radians(lat1), np.radians(lat2)
    a = (
        np.sin((p2 - p1) / 2) ** 2
        + np.cos(p1) * np.cos(p2) * np.sin(np.radians(long2 - long1) / 2) ** 2
    )
    return np.asarray(2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(a, 1.0))))


def mix(*parts: NDArray[Any] | int) -> U64:
    """Hash integers elementwise to 64 bits (the finaliser of SplitMix64, chained)."""
    h = np.array([0x9E3779B97F4A7C15], dtype=np.uint64)
    for part in parts:
        h = h ^ np.asarray(part).astype(np.uint64)
        h = h + np.uint64(0x9E3779B97F4A7C15)
        h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        h = h ^ (h >> np.uint64(31))
    return h


def scatter(rng: Generator, lat: F64, long: F64) -> tuple[F64, F64]:
    """Places around city centres: most near, none beyond `CITY_RADIUS_KM`."""
    radius = CITY_RADIUS_KM * rng.beta(1.3, 3.0, len(lat))
    angle = rng.uniform(0.0, 2 * np.pi, len(lat))
    km_per_degree = np.pi * EARTH_RADIUS_KM / 180.0
    dlat = radius * np.cos(angle) / km_per_degree
    dlong = radius * np.sin(angle) / (km_per_degree * np.cos(np.radians(lat)))
    return np.round(lat + dlat, 5), np.round(long + dlong, 5)


def make_cities(merchants: int) -> Cities:
    """As many of the cities, the first ones, as have work for `merchants`."""
    chosen = _CITIES[: max(1, min(len(_CITIES), merchants // 4))]
    return Cities(
        country=np.array([COUNTRIES.index(c[1]) for c in chosen]),
        currency=np.array([CURRENCIES.index(c[2]) for c in chosen]),
        lat=np.array([c[3] for c in chosen]),
        long=np.array([c[4] for c in chosen]),
        weight=np.array([c[5] for c in chosen]) / sum(c[5] for c in chosen),
    )


def make_merchants(rng: Generator, count: int, cities: Cities) -> Merchants:
    """Draw merchants with Zipf popularity; every city has a shop and the web has one."""
    n_cities = len(cities.lat)
    city = rng.choice(n_cities, count, p=cities.weight)
    category = rng.choice(len(_CATEGORIES), count, p=[c[3] for c in _CATEGORIES])
    online_share = np.array([c[4] for c in _CATEGORIES])[category]
    web = rng.random(count) < online_share
    shops = ~web | (rng.random(count) < 0.3) & (category != CATEGORIES.index("digital_goods"))
    anchored = min(n_cities, count)
    city[:anchored] = np.arange(anchored)
    category[:anchored] = CATEGORIES.index("grocery")
    shops[:anchored] = True
    category[count - 1] = CATEGORIES.index("electronics")
    web[count - 1] = True
    lat, long = scatter(rng, cities.lat[city], cities.long[city])
    popularity = 1.0 / (rng.permutation(count) + 3.0)
    shop_ids = np.flatnonzero(shops)
    shop_ids = shop_ids[np.argsort(city[shop_ids], kind="stable")]
    cumulative = np.cumsum(popularity[shop_ids])
    ends = np.searchsorted(city[shop_ids], np.arange(n_cities), side="right")
    web_ids = np.flatnonzero(web)
    return Merchants(
        city=city,
        country=cities.country[city],
        category=category,
        lat=lat,
        long=long,
        price=rng.lognormal(0.0, 0.2, count),
        shops=shop_ids,
        shop_edges=np.concatenate([[0.0], cumulative[ends - 1]]),
        shop_cumulative=cumulative,
        web=web_ids,
        web_cumulative=np.cumsum(popularity[web_ids]),
    )


def visit(rng: Generator, merchants: Merchants, city: I64) -> I64:
    """A shop in each given city, by popularity."""
    low, high = merchants.shop_edges[city], merchants.shop_edges[city + 1]
    at = low + rng.random(city.shape) * (high - low)
    index = np.searchsorted(merchants.shop_cumulative, at, side="right")
    # Rounding may carry a draw over the edge of its city: keep it within.
    first = np.searchsorted(merchants.shop_cumulative, low, side="right")
    last = np.searchsorted(merchants.shop_cumulative, high, side="left")
    return np.asarray(merchants.shops[np.clip(index, first, last)])


def browse(rng: Generator, merchants: Merchants, shape: tuple[int, ...]) -> I64:
    """Online merchants, by popularity."""
    at = rng.random(shape) * merchants.web_cumulative[-1]
    index = np.searchsorted(merchants.web_cumulative, at, side="right")
    return np.asarray(merchants.web[np.minimum(index, len(merchants.web) - 1)])


def price_of(rng: Generator, merchants: Merchants, merchant: I64, level: F64) -> F64:
    """What a purchase costs: lognormal by category, times the levels of shop and customer."""
    category = merchants.category[merchant]
    noise = np.exp(_SIGMA[category] * rng.standard_normal(len(merchant)))
    return np.asarray(_MEDIAN[category] * noise * merchants.price[merchant] * level)


def make_users(rng: Generator, count: int, cities: Cities, merchants: Merchants) -> Users:
    """Draw users with lognormal activity; favourites by gravity: popular, and near home."""
    city = rng.choice(len(cities.lat), count, p=cities.weight)
    lat, long = scatter(rng, cities.lat[city], cities.long[city])
    candidates = visit(rng, merchants, np.repeat(city[:, None], _CANDIDATES, axis=1))
    away = distance_km(
        lat[:, None], long[:, None], merchants.lat[candidates], merchants.long[candidates]
    )
    # Candidates come by popularity; the Gumbel trick draws among them by exp(-distance / 4 km).
    keys = rng.gumbel(size=away.shape) - away / 4.0
    nearest = np.argsort(-keys, axis=1, kind="stable")[:, :FAVOURITES]
    return Users(
        city=city,
        lat=lat,
        long=long,
        currency=cities.currency[city],
        rate=np.clip(rng.lognormal(0.1, 0.9, count), 0.03, 25.0),
        spending=rng.lognormal(0.0, 0.35, count),
        online=rng.beta(2.0, 4.0, count),
        devices=1 + rng.binomial(2, 0.35, count),
        cards=1 + (rng.random(count) < 0.25).astype(np.int64),
        secret=rng.integers(0, 2**63, count, dtype=np.uint64),
        favourites=np.take_along_axis(candidates, nearest, axis=1),
        online_favourites=browse(rng, merchants, (count, ONLINE_FAVOURITES)),
    )
