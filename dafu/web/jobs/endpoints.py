"""`/v1/batch`: have a file scored, and see what becomes of it, at whichever worker has the job."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from dafu.settings import Web
from dafu.web.endpoints import Call, Endpoint
from dafu.web.forwarding import FORWARDED, Forwarder
from dafu.web.jobs.documents import AnalyzeRequest, Job, JobList
from dafu.web.jobs.jobs import Jobs, QueueFullError, worker_token
from dafu.web.jobs.sources import SourceError, allowed_source
from dafu.web.masking import mask
from dafu.web.principals import Permission
from dafu.web.problems import answer, problem

__all__ = ["job_endpoints"]

_MEDIA: Final = "application/octet-stream"
_LINES: Final = 256

_Handler = Callable[[Call, Job], Awaitable[web.StreamResponse]]


class _Desk:
    """Answers about jobs.

    Parameters
    ----------
    jobs : Jobs
    settings : Web
    forwarder : Forwarder
    """

    def __init__(self, jobs: Jobs, settings: Web, forwarder: Forwarder) -> None:
        self._jobs = jobs
        self._settings = settings
        self._forwarder = forwarder

    async def analyze(self, call: Call) -> web.Response:
        """Queue a file."""
        request: AnalyzeRequest = call.body
        try:
            source = await asyncio.to_thread(allowed_source, request.source, self._settings)
            job = self._jobs.add(source, request, call.who)
        except SourceError as exc:
            return problem(422, str(exc), field="source")
        except QueueFullError as exc:
            return problem(503, str(exc), headers={"Retry-After": "60"})
        response = answer(job, status=202)
        response.headers["Location"] = f"/v1/batch/jobs/{job.id}"
        return response

    async def every(self, call: Call) -> web.Response:
        """All jobs, of all workers unless one of them asks."""
        jobs, silent = self._jobs.all(), []
        if FORWARDED not in call.request.headers:
            others = sorted(self._forwarder.others())
            answers = await asyncio.gather(
                *(self._forwarder.ask(call.request, url) for url in others)
            )
            for url, found in zip(others, answers, strict=True):
                body = found.body
                if found.status == 200 and isinstance(body, bytes):
                    jobs += msgspec.json.decode(body, type=JobList).jobs
                else:
                    silent.append(url)
        jobs.sort(key=lambda job: job.created_at, reverse=True)
        return answer(JobList(jobs, silent))

    def of_job(self, handler: _Handler) -> Callable[[Call], Awaitable[web.StreamResponse]]:
        """A handler for a job here; others' are handed on to whom they belong."""

        async def found(call: Call) -> web.StreamResponse:
            job_id = call.path("job_id")
            if (job := self._jobs.get(job_id)) is not None:
                return await handler(call, job)
            token = job_id.partition("-")[0]
            for url in self._forwarder.others():
                if worker_token(url) == token and FORWARDED not in call.request.headers:
                    return await self._forwarder.pass_through(call.request, url)
            return problem(404, f"there is no job {job_id!r}, or no longer")

        return found

    async def show(self, _: Call, job: Job) -> web.Response:
        """One job."""
        return answer(job)

    async def cancel(self, _: Call, job: Job) -> web.Response:
        """Stop or forget a job."""
        return answer(await self._jobs.cancel(job))

    async def results(self, call: Call, job: Job) -> web.StreamResponse:
        """The file of its decisions."""
        if job.state != "done":
            return problem(409, f"the job is {job.state}: it has no results", state=job.state)
        path = self._jobs.results(job)
        headers = {
            "Content-Type": _MEDIA,
            "Content-Disposition": f'attachment; filename="{job.id}.{job.format}"',
        }
        if call.may(Permission.PII):
            return web.FileResponse(path, headers=headers)
        if job.format != "jsonl":
            return problem(
                403,
                f"{call.who} lacks the permission `pii`, without which results are to be had as "
                "jsonl only",
                permission="pii",
            )
        response = web.StreamResponse(headers=headers)
        await response.prepare(call.request)
        with path.open("rb") as file:
            while lines := await asyncio.to_thread(file.readlines, _LINES * 1024):
                for start in range(0, len(lines), _LINES):
                    piece = lines[start : start + _LINES]
                    await response.write(b"".join(mask(line, call) + b"\n" for line in piece))
        return response


def job_endpoints(jobs: Jobs, settings: Web, forwarder: Forwarder) -> list[Endpoint]:
    """Analyze a file; list, show and cancel jobs; get results."""
    desk = _Desk(jobs, settings, forwarder)
    gone = {404: "There is no such job, or no longer."}
    silent = {503: "The worker that has it does not answer."}
    common: dict[str, Any] = {"tag": "analysis", "permission": Permission.ANALYZE}
    return [
        Endpoint(
            method="POST",
            path="/v1/batch/analyze",
            name="analyze",
            summary="Have a file scored in the background, without effect on what is remembered",
            handler=desk.analyze,
            body=AnalyzeRequest,
            returns=Job,
            status=202,
            problems={
                422: "The source may not be read, or is no file of transactions.",
                503: "Too many jobs are waiting.",
            },
            **common,
        ),
        Endpoint(
            method="GET",
            path="/v1/batch/jobs",
            name="list_jobs",
            summary="The jobs of all workers, newest first",
            handler=desk.every,
            returns=JobList,
            **common,
        ),
        Endpoint(
            method="GET",
            path="/v1/batch/jobs/{job_id}",
            name="get_job",
            summary="How far a job is",
            handler=desk.of_job(desk.show),
            returns=Job,
            problems=gone | silent,
            **common,
        ),
        Endpoint(
            method="GET",
            path="/v1/batch/jobs/{job_id}/results",
            name="get_job_results",
            summary="The decisions of a job that is done",
            handler=desk.of_job(desk.results),
            media=_MEDIA,
            streams=True,
            problems=gone | silent | {409: "It is not done."},
            **common,
        ),
        Endpoint(
            method="DELETE",
            path="/v1/batch/jobs/{job_id}",
            name="cancel_job",
            summary="Stop a job; one that has ended is forgotten, with its results",
            handler=desk.of_job(desk.cancel),
            returns=Job,
            problems=gone | silent,
            **common,
        ),
    ]
