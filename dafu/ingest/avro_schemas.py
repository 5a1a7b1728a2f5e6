"""Schemas of Avro (1.12) as the registry has them -> schemas that say all by themselves.

A decoder believes its schema, and goes as deep as the data says. So what comes out of here has no
names to look up, which also means that nothing in it can refer to itself; it is no larger than
`MAX_NODES` and no deeper than `MAX_DEPTH`, and it has no arrays of what takes no bytes, of which
five bytes could hold billions. Defaults, aliases and documentation are left out: they are for
readers with a schema of their own.

Types whose values are more than Avro's own get a logical type of ours, which `dafu.ingest.avro`
knows how to read. This module reads no data.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, Final

import msgspec

from dafu.schema import MAX_DEPTH

__all__ = ["DATE", "DECIMAL", "HEX", "MAX_NODES", "TIME", "UUID", "SchemaError", "self_contained"]

MAX_NODES: Final = 20_000
"""Types in a schema; what a name stands for counts as often as the name is used."""

TIME: Final = "dafu-time"
"""A time since the epoch, so many (`per_ms`) of its unit a millisecond."""
DATE: Final = "dafu-date"
DECIMAL: Final = "dafu-decimal"
"""An integer below `bound`, which counts units of the digit `scale` behind the point."""
UUID: Final = "dafu-uuid"
HEX: Final = "dafu-hex"
"""Bytes that are nothing else."""

_PRIMITIVE: Final = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
_TIMES: Final = {
    f"{zone}timestamp-{unit}": per_ms
    for zone in ("", "local-")
    for unit, per_ms in (("millis", 1), ("micros", 1_000), ("nanos", 1_000_000))
}
_MAX_PRECISION: Final = 1000


class SchemaError(ValueError):
    """A schema that payments can not be read by."""


def self_contained(text: str, references: Sequence[str] = ()) -> Any:
    """A schema with the definitions that it refers to in their places.

    Parameters
    ----------
    text
        The schema, JSON.
    references
        Those that it builds on, each behind those that it builds on itself.

    Raises
    ------
    SchemaError
    """
    resolver = _Resolver()
    found = None
    for each in (*references, text):
        try:
            found = resolver.resolve(msgspec.json.decode(each), "", 0)
        except KeyError as exc:
            raise SchemaError(f"a type of it has no `{exc.args[0]}`") from exc
        except (TypeError, AttributeError, RecursionError, msgspec.MsgspecError) as exc:
            raise SchemaError(f"it is no schema of Avro: {exc}") from exc
    return found


class _Resolver:
    """Replaces names by what they were defined to be, and gives each copy a name of its own."""

    def __init__(self) -> None:
        self._definitions: dict[str, tuple[dict[str, Any], str]] = {}
        self._inside: list[str] = []
        self._numbers = count(1)

    def resolve(self, schema: Any, space: str, depth: int) -> Any:
        """What a type within a namespace is by itself."""
        number = next(self._numbers)
        if number > MAX_NODES or depth > MAX_DEPTH:
            raise SchemaError(f"it has more than {MAX_NODES} types, or is over {MAX_DEPTH} deep")
        if isinstance(schema, list):
            return [self.resolve(branch, space, depth + 1) for branch in schema]
        if isinstance(schema, str):
            if schema not in _PRIMITIVE:
                return self._named(schema, space, depth)
            schema = {"type": schema}
        kind = schema["type"]
        if kind in ("record", "error"):
            return self._record(schema, space, depth, number)
        if kind == "array":
            items = self.resolve(schema["items"], space, depth + 1)
            if not _takes_bytes(items):
                raise SchemaError("it has an array of what takes no bytes")
            return {"type": kind, "items": items}
        if kind == "map":
            return {"type": kind, "values": self.resolve(schema["values"], space, depth + 1)}
        if kind == "enum":
            self._define(schema, space)
            return {"type": kind, "name": f"t{number}", "symbols": schema["symbols"]}
        if kind == "fixed":
            self._define(schema, space)
            size = schema["size"]
            if not isinstance(size, int) or size < 0:
                raise SchemaError("a type of it has a size that is none")
            return {"type": kind, "name": f"t{number}", "size": size} | _bytes_as(schema)
        if kind in _PRIMITIVE:
            return _primitive(schema)
        return self.resolve(kind, space, depth + 1)

    def _record(self, schema: dict[str, Any], space: str, depth: int, number: int) -> Any:
        name = self._define(schema, space)
        if name in self._inside:
            raise SchemaError(f"{name} is within itself")
        self._inside.append(name)
        within = name.rpartition(".")[0]
        fields = [
            {"name": field["name"], "type": self.resolve(field["type"], within, depth + 1)}
            for field in schema["fields"]
        ]
        self._inside.pop()
        return {"type": "record", "name": f"t{number}", "fields": fields}

    def _define(self, schema: dict[str, Any], space: str) -> str:
        """Remember what a name stands for, and return it in full."""
        name: str = schema["name"]
        if "." not in name:
            name = _full(name, schema.get("namespace", space))
        self._definitions[name] = (schema, space)
        return name

    def _named(self, name: str, space: str, depth: int) -> Any:
        full = name if "." in name else _full(name, space)
        # A name that is not in the namespace around it may be in none.
        found = self._definitions.get(full) or self._definitions.get(name)
        if found is None:
            raise SchemaError(f"it does not say what {full} is")
        return self.resolve(*found, depth)


def _full(name: str, space: str) -> str:
    return f"{space}.{name}" if space else name


def _primitive(schema: dict[str, Any]) -> Any:
    kind, logical = schema["type"], schema.get("logicalType")
    if kind == "bytes":
        return {"type": kind} | _bytes_as(schema)
    if kind == "long" and logical in _TIMES:
        return {"type": kind, "logicalType": TIME, "per_ms": _TIMES[logical]}
    if kind == "int" and logical == "date":
        return {"type": kind, "logicalType": DATE}
    return kind


def _bytes_as(schema: dict[str, Any]) -> dict[str, Any]:
    """How bytes are read; a logical type that can not be is none (Avro 1.12, Logical Types)."""
    logical, precision, scale = (
        schema.get(key, default)
        for key, default in (("logicalType", None), ("precision", 0), ("scale", 0))
    )
    if logical == "decimal" and isinstance(precision, int) and isinstance(scale, int):
        if 0 <= scale <= precision and 0 < precision <= _MAX_PRECISION:
            return {"logicalType": DECIMAL, "bound": 10**precision, "scale": scale}
    elif logical == "uuid" and schema.get("size") == 16:
        return {"logicalType": UUID}
    return {"logicalType": HEX}


def _takes_bytes(schema: Any) -> bool:
    """Whether each value of a resolved type takes bytes."""
    if not isinstance(schema, dict):
        return bool(schema != "null")
    if schema["type"] == "record":
        return any(_takes_bytes(field["type"]) for field in schema["fields"])
    return "size" not in schema or schema["size"] > 0
