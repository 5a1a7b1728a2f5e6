"""One value as it was written -> the value of a setting, or what is wrong with it.

This module reads nothing but whether a path exists.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Final

import msgspec

from dafu.settings.model import SECRET, SETTINGS


def checked(name: str, raw: Any, base: Path) -> Any:
    """Check and convert one value; raises ValueError that says what is wrong with it."""
    kind = SETTINGS[name]
    if kind in (Path, Path | None, Path | str | None):
        return _path(name, raw, base)
    if isinstance(raw, str):
        raw = _normal(name, raw.strip() if name not in SECRET else raw)
        if name in LISTS:
            raw = [part.strip() for part in raw.split(",") if part.strip()]
    try:
        # A file has types of its own, the environment has text only; both may write numbers.
        value = msgspec.convert(raw, kind, strict=not isinstance(raw, str))
    except msgspec.ValidationError as exc:
        raise ValueError(f"{raw!r} is not right: {str(exc)[0].lower()}{str(exc)[1:]}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{raw!r} is not a finite number")
    return value


MODELS: Final = ("model_path", "sequence_model")
"""Settings that name a package, by path or URL, or none."""

LISTS: Final = (
    "worker_roles",
    "topics.names",
    "security.oauth_extensions",
    "schema_registry.urls",
    "web.allowed_hosts",
    "web.cors_origins",
    "web.analyze_dirs",
    "web.analyze_urls",
    "auth.idp_roles",
)
"""Settings with several values, which a text separates by commas."""

_FILES: Final = (
    "rules_file",
    *("security.ssl_cafile", "security.ssl_certfile", "security.ssl_keyfile"),
    *(f"schema_registry.{name}" for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile")),
    *("web.tls_cert", "web.tls_key"),
)


def _path(name: str, raw: Any, base: Path) -> Path | str | None:
    if name in MODELS and (raw is None or raw == "none"):
        return None
    if not isinstance(raw, str) or not raw.strip() or "\0" in raw:
        raise ValueError(f"{raw!r} is not a path")
    if name in MODELS and "://" in raw:
        return raw.strip()
    path = base / Path(raw.strip()).expanduser()
    if name in _FILES and not path.is_file():
        raise ValueError(f"there is no file {path}")
    if name == "data_dir" and path.exists() and not path.is_dir():
        raise ValueError(f"{path} exists and is not a directory")
    return path


_HOST_PORT: Final = re.compile(r"(?:\[[0-9A-Fa-f:.%\w]+\]|[A-Za-z0-9._-]+):(\d{1,5})\Z")


def _normal(name: str, text: str) -> str:
    """The one spelling of a value that may be written in several ways."""
    if name == "broker":
        return ",".join(_broker(part.strip()) for part in re.split("[,;]", text))
    if name == "store":
        return text.removesuffix("://").lower()
    if name in ("log.level", "security.protocol", "security.sasl_mechanism"):
        return "WARNING" if text.upper() == "WARN" else text.upper()
    return text.lower() if name in ("log.format", "source.format") else text


def _broker(text: str) -> str:
    address = text.removeprefix("kafka://")
    match = _HOST_PORT.match(address)
    if match is None:
        raise ValueError(f"{text!r} is not host:port")
    if not 1 <= int(match[1]) <= 65_535:
        raise ValueError(f"{text!r} has a port that is not from 1 to 65535")
    return address


def allowed(kind: Any) -> str:
    """What a setting of this type may be, in words."""
    for part in (kind, *getattr(kind, "__args__", ())):
        for meta in getattr(part, "__metadata__", ()):
            if meta.description:
                return str(meta.description)
    if kind is bool:
        return "true or false"
    if choices := [choice for choice in getattr(kind, "__args__", ()) if isinstance(choice, str)]:
        return ", ".join(choices)
    return "text" if kind in (str, str | None) else "a path"
