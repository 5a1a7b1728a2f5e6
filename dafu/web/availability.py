"""Whether what this worker holds is to be relied on now."""

from __future__ import annotations

from aiohttp import web

from dafu.web.problems import problem
from dafu.web.status import Reporter

__all__ = ["incomplete"]


def incomplete(reporter: Reporter) -> web.Response | None:
    """Why the state here is not to be relied on now; None if it is."""
    if not (reasons := reporter.recovering()):
        return None
    return problem(
        503,
        f"the state is not complete: {'; '.join(reasons)}",
        headers={"Retry-After": "2"},
        reasons=reasons,
    )
