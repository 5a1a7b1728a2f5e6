"""The jobs of a worker: a queue, one process at a time, and results that are kept for a while.

Each job has a directory with what is known of it and its results, so that both outlive the worker.
What was running when a worker ended has failed; nobody takes it up again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from dafu.errors import DafuError
from dafu.processes import dying_with_parent
from dafu.schema import iso
from dafu.web.jobs.documents import AnalyzeRequest, Job, Progress, State, Task

__all__ = ["Jobs", "QueueFullError", "worker_token"]

logger = logging.getLogger(__name__)

MOST_QUEUED: Final = 20
MOST_KEPT: Final = 50
KEPT_SECONDS: Final = 24 * 3600.0
"""So long after its end a job and its results are kept."""

_DOCUMENT: Final = "job.json"
_LINE_BYTES: Final = 1 << 20


class QueueFullError(DafuError):
    """As many jobs wait as may."""


def worker_token(url: str) -> str:
    """What the ids of a worker's jobs begin with."""
    return hashlib.sha256(url.encode()).hexdigest()[:8]


class Jobs:
    """Runs jobs, one at a time.

    Parameters
    ----------
    directory : Path
        Where they are kept; created with the first.
    url : callable
        Gives the URL of this worker.
    """

    def __init__(self, directory: Path, url: Callable[[], str]) -> None:
        self._directory = directory
        self._url = url
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, Task] = {}
        self._queue: deque[str] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._running: str | None = None
        self._loaded = False

    def all(self) -> list[Job]:
        """Every job, newest first."""
        self._load()
        self._expire()
        return sorted(self._jobs.values(), key=lambda job: job.created_at, reverse=True)

    def get(self, job_id: str) -> Job | None:
        """A job, None if there is none of this id."""
        self._load()
        return self._jobs.get(job_id)

    def results(self, job: Job) -> Path:
        """The file of its decisions."""
        return self._directory / job.id / f"decisions.{job.format}"

    def add(self, source: str, request: AnalyzeRequest, who: str) -> Job:
        """Queue a job for a source that was checked.

        Raises
        ------
        QueueFullError
        """
        self._load()
        self._expire()
        if len(self._queue) >= MOST_QUEUED:
            raise QueueFullError(f"{len(self._queue)} jobs are waiting already; try again later")
        job_id = f"{worker_token(self._url())}-{secrets.token_hex(8)}"
        job = Job(
            job_id,
            self._url(),
            "queued",
            request.source,
            request.mapping,
            request.format,
            who,
            _now(),
            None,
            None,
            Progress(),
            None,
        )
        self._jobs[job_id] = job
        since, until = (
            None if moment is None else int(moment.timestamp() * 1000)
            for moment in (request.since, request.until)
        )
        out = str(self.results(job))
        self._tasks[job_id] = Task(source, request.mapping, since, until, request.limit, out)
        self._save(job)
        self._queue.append(job_id)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return job

    async def cancel(self, job: Job) -> Job:
        """Stop a job that has not ended; forget one that has, with its results."""
        if job.state == "queued":
            self._queue.remove(job.id)
            return self._end(job.id, "cancelled")
        if job.state == "running":
            ended = self._end(job.id, "cancelled")
            if self._process is not None and self._running == job.id:
                _kill(self._process)
            return ended
        self._forget(job)
        return job

    async def close(self, _: object = None) -> None:
        """Stop what runs; what has not ended has failed."""
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        for job in list(self._jobs.values()):
            if job.state in ("queued", "running"):
                self._end(job.id, "failed", replace(job.progress, error="the worker has stopped"))

    async def _run(self) -> None:
        try:
            while self._queue:
                job_id = self._queue.popleft()
                self._running = job_id
                try:
                    await self._work(job_id)
                except (OSError, msgspec.MsgspecError) as exc:
                    logger.exception("the job %s failed", job_id)
                    if self._is_running(job_id):
                        self._end(job_id, "failed", Progress(error=str(exc)))
        finally:
            self._running = self._runner = None

    async def _work(self, job_id: str) -> None:
        self._change(job_id, state="running", started_at=_now())
        task = self._tasks[job_id]
        command = [sys.executable, "-m", "dafu.web.jobs.process"]
        process = self._process = await asyncio.create_subprocess_exec(
            *dying_with_parent(command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if not self._is_running(job_id):  # it was cancelled before there was a process
                _kill(process)
            process.stdin.write(msgspec.json.encode(task) + b"\n")
            process.stdin.close()
            async for line in process.stdout:
                progress = msgspec.json.decode(line, type=Progress)
                if self._is_running(job_id):
                    self._jobs[job_id] = replace(self._jobs[job_id], progress=progress)
            status = await process.wait()
        finally:
            _kill(process)
            await process.wait()
            self._process = None
        if job_id not in self._jobs:  # it was cancelled and forgotten
            shutil.rmtree(self._directory / job_id, ignore_errors=True)
            return
        self._clear(job_id)
        if not self._is_running(job_id):  # it was cancelled
            self.results(self._jobs[job_id]).unlink(missing_ok=True)
            return
        progress = self._jobs[job_id].progress
        if status == 0 and progress.error is None:
            self._end(job_id, "done")
        else:
            why = progress.error or f"its process ended with {status}; the worker's log says why"
            self._end(job_id, "failed", replace(progress, error=why))

    def _clear(self, job_id: str) -> None:
        """Remove what a process that was killed has left."""
        for path in (self._directory / job_id).iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.startswith("."):
                path.unlink(missing_ok=True)

    def _is_running(self, job_id: str) -> bool:
        job = self._jobs.get(job_id)
        return job is not None and job.state == "running"

    def _end(self, job_id: str, state: State, progress: Progress | None = None) -> Job:
        job = self._jobs[job_id]
        self._tasks.pop(job_id, None)
        return self._change(
            job_id,
            state=state,
            ended_at=_now(),
            progress=progress or job.progress,
            results=f"/v1/batch/jobs/{job_id}/results" if state == "done" else None,
        )

    def _change(self, job_id: str, **changes: object) -> Job:
        job = self._jobs[job_id] = replace(self._jobs[job_id], **changes)
        self._save(job)
        return job

    # --- what is kept

    def _save(self, job: Job) -> None:
        directory = self._directory / job.id
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = directory / f".{_DOCUMENT}"
        unfinished.write_bytes(msgspec.json.encode(job))
        unfinished.replace(directory / _DOCUMENT)

    def _load(self) -> None:
        """What an earlier process at this address has left."""
        if self._loaded:
            return
        self._loaded = True
        for path in self._directory.glob(f"{worker_token(self._url())}-*/{_DOCUMENT}"):
            try:
                job = msgspec.json.decode(path.read_bytes(), type=Job)
            except (OSError, msgspec.MsgspecError) as exc:
                logger.warning("%s can not be read and is left alone: %s", path, exc)
                continue
            self._jobs[job.id] = job
            if job.state in ("queued", "running"):
                error = "the worker ended before the job did"
                self._end(job.id, "failed", replace(job.progress, error=error))

    def _expire(self) -> None:
        oldest = iso(int((time.time() - KEPT_SECONDS) * 1000))
        ended = sorted(
            (job for job in self._jobs.values() if job.ended_at is not None),
            key=lambda job: job.ended_at or "",
        )
        surplus = len(ended) - MOST_KEPT
        for i, job in enumerate(ended):
            if i < surplus or (job.ended_at or "") < oldest:
                self._forget(job)

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.id, None)
        shutil.rmtree(self._directory / job.id, ignore_errors=True)


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


def _now() -> str:
    return iso(time.time_ns() // 1_000_000)
