from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import polars as pl
import pytest

from dafu.generator import generate, write
from dafu.ingest import TransactionReader, load_mapping
from dafu.loading import load_stages
from dafu.models import NetworkAnalyzer
from dafu.network import find_rings, rings_of
from dafu.notebook.errors import NotebookError
from dafu.notebook.network import NetworkReport
from dafu.settings import load_settings
from dafu.stages.ring_pipeline import RingPipeline


@pytest.fixture(scope="module", autouse=True)
def rules_alone() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODEL_STORAGE_PATH", "none")
        yield


@pytest.fixture(scope="module")
def payments() -> Any:
    return generate(users=150, merchants=30, days=20, seed=4, rings=8, look_alikes=4)


@pytest.fixture(scope="module")
def report(payments: Any) -> NetworkReport:
    return NetworkAnalyzer().detect_fraud_networks(payments)


def test_rings_are_those_of_the_command(
    payments: Any, report: NetworkReport, tmp_path: Path
) -> None:
    write(payments, tmp_path / "p.parquet")
    reader = TransactionReader(tmp_path / "p.parquet", load_mapping("dafu"))
    found = find_rings(reader, RingPipeline(*load_stages(load_settings())))
    expected = rings_of(found.selected(0.8, 3))
    assert report.seen == payments.num_rows
    assert [ring.ring_id for ring in report.networks] == [ring.ring_id for ring in expected]
    assert [ring.evidence for ring in report.networks] == [ring.evidence for ring in expected]
    assert report.networks[0].user_ids == [member.user_id for member in expected[0].members]


def test_a_ring_can_be_looked_at(report: NetworkReport, tmp_path: Path) -> None:
    ring = report.networks[0]
    words = "".join(ET.fromstring(ring._repr_svg_()).itertext())
    assert all(user in words for user in ring.user_ids)
    assert report.draw(tmp_path / "pictures") == len(report.networks)
    assert (tmp_path / "pictures" / f"{ring.ring_id}.svg").read_text() == ring._repr_svg_()


def test_frames_with_names_of_their_own(payments: Any) -> None:
    """Sorted by amount, under other names, as a data frame."""
    frame = pl.from_arrow(payments)
    assert isinstance(frame, pl.DataFrame)
    names = {
        "transaction_id": "tx_id",
        "user_id": "customer_id",
        "merchant_id": "shop",
        "amount": "total",
        "timestamp": "created_at",
        "device_fingerprint": "device_id",
        "ip_address": "ip",
        "card_id": "card_number",
        "email": "e_mail",
    }
    other = frame.select(list(names)).rename(names).sort("total")
    again = NetworkAnalyzer().detect_fraud_networks(other)
    usual = NetworkAnalyzer().detect_fraud_networks(payments.select(list(names)))
    assert len(again.networks) >= 3
    assert [n.ring_id for n in again.networks] == [n.ring_id for n in usual.networks]
    told = other.rename({"device_id": "gadget"}).drop("ip")
    columns = {field: name for field, name in names.items() if name not in ("device_id", "ip")}
    columns["device_fingerprint"] = "gadget"
    part = NetworkAnalyzer(columns=columns).detect_fraud_networks(told)
    assert part.networks
    assert {e.kind for n in part.networks for e in n.evidence} <= {"device", "card", "email"}


def test_the_arguments_choose(payments: Any, report: NetworkReport) -> None:
    equal = NetworkAnalyzer().detect_fraud_networks(payments, 1.0)
    large = NetworkAnalyzer().detect_fraud_networks(payments, 0.8, 6)
    assert sum(r.size for r in equal.networks) < sum(r.size for r in report.networks)
    assert len(report.networks) > len(large.networks) > 0
    assert all(ring.size >= 6 for ring in large.networks)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [((1.1,), "similarity_threshold is 1.1"), ((0.8, 2), "min_ring_size is 2")],
)
def test_arguments_have_a_range(payments: Any, arguments: Any, says: str) -> None:
    with pytest.raises(NotebookError, match=says):
        NetworkAnalyzer().detect_fraud_networks(payments, *arguments)


def test_tables_without_anything_to_share_are_refused(payments: Any) -> None:
    plain = payments.select(["transaction_id", "user_id", "merchant_id", "amount", "timestamp"])
    with pytest.raises(NotebookError, match="no column of something that users share"):
        NetworkAnalyzer().detect_fraud_networks(plain)
    with pytest.raises(NotebookError, match="plainly user_id"):
        NetworkAnalyzer().detect_fraud_networks([{"a": 1}])
