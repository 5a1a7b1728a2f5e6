"""Rings of files: which alerts count, what is listed, and that cuts of the file do not matter."""

from __future__ import annotations

import msgspec
import pyarrow as pa
import pytest

from dafu.generator import GROUP_COLUMNS, LABEL_COLUMNS, generate
from dafu.network import CHUNK_ROWS, Findings, find_rings, rings_of
from dafu.offline import OutputFileError, RejectedRowError
from dafu.rings.evaluation import components
from dafu.rings.records import RingAlert
from dafu.rules import compile_rules
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.stages.ring_pipeline import RingPipeline
from dafu.stages.users import UserStage
from tests.rings.test_evaluation import alert
from tests.rings.test_likeness import shared

T0 = 1_750_000_000_000


def pipeline() -> RingPipeline:
    """Stages without rules and model: everything is approved."""
    rules = compile_rules([], {}, {}, {})
    return RingPipeline(UserStage(0), MerchantStage(rules, None, Thresholds()))


def millisecond_times(table: pa.Table) -> pa.Table:
    """The table with its times as a reader gives them."""
    times = table["timestamp"].cast(pa.timestamp("ms", tz="UTC"))
    return table.set_column(table.column_names.index("timestamp"), "timestamp", times)


@pytest.fixture(scope="module")
def payments() -> pa.Table:
    made = generate(users=150, merchants=30, days=20, seed=4, rings=8, look_alikes=4)
    return millisecond_times(made.drop_columns([*LABEL_COLUMNS, *GROUP_COLUMNS]))


@pytest.fixture(scope="module")
def found(payments: pa.Table) -> Findings:
    return find_rings(payments.to_batches(max_chunksize=10_000), pipeline())


def test_rings_are_found_and_hang_together(payments: pa.Table, found: Findings) -> None:
    rings = rings_of(found.alerts)
    assert len(rings) >= 3
    assert found.transactions == payments.num_rows
    assert [ring.score for ring in rings] == sorted((r.score for r in rings), reverse=True)
    parts = [set(report.members) for report in components(found.pairs, 3)]
    for ring in rings:
        members = {member.user_id for member in ring.members}
        assert any(members <= part for part in parts)
        for edge in ring.edges:
            assert (edge.user_id, edge.identifier) in found.pairs


@pytest.mark.parametrize("rows", [137, CHUNK_ROWS, 100_000])
def test_cuts_of_the_file_do_not_matter(payments: pa.Table, found: Findings, rows: int) -> None:
    again = find_rings(payments.to_batches(max_chunksize=rows), pipeline())
    assert again == found


def test_progress_is_told_after_every_chunk(payments: pa.Table) -> None:
    told: list[int] = []
    part = payments.slice(0, 2 * CHUNK_ROWS + 10)
    find_rings(part.to_batches(), pipeline(), on_chunk=lambda f: told.append(f.transactions))
    assert told == [CHUNK_ROWS, 2 * CHUNK_ROWS, 2 * CHUNK_ROWS + 10]


def test_rows_that_are_no_transactions(payments: pa.Table) -> None:
    part = payments.slice(0, 20)
    at = part.column_names.index("amount")
    bad = part.set_column(at, "amount", pa.array([-1.0] + [5.0] * 19))
    with pytest.raises(RejectedRowError, match="invalid_field"):
        find_rings(bad.to_batches(), pipeline())
    lenient = find_rings(bad.to_batches(), pipeline(), skip_bad=True)
    assert (lenient.transactions, lenient.rejected) == (19, {"invalid_field": 1})
    twice = pa.concat_tables([part, part])
    assert find_rings(twice.to_batches(), pipeline()).duplicates == 20


def series() -> list[RingAlert]:
    """x grows, shrinks and ends; y goes on as part of z; z goes on."""
    return [
        alert("x", "abc", score=0.7),
        alert("x", "abcde", event="grown", score=0.9, time=6),
        alert("y", "klm", time=7),
        alert("x", "ab", event="updated", score=0.5, time=8),
        alert("z", "opq", score=0.8, time=9),
        alert("y", "", event="closed", time=10, related=["z"]),
        alert("z", "klmopq", event="merged", score=0.85, time=10, related=["y"]),
        alert("x", "", event="closed", score=0.5, time=11),
    ]


def test_what_is_listed_of_rings() -> None:
    rings = rings_of(series())
    assert [(ring.ring_id, ring.size, ring.ended) for ring in rings] == [
        ("x", 5, 11),
        ("z", 6, None),
    ]
    assert rings[0].score == 0.9
    assert rings_of([]) == []


def test_similarity_and_size_choose_rings() -> None:
    weak = shared({"a": (0.6, [0, 1, 2]), "b": (1.0, [3, 4, 5])})
    ended = msgspec.structs.replace(weak, event="closed", members=[], size=6)
    other = msgspec.structs.replace(ended, ring_id="never told of")
    findings = Findings([weak, ended, other])
    assert findings.selected(0.0, 3) == [weak, ended]
    half = findings.selected(0.8, 3)
    assert [member.user_id[-1] for member in half[0].members] == ["3", "4", "5"]
    assert half[1:] == [ended]
    assert findings.selected(0.0, 7) == findings.selected(0.8, 4) == []


def test_places_that_can_not_be_written(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from dafu.network import RingDocument, draw_rings, write_rings

    document = RingDocument("f", 0, 0.0, 3, rings_of(series()))
    with pytest.raises(OutputFileError, match="can not be written"):
        write_rings(document, tmp_path / "no" / "r.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputFileError, match="can not be made"):
        draw_rings(document.rings, tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    write_rings(document, tmp_path / "r.json")
    assert msgspec.json.decode((tmp_path / "r.json").read_bytes(), type=RingDocument) == document
