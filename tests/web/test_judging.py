"""Performance worked out in a process beside the worker."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest

from dafu.web.judging import JudgingError, PerformanceDesk

MARK = f"dafu-test-{uuid.uuid4().hex}"
ROW = """dict(role="champion", model="m", version=v, period=None, rules=[], decisions=1, reviewed=0,
 blocked=0, mature=0, immature=1, immature_frauds=0, labelled=0, frauds=0, true_positives=0,
 false_positives=0, false_negatives=0, true_negatives=0, precision=None, recall=None,
 fraud_value=None, frauds_without_amount=0, value_detected=None, average_precision=None,
 auc_roc=None)"""
WRITES = f"""
import json, sys, pathlib
rows = [{ROW} for v in ("a", "b")]
report = dict(as_of="2026-01-01T00:00:00Z", maturity_days=7.0, period="week", rows=[], totals=rows)
path = pathlib.Path(sys.argv[1])
path.write_text(json.dumps(dict(config={{}}, report=report)))
with open(COUNT, "a") as out:
    out.write("x")
"""


async def test_one_run_answers_all_who_ask_at_once(tmp_path: Path) -> None:
    path = tmp_path / "count"
    desk = PerformanceDesk(("-c", WRITES.replace("COUNT", repr(str(path)))))
    reports = await asyncio.gather(desk.report("a"), desk.report("b"), desk.report())
    assert None not in reports
    versions = [[row.version for row in report.totals] for report in reports if report]
    assert versions == [["a"], ["b"], ["a", "b"]]
    assert path.read_text() == "x"


async def test_what_went_wrong_is_said() -> None:
    desk = PerformanceDesk(("-c", "import sys; sys.exit('no broker answers')"))
    with pytest.raises(JudgingError, match="no broker answers"):
        await desk.report()


async def test_nothing_is_left_running() -> None:
    desk = PerformanceDesk(("-c", f"import time; time.sleep(60)  # {MARK}"))
    asked = asyncio.create_task(desk.report())
    assert await desk.report(wait=0.5) is None
    await desk.close()
    with pytest.raises(asyncio.CancelledError):
        await asked
    found = await asyncio.create_subprocess_exec(
        "pgrep", "-f", MARK, stdout=asyncio.subprocess.PIPE
    )
    assert (await found.communicate())[0] == b""
