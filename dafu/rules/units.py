"""Units of numbers: what fits what, and the factors between them.

A quantity has a dimension (length, time, ...) and a scale. Plain numbers are "bare": they take
the unit of whatever they are compared with or added to. Dimension checking catches
`km_from_home > 5min` when the rule is loaded. Knows nothing of expressions.

Factors: the international mile is 1609.344 m exactly (NIST SP 811, appendix B).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

Dimension = tuple[tuple[str, int], ...]

_LENGTH: Final[Dimension] = (("length", 1),)
_TIME: Final[Dimension] = (("time", 1),)
_SPEED: Final[Dimension] = (("length", 1), ("time", -1))
_MONEY: Final[Dimension] = (("currency", 1),)
_ANGLE: Final[Dimension] = (("angle", 1),)

_CALLED: Final[dict[Dimension, str]] = {
    (): "a plain number",
    _LENGTH: "a distance",
    _TIME: "a duration",
    _SPEED: "a speed",
    _MONEY: "an amount of money",
    _ANGLE: "an angle",
}


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a number measures.

    Attributes
    ----------
    dimension : tuple of (base, exponent)
        Sorted; empty for plain numbers.
    scale : Fraction
        Size of the unit in base units (m, s, 1).
    label : str
        The unit as it is shown behind a value.
    bare : bool
        A number without any unit, which fits everything.
    explicit : bool
        Written with a unit in the expression: it demands a partner of its dimension.
    """

    dimension: Dimension = ()
    scale: Fraction = Fraction(1)
    label: str = ""
    bare: bool = False
    explicit: bool = False

    def __str__(self) -> str:
        if self.explicit and not self.dimension:
            return "a percentage"
        called = _CALLED.get(self.dimension)
        if called is None:
            called = "*".join(b if e == 1 else f"{b}^{e}" for b, e in self.dimension)
        return f"{called} in {self.label}" if self.label and self.dimension else called


BARE: Final = Quantity(bare=True)
PLAIN: Final = Quantity()

_MILE: Final = Fraction(1_609_344, 1000)

_UNITS: Final[dict[str, Quantity]] = {
    "km": Quantity(_LENGTH, Fraction(1000), "km"),
    "m": Quantity(_LENGTH, Fraction(1), "m"),
    "mi": Quantity(_LENGTH, _MILE, "mi"),
    "ms": Quantity(_TIME, Fraction(1, 1000), "ms"),
    "s": Quantity(_TIME, Fraction(1), "s"),
    "min": Quantity(_TIME, Fraction(60), "min"),
    "h": Quantity(_TIME, Fraction(3600), "h"),
    "d": Quantity(_TIME, Fraction(86_400), "d"),
    "km/h": Quantity(_SPEED, Fraction(1000, 3600), "km/h"),
    "m/s": Quantity(_SPEED, Fraction(1), "m/s"),
    "%": Quantity((), Fraction(1, 100), "%"),
    "currency": Quantity(_MONEY),
    "deg": Quantity(_ANGLE, label="deg"),
}
_ALIASES: Final = {"kmh": "km/h", "seconds": "s", "days": "d", "hours": "h", "degrees": "deg"}

LITERAL_UNITS: Final = ("km", "m", "mi", "s", "min", "h", "d", "kmh", "%")
"""Suffixes that may follow a number in a condition."""


def quantity_of(unit: str) -> Quantity:
    """The quantity of a column whose unit is `unit`; unknown units are plain numbers."""
    return _UNITS.get(_ALIASES.get(unit, unit), PLAIN)


def literal_quantity(suffix: str) -> Quantity:
    """The quantity of a number written with `suffix` ("" for none)."""
    if not suffix:
        return BARE
    return replace(quantity_of(suffix), explicit=True)


def common(a: Quantity, b: Quantity) -> Quantity | None:
    """The quantity in which `a` and `b` can be compared or added; None if they do not fit."""
    for plain, other in ((a, b), (b, a)):
        if plain.bare:
            # 1 - 20% is 0.8: a percentage beside a plain number is the fraction it stands for.
            return BARE if other.explicit and not other.dimension else other
    if a.dimension == b.dimension:
        return b if a.explicit and not b.explicit else a
    if (a.dimension and b.dimension) or a.explicit or b.explicit:
        return None
    return a if a.dimension else b


def factor(source: Quantity, target: Quantity) -> Fraction:
    """What a value in `source` is multiplied by to be in `target` (1 where units do not apply)."""
    if source.bare or source.dimension != target.dimension:
        return Fraction(1)
    return source.scale / target.scale


def product(a: Quantity, b: Quantity, sign: int = 1) -> Quantity:
    """The quantity of `a * b`, or of `a / b` with sign -1."""
    if a.bare and b.bare:
        return BARE
    exponents = dict(a.dimension)
    for base, exponent in b.dimension:
        exponents[base] = exponents.get(base, 0) + sign * exponent
    dimension = tuple(sorted((base, e) for base, e in exponents.items() if e))
    scale = a.scale * b.scale**sign
    label = ""
    if not b.dimension and b.scale == 1:
        label = a.label
    elif not a.dimension and a.scale == 1 and sign == 1:
        label = b.label
    explicit = any(q.explicit and q.dimension for q in (a, b))
    return Quantity(dimension, scale, label, explicit=bool(explicit and dimension))
