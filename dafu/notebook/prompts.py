"""Asking a person for an argument that was left out, if there is a terminal to ask at."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dafu.notebook.errors import MissingArgumentError


def given(value: str | None, argument: str, choices: Sequence[str] = ()) -> str:
    """The value, or what a person at the terminal answers.

    Parameters
    ----------
    value
        None if the argument was left out.
    argument
        How a call would give it, for the question and for the error.
    choices
        What it may be; anything if empty.

    Raises
    ------
    MissingArgumentError
        If it was left out and stdin is no terminal, as in a notebook or a job.
    """
    hint = f" ({' or '.join(choices)})" if choices else ""
    if value is None:
        if sys.stdin is None or not sys.stdin.isatty():
            raise MissingArgumentError(
                f"{argument} was not given{hint}; give it in the call: there is no terminal to ask"
            )
        value = input(f"{argument}{hint}: ").strip()
    if not value or (choices and value not in choices):
        raise MissingArgumentError(
            f"{argument} is {value!r}{hint and '; it must be one of' + hint}"
        )
    return value
