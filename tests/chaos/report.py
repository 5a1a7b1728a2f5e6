"""Differences that a chaos run found, by kind, and how they are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

EXAMPLES: Final = 4
"""Differences of a kind that are shown."""


class Report(msgspec.Struct):
    """Numbers of differences by kind, the first of each, and what else is worth knowing."""

    counts: dict[str, int] = {}
    examples: dict[str, list[str]] = {}
    facts: dict[str, int] = {}
    journal: list[str] = []
    unexpected: list[str] = []
    """Workers that ended by themselves. They may: without a broker, or superseded."""
    unfinished: str | None = None
    lives: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing differs."""
        return self.unfinished is None and not any(self.counts.values())

    def kind(self, name: str) -> None:
        """Say that differences of this kind were looked for."""
        self.counts.setdefault(name, 0)

    def add(self, kind: str, example: str, count: int = 1) -> None:
        """Note a difference."""
        self.counts[kind] = self.counts.get(kind, 0) + count
        shown = self.examples.setdefault(kind, [])
        if len(shown) < EXAMPLES:
            shown.append(example)

    def describe(self) -> str:
        """All of it as text."""
        lines = ["what happened:", *(f"  {line}" for line in self.journal)]
        if self.unexpected:
            lines.append("workers that ended by themselves, or not as they were asked to:")
            ends = Counter(self.unexpected)
            lines += [f"  {count:>9,}  {text}" for text, count in ends.items()]
        lines.append(f"{self.lives} lives of workers; facts:")
        lines += [f"  {count:>9,}  {name}" for name, count in self.facts.items()]
        if self.unfinished:
            lines.append(f"NOT FINISHED: {self.unfinished[:2000]}")
        lines.append("differences:")
        for kind, count in self.counts.items():
            if count:
                lines.append(f"  {count:>9,}  {kind}")
                lines += [f"             {e}" for e in self.examples[kind]]
        equal = sum(not count for count in self.counts.values())
        lines.append(f"          0  of {equal} other kinds")
        return "\n".join(lines)


def compare_counters(report: Report, what: str, wanted: Counter[Any], found: Counter[Any]) -> None:
    """Note what is missing and what is too much."""
    for kind, difference in (
        (f"{what} missing", wanted - found),
        (f"{what} extra", found - wanted),
    ):
        report.kind(kind)
        for item, count in difference.items():
            report.add(kind, repr(item)[:300], count)


def compare(
    report: Report,
    what: str,
    wanted: Mapping[Any, Any],
    found: Mapping[Any, Any],
    name: Callable[[Any], str],
    difference: Callable[[Any, Any], str],
) -> None:
    """Note what is missing, what is too much and what differs."""
    for kind in (f"{what} missing", f"{what} extra", f"{what} different"):
        report.kind(kind)
    # In order of the reference, so that what is shown is the beginning.
    for key in dict.fromkeys((*wanted, *found)):
        if key not in found:
            report.add(f"{what} missing", name(key))
        elif key not in wanted:
            report.add(f"{what} extra", name(key))
        elif wanted[key] != found[key]:
            text = difference(wanted[key], found[key])
            report.add(f"{what} different", f"{name(key)}: {text}")
