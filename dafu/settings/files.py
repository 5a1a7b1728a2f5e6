"""Where the configuration files are.

This module knows names and directories, and not what the files hold.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

CONF_NAME: Final = "dafu.yaml"
PACKAGE: Final = Path(__file__).resolve().parents[1]
"""The directory of the package `dafu`."""


def find_conf(name: str, environ: Mapping[str, str] | None = None) -> Path:
    """Where the configuration file `name` is, such as `rules.yaml` or `mappings/dafu.yaml`.

    The first that exists of: the directory that DAFU_CONF names (or the one its file is in),
    `./conf`, the files that come with dafu. Without any, where it would be among the last.
    """
    environ = os.environ if environ is None else environ
    packaged = PACKAGE / "_conf"
    if not packaged.is_dir():
        packaged = PACKAGE.parent / "conf"
    candidates = [Path("conf") / name, packaged / name]
    if given := environ.get("DAFU_CONF"):
        base = Path(given).expanduser()
        candidates.insert(0, (base if base.is_dir() else base.parent) / name)
    return next((path for path in candidates if path.is_file()), candidates[-1])
