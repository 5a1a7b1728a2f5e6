"""Benchmark results as a file that later runs add to, and as a page for people."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from bench.results import Context, Section, Table

ORDER: Final = (
    "throughput",
    "latency",
    "http",
    "alerts",
    "cpu",
    "recovery",
    "memory",
    "forest",
    "recurrent",
    "rules",
    "rings",
)

_HEAD: Final = """\
# Benchmarks

Written by `make bench ARGS="--write docs/benchmarks.md"`; do not edit. Every figure was measured
in the run that wrote it. A figure is the median of its runs with the lowest and the highest in
brackets, unless its section says otherwise. Measure your own machine: `make bench ARGS="--quick"`
takes some minutes, `make bench ARGS="--help"` shows how to run one part alone.
"""


def load(path: Path) -> dict[str, Section]:
    """The sections of a results file; none if there is no such file."""
    if not path.exists():
        return {}
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Section])


def save(path: Path, sections: dict[str, Section]) -> None:
    """Write a results file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(sections), indent=1) + b"\n")


def page(sections: Iterable[Section]) -> str:
    """The results as Markdown, in a fixed order; what they ran on once, if that is one thing."""
    ordered = sorted(sections, key=lambda s: (ORDER.index(s.name.partition("-")[0]), s.name))
    contexts = [s.context for s in ordered if s.context is not None]
    parts = [_HEAD]
    common = bool(contexts) and all(_place(c) == _place(contexts[0]) for c in contexts)
    if common:
        parts.append(_context(contexts[0]))
    parts += [_section(s, common) for s in ordered]
    return "\n".join(parts)


def _place(context: Context) -> tuple[dict[str, str], dict[str, str]]:
    return context.machine, context.versions


def _context(context: Context) -> str:
    lines = ["## Machine and versions\n", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in context.machine.items()]
    lines += [f"| {name} | {value} |" for name, value in context.versions.items()]
    return "\n".join(lines) + "\n"


def _section(section: Section, common: bool) -> str:
    lines = [f"## {section.title}\n"]
    if section.context is not None:
        quick = ", `--quick`: sizes too small to quote" if section.context.quick else ""
        lines.append(
            f"Measured {section.context.date} at commit {section.context.commit}, "
            f"in {section.seconds:,.0f} s{quick}.\n"
        )
        if not common:
            facts = (section.context.machine | section.context.versions).items()
            lines.append("; ".join(f"{name} {value}" for name, value in facts) + "\n")
    lines += [section.method + "\n", "Biases:\n"]
    lines += [f"* {bias}" for bias in section.biases]
    for table in section.tables:
        lines += ["", *_table(table)]
    if section.notes:
        lines += [""] + [f"* {note}" for note in section.notes]
    return "\n".join(lines) + "\n"


def _table(table: Table) -> list[str]:
    lines = [f"**{table.title}**\n"]
    lines.append("| " + " | ".join(table.columns) + " |")
    lines.append("|---" + "|---:" * (len(table.columns) - 1) + "|")
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in table.rows]
    return lines
