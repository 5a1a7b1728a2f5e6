"""`dafu rings`: what the stages find, written down, drawn, and compared with the truth."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from dafu.generator import generate_traffic, write, write_truth
from dafu.ingest import TransactionReader, load_mapping
from dafu.loading import load_stages
from dafu.network import RingDocument, find_rings, rings_of
from dafu.rings.evaluation import complete, components, evaluate_rings, reports_of
from dafu.settings import load_settings
from dafu.stages.ring_pipeline import RingPipeline
from tests.cli.conftest import Run

HEADER = "transaction_id,user_id,merchant_id,amount,timestamp,device_fingerprint\n"


@pytest.fixture
def files(run: Run, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Payments and the truth about them, to be decided by rules alone."""
    monkeypatch.setenv("MODEL_STORAGE_PATH", "none")
    made = generate_traffic(150, 30, 20, 4, rings=8, look_alikes=4)
    write(made.batches, "payments.parquet")
    write_truth(made.truth, "truth.json")
    return Path("payments.parquet"), Path("truth.json")


def written(path: str) -> RingDocument:
    return msgspec.json.decode(Path(path).read_bytes(), type=RingDocument)


def test_rings_and_figures_are_those_of_the_stages(run: Run, files: tuple[Path, Path]) -> None:
    payments, truth = files
    ran = run("rings", payments, "--out", "r.json", "--truth", truth, "--pictures", "svg")
    assert (ran.code, ran.err) == (0, "")

    pipeline = RingPipeline(*load_stages(load_settings()))
    found = find_rings(TransactionReader(payments, load_mapping("dafu")), pipeline)
    expected = rings_of(found.selected(0.0, 3))
    document = written("r.json")
    assert document.rings == expected
    assert len(expected) >= 3
    assert (document.file, document.transactions) == (payments.name, found.transactions)
    assert f"looked at {found.transactions:,} transactions" in ran.out
    assert f"{expected[0].ring_id}  {expected[0].size} members: " in ran.out

    pictures = {path.stem: path for path in Path("svg").iterdir()}
    assert set(pictures) == {ring.ring_id for ring in expected}
    for ring in expected:
        words = "".join(ET.parse(pictures[ring.ring_id]).getroot().itertext())
        assert all(member.user_id in words for member in ring.members)

    known = complete(
        generate_traffic(150, 30, 20, 4, rings=8, look_alikes=4).truth, found.last_seen
    )
    for name, reports in (
        ("rings", reports_of(found.selected(0.0, 3))),
        ("baseline, connected components", components(found.pairs, 3)),
    ):
        figures = evaluate_rings(reports, known)
        assert f"{name}, against the truth:\n  found {figures.found} of {figures.rings} " in ran.out
        assert f"of {figures.reported} reported rings are rings" in ran.out
    assert "more transactions of the ring (median" in ran.out


def test_the_format_of_the_file_does_not_matter(run: Run, files: tuple[Path, Path]) -> None:
    write(generate_traffic(150, 30, 20, 4, rings=8, look_alikes=4).batches, "p.csv")
    assert run("rings", files[0], "--out", "a.json").code == 0
    assert run("rings", "p.csv", "--out", "b.json").code == 0
    assert written("a.json").rings == written("b.json").rings


def test_members_who_are_too_unlike_are_left_out(run: Run, files: tuple[Path, Path]) -> None:
    assert run("rings", files[0], "--out", "all.json").code == 0
    ran = run("rings", files[0], "--out", "r.json", "--similarity", "0.8", "--min-size", "5")
    assert ran.code == 0
    document = written("r.json")
    assert (document.similarity, document.min_size) == (0.8, 5)
    assert 0 < len(document.rings) < len(written("all.json").rings)
    assert all(ring.size >= 5 for ring in document.rings)


def test_part_of_a_file(run: Run, files: tuple[Path, Path]) -> None:
    ran = run("rings", files[0], "--out", "r.json", "--truth", files[1], "--until", "2025-01-04")
    assert ran.code == 0
    assert "(none)" in ran.out or "found 0 of" in ran.out or "of them by themselves" in ran.out
    assert written("r.json").transactions < 2000
    assert run("rings", files[0], "--out", "r.json", "--limit", "5").code == 0
    assert (written("r.json").transactions, written("r.json").rings) == (5, [])


def test_rows_that_are_no_transactions(run: Run, files: tuple[Path, Path]) -> None:
    Path("a.csv").write_text(HEADER + "t1,u,m,5,2020-01-01,d\nt2,u,m,-5,2020-01-02,d\n")
    ran = run("rings", "a.csv", "--out", "r.json")
    assert ran.code == 1
    assert "invalid_field" in ran.err and "--skip-bad" in ran.err
    assert not Path("r.json").exists()
    ran = run("rings", "a.csv", "--out", "r.json", "--skip-bad")
    assert ran.code == 0
    assert "no valid transactions: invalid_field 1" in ran.err


def test_what_is_no_truth(run: Run, files: tuple[Path, Path]) -> None:
    Path("t.json").write_text("[]")
    for name, says in (("t.json", "not what `dafu generate --truth` writes"), ("x.json", "read")):
        ran = run("rings", files[0], "--out", "r.json", "--truth", name)
        assert ran.code == 1
        assert says in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.csv"],
        ["a.csv", "--out", "r.csv"],
        ["a.csv", "--out", "r.json", "--similarity", "1.5"],
        ["a.csv", "--out", "r.json", "--min-size", "2"],
        ["a.csv", "--out", "r.json", "--since", "soon"],
    ],
)
def test_wrong_usage(run: Run, arguments: list[str]) -> None:
    assert run("rings", *arguments).code == 2
