"""What can go wrong in a notebook and how to put it right."""

from __future__ import annotations

from dafu.errors import DafuError


class NotebookError(DafuError):
    """A table, an argument or an order of calls that leads nowhere."""


class MissingArgumentError(NotebookError):
    """An argument was left out, and nobody is there to be asked."""
