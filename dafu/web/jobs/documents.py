"""What jobs are asked for and what they say of themselves, as types that their process shares."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from dafu.schema import Moment

__all__ = ["AnalyzeRequest", "Format", "Job", "JobList", "Progress", "State", "Task"]

State = Literal["queued", "running", "done", "failed", "cancelled"]
Format = Literal["jsonl", "parquet", "csv"]
_Mapping = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,100}\Z")]


class AnalyzeRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A file to be scored.

    `source` is an absolute path or a URL, below what the worker is configured to allow; by its name
    CSV, Parquet or JSON lines, perhaps compressed. `mapping` says whose columns it has. `since` and
    `until` are about the payments' time. Rows that are no transactions are counted and left out.
    """

    source: Annotated[str, Meta(min_length=1, max_length=4096)]
    mapping: _Mapping = "dafu"
    since: Moment | None = None
    until: Moment | None = None
    limit: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    format: Format = "jsonl"


class Task(Struct, frozen=True):
    """What the process of a job is told: times in epoch milliseconds, paths that were checked."""

    source: str
    mapping: str
    since: int | None
    until: int | None
    limit: int | None
    out: str


class Progress(Struct, frozen=True):
    """How far a job is, and what it has come to.

    `fraction` is about how much of the file has been read; `decided` and `by_decision` count
    decisions, `duplicates` rows that repeat a transaction, `rejected` rows that the engine refuses,
    by reason, `skipped` rows that can not be read; `error` says why there is no result.
    """

    fraction: float = 0.0
    decided: int = 0
    by_decision: dict[str, int] = {}
    duplicates: int = 0
    rejected: dict[str, int] = {}
    skipped: int = 0
    error: str | None = None


class Job(Struct, frozen=True):
    """A job.

    `worker` is the address of the worker that has it; times are ISO 8601, null for what has not
    happened; `results` is where its decisions are, null unless it is done.
    """

    id: str
    worker: str
    state: State
    source: str
    mapping: str
    format: Format
    created_by: str
    created_at: str
    started_at: str | None
    ended_at: str | None
    progress: Progress
    results: str | None


class JobList(Struct, frozen=True):
    """Jobs, newest first, and workers that were asked for theirs and did not answer."""

    jobs: list[Job]
    silent: list[str]
