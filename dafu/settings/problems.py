"""What is said of settings that do not hold: one problem each, all of them in one error.

This module knows no setting.
"""

from __future__ import annotations

from typing import NamedTuple

from dafu.errors import DafuError


class Problem(NamedTuple):
    """One thing that is wrong: which setting, from where, what, and what would be right."""

    setting: str
    origin: str
    what: str
    allowed: str = ""

    def __str__(self) -> str:
        allowed = f"; allowed: {self.allowed}" if self.allowed else ""
        return f"{self.setting} ({self.origin}): {self.what}{allowed}"


class SettingsError(DafuError):
    """The settings do not hold; `problems` lists everything that is wrong with them."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        lines = "\n".join(f"  {problem}" for problem in problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"the settings have {count}:\n{lines}")
