"""Mappings: which column of somebody's file is which field of a transaction.

A mapping is a YAML file; `conf/mappings` has some. Its keys:

`fields`
    Field of `dafu.schema.Transaction` to a column name, or to a mapping with
    `column` (a name, or several of which the first that the file has is taken) or `constant`,
    `prefix` (put before the text, to tell ids of different sources apart), `optional` (the file
    may lack the column), `format` (of `timestamp`: `iso` by default, which takes a time without
    an offset as UTC, or `epoch_s`, `epoch_ms`), `divide` (of `amount`: 100 where a file has cents).
`attributes`
    Names of further columns that travel along, as a list, or as a mapping from the attribute's
    name to a column or to the keys above and `cast` (`text`, `float`, `int`, `bool`). All are
    optional. A CSV file has text only, so that a number that rules compare needs a cast.
`labels`
    `is_fraud`, `fraud_scenario`, `ring_id` and `look_alike_id` (which fraud ring or harmless
    group a transaction belongs to), written like fields. They are for training and evaluation
    and are never published.
`ignore`, `other_columns`
    Columns that are left out, and what happens to columns that nothing mentions: `ignore` (by
    default), `attributes`, or `error`.

This module knows names and types. It reads no data.
"""

from __future__ import annotations

import difflib
import os
import typing
from collections.abc import Mapping as AbstractMapping
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import yaml
from msgspec import Meta, Struct

from dafu.errors import DafuError
from dafu.schema import TRANSACTION_FIELDS, Transaction
from dafu.settings import find_conf

__all__ = [
    "Cast",
    "LABELS",
    "Column",
    "Mapping",
    "MappingError",
    "Source",
    "TimeFormat",
    "field_cast",
    "load_mapping",
]

Cast = Literal["text", "float", "int", "bool", "timestamp"]
TimeFormat = Literal["iso", "epoch_s", "epoch_ms"]

REQUIRED: Final = ("transaction_id", "user_id", "merchant_id", "amount", "timestamp")
LABELS: Final[dict[str, Cast]] = {
    "is_fraud": "bool",
    "fraud_scenario": "text",
    "ring_id": "text",
    "look_alike_id": "text",
}
_INDEX_NAMES: Final = ("", "unnamed: 0", "index", "__index_level_0__")


class MappingError(DafuError):
    """A mapping that is wrong in itself, or that does not fit the file."""


class Source(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the values of one field come from."""

    column: str | list[str] | None = None
    constant: str | int | float | bool | None = None
    prefix: str = ""
    optional: bool = False
    format: TimeFormat | None = None
    cast: Literal["text", "float", "int", "bool"] | None = None
    divide: Annotated[float, Meta(gt=0.0, le=1e12)] = 1.0

    @property
    def columns(self) -> list[str]:
        """Names of the column, most wanted first."""
        if self.column is None:
            return []
        return [self.column] if isinstance(self.column, str) else self.column


class Column(NamedTuple):
    """One output column of a file: its name, the column to read, and how to convert it.

    `source` is None for a constant; `cast` None keeps values as they are.
    """

    name: str
    source: str | None
    cast: Cast | None
    required: bool
    spec: Source


class Plan(NamedTuple):
    """A mapping applied to the columns of one file."""

    fields: list[Column]
    attributes: list[Column]
    labels: list[Column]


_Given = str | Source


class _Document(Struct, frozen=True, forbid_unknown_fields=True):
    fields: dict[str, _Given]
    description: str = ""
    attributes: list[str] | dict[str, _Given] = []
    labels: dict[str, _Given] = {}
    ignore: list[str] = []
    other_columns: Literal["ignore", "attributes", "error"] = "ignore"


def field_cast(name: str) -> Cast:
    """What the values of a field are converted to."""
    if name == "timestamp":
        return "timestamp"
    hints = typing.get_type_hints(Transaction)
    return "float" if float in (hints[name], *typing.get_args(hints[name])) else "text"


_FIELD_CASTS: Final[dict[str, Cast]] = {name: field_cast(name) for name in TRANSACTION_FIELDS}


class Mapping:
    """A checked mapping; `plan` fits it to the columns of a file.

    Parameters
    ----------
    document
        What the YAML file says.
    origin
        The file's name, for messages.

    Raises
    ------
    MappingError
        When the document is no mapping.
    """

    def __init__(self, document: Any, origin: str) -> None:
        self.origin = origin
        try:
            doc = msgspec.convert(document, _Document)
        except msgspec.ValidationError as exc:
            raise MappingError(f"mapping {origin}: {exc}") from None
        self.description = doc.description
        self.ignore = doc.ignore
        self.other_columns = doc.other_columns
        self.fields = {name: _source(given) for name, given in doc.fields.items()}
        self.labels = {name: _source(given) for name, given in doc.labels.items()}
        attributes = doc.attributes
        if isinstance(attributes, list):
            attributes = {name: name for name in attributes}
        self.attributes = {name: _source(given) for name, given in attributes.items()}
        self._check()

    def _check(self) -> None:
        problems = [
            f"the field `{name}` is missing: every transaction has one"
            for name in REQUIRED
            if name not in self.fields
        ]
        for kind, given, known in (
            ("field", self.fields, list(TRANSACTION_FIELDS)),
            ("label", self.labels, list(LABELS)),
        ):
            for name in given:
                if name not in known:
                    close = difflib.get_close_matches(name, known, n=1)
                    hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known)}"
                    problems.append(f"there is no {kind} `{name}`; {hint}")
        problems += [
            f"the attribute `{name}` has the name of a field or label"
            for name in self.attributes
            if name in TRANSACTION_FIELDS or name in LABELS
        ]
        for name, source in [*self.fields.items(), *self.labels.items(), *self.attributes.items()]:
            if (source.constant is None) == (not source.columns):
                problems.append(f"`{name}` needs either a column or a constant")
            if source.format is not None and name != "timestamp":
                problems.append(f"`{name}` has a format, which only `timestamp` can have")
            if source.divide != 1.0 and name != "amount":
                problems.append(f"`{name}` has a divisor, which only `amount` can have")
            if source.cast is not None and name not in self.attributes:
                problems.append(f"`{name}` has a cast, but its type is fixed: only attributes do")
            text = _FIELD_CASTS.get(name, source.cast) == "text"
            if source.prefix and not text:
                problems.append(f"`{name}` has a prefix, but is no text")
        problems += [
            f"`{name}` can not be a constant"
            for name in ("timestamp", "transaction_id")
            if name in self.fields and self.fields[name].constant is not None
        ]
        amount = self.fields.get("amount", Source()).constant
        if amount is not None and not isinstance(amount, int | float):
            problems.append("the constant of `amount` is no number")
        if problems:
            raise MappingError(f"mapping {self.origin}: " + "; ".join(problems))

    def plan(self, columns: Sequence[str], file: str) -> Plan:
        """Find every column that the mapping asks for among those of a file.

        Names are compared exactly, then without regard to case and surrounding blanks. A leading
        column without a name, as pandas writes its index, does not count.

        Raises
        ------
        MappingError
            Naming the mapping, what is missing, and the columns that the file has.
        """
        present = list(columns)
        if present and present[0].strip().lower() in _INDEX_NAMES:
            present = present[1:]
        loose = {name.strip().lower(): name for name in reversed(present)}
        problems: list[str] = []
        used: set[str] = set()

        def find(name: str) -> str | None:
            found = name if name in present else loose.get(name.strip().lower())
            if found is not None:
                used.add(found)
            return found

        def resolve(kind: str, name: str, cast: Cast | None, source: Source) -> Column | None:
            required = kind == "field" and name in REQUIRED
            if source.constant is not None:
                return Column(name, None, cast, required, source)
            found = [column for wanted in source.columns if (column := find(wanted)) is not None]
            if found:
                return Column(name, found[0], cast, required, source)
            if required or not source.optional:
                wanted = " or ".join(f"`{column}`" for column in source.columns)
                problems.append(f"{kind} `{name}` wants column {wanted}")
            return None

        fields = [
            resolve("field", name, _FIELD_CASTS[name], self.fields[name])
            for name in TRANSACTION_FIELDS
            if name in self.fields
        ]
        labels = [resolve("label", n, LABELS[n], source) for n, source in self.labels.items()]
        optional = {
            name: msgspec.structs.replace(source, optional=True)
            for name, source in self.attributes.items()
        }
        attributes = [resolve("attribute", n, s.cast, s) for n, s in optional.items()]
        for name in self.ignore:
            find(name)
        rest = [column for column in present if column not in used]
        if self.other_columns == "attributes":
            attributes += [Column(c, c, None, False, Source(c)) for c in rest]
        elif rest and self.other_columns == "error":
            problems.append(f"the mapping says nothing of: {', '.join(rest)}")
        if problems:
            raise MappingError(
                f"mapping {self.origin} does not fit {file}: {'; '.join(problems)}. "
                f"The file has the columns: {', '.join(present) or '(none)'}"
            )
        return Plan(
            *([column for column in part if column] for part in (fields, attributes, labels))
        )


def _source(given: _Given) -> Source:
    return Source(given) if isinstance(given, str) else given


def load_mapping(name: str, environ: AbstractMapping[str, str] | None = None) -> Mapping:
    """Load a mapping by name (`conf/mappings/NAME.yaml`) or from a path that ends with `.yaml`.

    Raises
    ------
    MappingError
        When there is no such mapping (naming those that there are) or it is wrong.
    """
    environ = os.environ if environ is None else environ
    if name.endswith((".yaml", ".yml")) or "/" in name or os.sep in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise MappingError(f"there is no mapping file {path}")
    else:
        path = find_conf(f"mappings/{name}.yaml", environ)
        if not path.is_file():
            shipped = find_conf("mappings/dafu.yaml", environ).parent
            names = sorted({p.stem for p in [*path.parent.glob("*.yaml"), *shipped.glob("*.yaml")]})
            raise MappingError(
                f"there is no mapping `{name}`; there are: {', '.join(names)}. "
                "Give one of them, or the path of a YAML file"
            )
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        text = " ".join(str(exc).split())
        raise MappingError(f"mapping {path} can not be read: {text}") from exc
    return Mapping(document, str(path))
