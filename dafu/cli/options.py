"""Option values that several commands take: rates and moments."""

from __future__ import annotations

import typer


def parse_rate(text: str) -> float:
    """Transactions per second; `max` is infinity."""
    if text == "max":
        return float("inf")
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise typer.BadParameter("give a number of transactions per second, or max")
    return rate


def parse_moment(text: str | None) -> int | None:
    """Epoch milliseconds of a date or time, None for none."""
    from dafu.ingest import ReadError, parse_time

    try:
        return None if text is None else parse_time(text)
    except ReadError as exc:
        raise typer.BadParameter(str(exc)) from exc
