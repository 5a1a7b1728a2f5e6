"""The process of a job: `dafu score`'s own code on one file, with its progress told in lines.

    python -m dafu.web.jobs.process < task

The task is one line of JSON, see `Task`; so is each line that it prints, see `Progress`. The last
one is the result, with `error` if there is none.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from dafu.errors import DafuError
from dafu.ingest import TransactionReader, load_mapping
from dafu.loading import load_stages
from dafu.offline import Scored, score_file
from dafu.settings import load_settings
from dafu.stages.pipeline import Pipeline
from dafu.web.jobs.documents import Progress, Task

NICENESS: Final = 10
"""A job must not take processor time from a worker's decisions."""

TELL_SECONDS: Final = 0.25
LARGEST_DOWNLOAD: Final = 16 << 30
_PIECE: Final = 4 << 20


class DownloadError(DafuError):
    """A URL that can not be read."""


def main() -> None:
    """Do the task on standard input; the exit status is 1 if it could not be done."""
    os.nice(NICENESS)
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task)
    try:
        with _local(task.source, Path(task.out).parent) as path:
            _tell(_score(task, path))
    except (DafuError, OSError) as exc:
        _tell(Progress(error=str(exc)))
        raise SystemExit(1) from exc


def _score(task: Task, path: Path) -> Progress:
    settings = load_settings()
    reader = TransactionReader(
        path,
        load_mapping(task.mapping),
        since=task.since,
        until=task.until,
        limit=task.limit,
        skip_bad=True,
        batch_rows=20_000,
    )
    told = 0.0

    def show(scored: Scored) -> None:
        nonlocal told
        if time.monotonic() - told >= TELL_SECONDS:
            _tell(_progress(scored, reader, reader.fraction))
            told = time.monotonic()

    scored = score_file(
        reader,
        Pipeline(*load_stages(settings, rings=False)),
        Path(task.out),
        batch_records=settings.batch_records,
        skip_bad=True,
        on_batch=show,
    )
    return _progress(scored, reader, 1.0)


def _progress(scored: Scored, reader: Any, fraction: float) -> Progress:
    return Progress(
        round(fraction, 4),
        scored.decided,
        scored.by_decision,
        scored.duplicates,
        scored.rejected,
        reader.skipped,
    )


@contextmanager
def _local(source: str, directory: Path) -> Iterator[Path]:
    """The file itself, or a copy of what a URL names for as long as it is needed."""
    if "://" not in source:
        yield Path(source)
        return
    with tempfile.TemporaryDirectory(prefix="source-", dir=directory) as temporary:
        path = Path(temporary) / source.rpartition("/")[2]
        _download(source, path)
        yield path


def _download(url: str, path: Path) -> None:
    try:
        import fsspec
    except ImportError as exc:
        raise DownloadError(
            "reading URLs needs fsspec: install 'dafu[objectstore]' and the library of your store"
        ) from exc
    try:
        with fsspec.open(url, "rb") as source, path.open("wb") as out:
            while (piece := source.read(_PIECE)) and out.tell() <= LARGEST_DOWNLOAD:
                out.write(piece)
    except Exception as exc:  # each store's library raises its own
        raise DownloadError(f"{url} can not be read: {exc or type(exc).__name__}") from exc
    if path.stat().st_size > LARGEST_DOWNLOAD:
        raise DownloadError(f"{url} is larger than {LARGEST_DOWNLOAD:,} bytes")


def _tell(progress: Progress) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(progress) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
