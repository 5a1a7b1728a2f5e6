"""Settings of what can be asked for over HTTP: scoring one by one, and whole files.

Types alone; `dafu.settings.loading` reads them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

__all__ = ["OverHttp"]

_Directory = Annotated[str, Meta(pattern=r"\A/[^\x00,]*\Z", max_length=4096)]
_Prefix = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9+.-]*://[^\s,]+\Z", max_length=2000)]


class OverHttp(Struct, frozen=True, forbid_unknown_fields=True):
    """The part of the group `web` that is about scoring."""

    score_timeout_ms: Annotated[
        int, Meta(ge=1, le=30_000, description="milliseconds from 1 to 30000")
    ] = 1000
    """How long a request waits for its decision, unless it says so itself."""
    score_fallback: Literal["none", "approve", "block"] = "none"
    """What is answered when there is none by then; none: that there is none yet."""
    analyze_dirs: Annotated[
        tuple[_Directory, ...], Meta(description="absolute paths of directories")
    ] = ()
    """Directories below which files may be analyzed; none given: no files are."""
    analyze_urls: Annotated[
        tuple[_Prefix, ...], Meta(description="beginnings of URLs such as s3://bucket/exports/")
    ] = ()
    """Beginnings of URLs in object stores that may be analyzed; none given: none may."""
