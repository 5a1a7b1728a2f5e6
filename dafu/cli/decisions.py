"""`dafu decisions`: what was decided, for eyes, pipes and files."""

from __future__ import annotations

import asyncio
import csv
import json
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from dafu.schema import Decision, decode_decision

if TYPE_CHECKING:
    from dafu.settings import Settings

_FIELDS: Final = Decision.__struct_fields__
_NESTED: Final = ("scores", "explanations", "reasons", "rules_fired", "versions")
_KINDS: Final = ("approve", "review", "block")
_STYLES: Final = {"approve": "green", "review": "yellow", "block": "bold red"}
_FLUSH_ROWS: Final = 20_000


def decisions(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as decisions come.")
    ] = False,
    count: Annotated[bool, typer.Option("--count", help="Count instead of listing.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write them to a .jsonl, .parquet or .csv file.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.0, help="Stop after so many seconds.")
    ] = None,
    only: Annotated[str | None, typer.Option(help="Only these, such as review,block.")] = None,
) -> None:
    """Show decisions from the beginning, each transaction's once; JSON lines when piped.

    A decision may be on the topic twice, with the same bytes, after a worker crashed. --count says
    how many such repeats there are. A Parquet file has the exact bytes as `payload`.
    """
    kinds = set(_KINDS) if only is None else {kind.strip() for kind in only.split(",")}
    if not kinds <= set(_KINDS):
        raise typer.BadParameter(f"--only takes {', '.join(_KINDS)}, separated by commas")
    if out is not None and out.suffix not in (".jsonl", ".parquet", ".csv"):
        raise typer.BadParameter("--out takes a name that ends with .jsonl, .parquet or .csv")
    from dafu.settings import load_settings

    sink = _sink(out, count=count)
    seen = _Seen(kinds, limit)
    try:
        asyncio.run(_read(load_settings(), seen, sink, follow=follow, timeout=timeout))
    except (KeyboardInterrupt, BrokenPipeError):
        if not follow:
            raise
    finally:
        sink.close()
    if count or out is not None:
        typer.echo(seen.summary())
    elif seen.repeats and sys.stderr.isatty():
        sys.stderr.write(f"{seen.summary()}\n")
    if seen.different:
        sys.stderr.write(f"warning: {seen.different:,} repeats differ from the first decision\n")


async def _read(
    settings: Settings, seen: _Seen, sink: _Sink, *, follow: bool, timeout: float | None
) -> None:
    from dafu.cli.kafka import read_topic

    topic = settings.topics.decisions
    async with aclosing(read_topic(settings, topic, follow=follow, timeout=timeout)) as batches:
        async for records in batches:
            sink.write(seen.new(record.value for record in records))
            if seen.full:
                return


class _Seen:
    """Decisions by transaction: which are new, and how many came again."""

    def __init__(self, kinds: set[str], limit: int | None) -> None:
        self.kinds = kinds
        self.limit = limit
        self.by_kind: Counter[str] = Counter()
        self.repeats = 0
        self.different = 0
        self._payloads: dict[str, int] = {}

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self.limit is not None and self.by_kind.total() >= self.limit

    def new(self, payloads: Iterable[bytes | None]) -> list[tuple[Decision, bytes]]:
        """Those that are wanted and were not there before."""
        found = []
        for payload in payloads:
            if self.full:
                break
            if payload is None:
                continue
            decision = decode_decision(payload)
            if decision.decision not in self.kinds:
                continue
            digest = hash(payload)
            first = self._payloads.setdefault(decision.transaction_id, digest)
            if len(self._payloads) > self.by_kind.total():
                self.by_kind[decision.decision] += 1
                found.append((decision, payload))
            else:
                self.repeats += 1
                self.different += digest != first
        return found

    def summary(self) -> str:
        """The counts, in one line."""
        kinds = ", ".join(f"{kind} {self.by_kind[kind]:,}" for kind in _KINDS if kind in self.kinds)
        return f"{self.by_kind.total():,} decisions ({kinds}), {self.repeats:,} repeats"


class _Sink:
    """Where decisions go. This one drops them: for counting."""

    def write(self, decisions: list[tuple[Decision, bytes]]) -> None:
        """Take some more."""

    def close(self) -> None:
        """Take no more."""


def _sink(out: Path | None, *, count: bool) -> _Sink:
    if out is None:
        if count:
            return _Sink()
        return _Terminal() if sys.stdout.isatty() else _Lines(None)
    if out.suffix == ".parquet":
        return _Parquet(out)
    return _Csv(out) if out.suffix == ".csv" else _Lines(out)


class _Terminal(_Sink):
    """Lines for eyes."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False)

    def write(self, decisions: list[tuple[Decision, bytes]]) -> None:
        """Print them, each with its reasons below it."""
        from rich.text import Text

        for d, _ in decisions:
            line = Text.assemble(
                (d.timestamp, "dim"),
                "  ",
                (f"{d.decision:<7}", _STYLES[d.decision]),
                f"  {d.risk_score:.3f} {d.risk_level:<8}  {d.transaction_id}",
                (f"  user {d.user_id}  at {d.merchant_id}", "dim"),
            )
            self._console.print(line, soft_wrap=True)
            for reason in d.reasons:
                text = Text(f"    {reason.source}: {reason.text}", "dim")
                self._console.print(text, soft_wrap=True)


class _Lines(_Sink):
    """The payloads as they are, one a line; None is standard output."""

    def __init__(self, path: Path | None) -> None:
        self._file: Any = sys.stdout.buffer if path is None else _open(path, "wb")
        self._own = path is not None

    def write(self, decisions: list[tuple[Decision, bytes]]) -> None:
        """Write them at once, so that whoever reads the pipe sees them."""
        self._file.writelines(payload + b"\n" for _, payload in decisions)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._own:
            self._file.close()


class _Csv(_Sink):
    """One column a field; what is nested is JSON text."""

    def __init__(self, path: Path) -> None:
        self._file = _open(path, "w")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(_FIELDS)

    def write(self, decisions: list[tuple[Decision, bytes]]) -> None:
        """Write rows."""
        for decision, _ in decisions:
            row = _flat(decision)
            self._writer.writerow(
                json.dumps(value) if isinstance(value, bool) else value for value in row
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Parquet(_Sink):
    """As CSV, with types, and the exact bytes as `payload`."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        kinds = {"risk_score": pa.float64(), "confidence": pa.float64()}
        kinds |= {"is_fraud": pa.bool_(), "degraded": pa.bool_()}
        columns = [(name, kinds.get(name, pa.string())) for name in _FIELDS]
        self._schema = pa.schema([*columns, ("payload", pa.binary())])
        self._rows: list[tuple[Any, ...]] = []
        _open(path, "wb").close()  # says what is wrong with the path in words
        self._writer = parquet.ParquetWriter(path, self._schema)

    def write(self, decisions: list[tuple[Decision, bytes]]) -> None:
        """Keep rows until there are enough for a row group."""
        self._rows.extend((*_flat(decision), payload) for decision, payload in decisions)
        if len(self._rows) >= _FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, self._schema, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows.clear()

    def close(self) -> None:
        """Write the rest and the footer."""
        if self._rows:
            self._flush()
        self._writer.close()


def _flat(decision: Decision) -> tuple[Any, ...]:
    return tuple(
        msgspec.json.encode(value).decode() if name in _NESTED else value
        for name in _FIELDS
        for value in (getattr(decision, name),)
    )


def _open(path: Path, mode: str) -> Any:
    from dafu.errors import DafuError

    try:
        return path.open(mode) if "b" in mode else path.open(mode, encoding="utf-8", newline="")
    except OSError as exc:
        raise DafuError(f"{path} can not be written: {exc.strerror}") from exc
