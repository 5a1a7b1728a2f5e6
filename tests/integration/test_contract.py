"""The HTTP face held against its own OpenAPI document, by Schemathesis, on a real worker."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.asking import ADMIN_KEY
from tests.integration.payments import payments
from tests.integration.worker import BRISK, System

pytestmark = pytest.mark.broker

EXAMPLES = os.environ.get("DAFU_TEST_CONTRACT", "0")
"""Random requests an operation, beside those that cover its parameters; more find more."""

PHASES = ("--phases", "examples,coverage") if EXAMPLES == "0" else ("--max-examples", EXAMPLES)

# 422 is for sound documents about what can not be, such as rules with a mistake in a condition.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "422", "429", "503"]
"""
UNLIMITED: dict[str, Any] = {
    f"DAFU_{group}_PER_MINUTE": "0" for group in ("READS", "SCORES", "CHANGES", "SIGN_INS")
}


async def test_every_operation_keeps_to_the_document(bootstrap: str, tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    system = System(bootstrap, tmp_path, app=BRISK, **UNLIMITED)
    await system.create(system.topics.transactions)
    await system.publish(payments(300, seed=23))
    with system.worker() as worker:
        await worker.ready()
        await system.drained(worker)
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("schemathesis")),
            *("--config-file", str(config)),
            "run",
            f"{worker.base}/openapi.json",
            *("--header", f"Authorization: Bearer {ADMIN_KEY}"),
            *("--checks", "all", *PHASES, "--seed", "1"),
            *("--generation-database", "none", "--request-timeout", "30"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
        )
        said, _ = await process.communicate()
        assert process.returncode == 0, said.decode(errors="replace")[-8000:]
