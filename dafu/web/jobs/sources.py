"""Which files may be analyzed: those below the configured directories and URLs, and no others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from dafu.errors import DafuError
from dafu.settings import Web

__all__ = ["SourceError", "allowed_source"]

_URL: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(.+)\Z", re.DOTALL)
_LOCAL: Final = frozenset({"file", "local", "memory"})
_SUFFIXES: Final = (".csv", ".tsv", ".parquet", ".pq", ".jsonl", ".ndjson")
_COMPRESSED: Final = (".gz", ".bz2", ".zst")


class SourceError(DafuError):
    """A file that may not be analyzed, or is none."""


def allowed_source(source: str, settings: Web) -> str:
    """The path, without links, or the URL that a job may read.

    Parameters
    ----------
    source : str
    settings : Web
        `analyze_dirs` and `analyze_urls`.

    Raises
    ------
    SourceError
        If nothing allows it. What there is elsewhere is not told.
    """
    name = source.lower().removesuffix(
        next((s for s in _COMPRESSED if source.lower().endswith(s)), "")
    )
    if not name.endswith(_SUFFIXES):
        raise SourceError(
            f"the name ends with none of {', '.join(_SUFFIXES)} (perhaps with "
            f"{', '.join(_COMPRESSED)} behind), which say how to read it"
        )
    if any(ord(character) < 32 or character == "\x7f" for character in source):
        raise SourceError("the name has a control character")
    if (url := _URL.match(source)) is not None:
        return _allowed_url(source, url[1], url[2], settings.analyze_urls)
    return _allowed_path(source, settings.analyze_dirs)


def _allowed_path(source: str, directories: tuple[str, ...]) -> str:
    if not directories:
        raise SourceError("no directories are configured (web.analyze_dirs) that files may be in")
    refused = SourceError("there is no such file below the configured directories")
    if not source.startswith("/"):
        raise SourceError("give an absolute path, or a URL")
    try:
        path = Path(source).resolve(strict=True)
        inside = any(path.is_relative_to(Path(d).resolve()) for d in directories)
    except (OSError, RuntimeError):
        raise refused from None
    if not inside or not path.is_file():
        raise refused
    return str(path)


def _allowed_url(source: str, protocol: str, rest: str, beginnings: tuple[str, ...]) -> str:
    if not beginnings:
        raise SourceError("no URLs are configured (web.analyze_urls) that files may be under")
    if protocol in _LOCAL or "+" in protocol:
        raise SourceError(f"{protocol}:// is no object store")
    # `a::b://` chains file systems, and escapes or dots might lead out again.
    if "::" in source or re.search(r"[\\%?#@*\[\]{}]|(?:^|/)\.\.?(?:/|$)|//", rest):
        raise SourceError(
            "write the URL plainly: without dots for directories, %, ?, # and the like"
        )
    if not any(source.startswith(beginning.rstrip("/") + "/") for beginning in beginnings):
        raise SourceError("the URL is under none of those that are configured")
    return source
