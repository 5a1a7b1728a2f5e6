"""`dafu decisions`: what was decided, for eyes, pipes and files."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dafu.decision_files import SUFFIXES, DecisionSink, open_decision_file
from dafu.schema import Decision, decode_decision

if TYPE_CHECKING:
    from dafu.settings import Settings

_KINDS: Final = ("approve", "review", "block")
_STYLES: Final = {"approve": "green", "review": "yellow", "block": "bold red"}


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
    if out is not None and out.suffix not in SUFFIXES:
        raise typer.BadParameter(f"--out takes a name that ends with {', '.join(SUFFIXES)}")
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
    settings: Settings,
    seen: _Seen,
    sink: DecisionSink,
    *,
    follow: bool,
    timeout: float | None,
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


class _Nowhere(DecisionSink):
    """Drops them: for counting."""

    def write(self, decisions: Sequence[tuple[Decision, bytes]]) -> None:
        """Take some more."""

    def close(self) -> None:
        """Take no more."""


def _sink(out: Path | None, *, count: bool) -> DecisionSink:
    if out is None:
        if count:
            return _Nowhere()
        return _Terminal() if sys.stdout.isatty() else _Lines()
    return open_decision_file(out)


class _Terminal(DecisionSink):
    """Lines for eyes."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False)

    def write(self, decisions: Sequence[tuple[Decision, bytes]]) -> None:
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

    def close(self) -> None:
        """Nothing is held back."""


class _Lines(DecisionSink):
    """The payloads as they are, one a line, on standard output."""

    def write(self, decisions: Sequence[tuple[Decision, bytes]]) -> None:
        """Write them at once, so that whoever reads the pipe sees them."""
        sys.stdout.buffer.writelines(payload + b"\n" for _, payload in decisions)
        sys.stdout.buffer.flush()

    def close(self) -> None:
        """Leave standard output open."""
