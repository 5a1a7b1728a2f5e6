"""The benchmarks measure what they say, and come out with figures; nothing here is about speed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("hdrh", reason="needs the bench extra")
pytest.importorskip("psutil", reason="needs the bench extra")

from bench import cpu, latency, report, rings, throughput
from bench.brokers import EMBEDDED, BenchError
from bench.load import Generator, Load
from bench.population import EVENTS, user_changes
from bench.records import Publisher
from bench.recovery import stamp
from bench.results import Context, Figure, Section, Table, figure
from dafu.features.state import USERS

CONTEXT = Context({"processor": "p"}, {"Python": "3"}, "abc", "2025-01-01 00:00 UTC", True)


def section(name: str, context: Context = CONTEXT) -> Section:
    table = Table("t", ["job", "rate"], [["a", figure([1.0, 3.0, 2.0])]])
    return Section(name, f"Title of {name}", "method", ["bias"], [table], context=context)


def test_a_figure_is_the_median_and_its_spread() -> None:
    assert str(figure([1000.0, 3000.0, 2500.0])) == "2,500 (1,000..3,000)"
    assert str(figure(1.25, 1)) == "1.2"
    assert str(Figure([1.0, 3.0], 0, 2.5)) == "2 (1..3)"


def test_results_survive_their_file_and_are_replaced_by_name(tmp_path: Path) -> None:
    path = tmp_path / "out" / "results.json"
    report.save(path, {"rules": section("rules")})
    found = report.load(path)
    assert found == {"rules": section("rules")}
    assert report.load(tmp_path / "none.json") == {}


def test_the_page_says_what_it_ran_on_once_if_that_is_one_thing() -> None:
    page = report.page([section("rules"), section("throughput-kafka")])
    assert page.index("Title of throughput-kafka") < page.index("Title of rules")
    assert page.count("| processor | p |") == 1
    assert "| a | 2 (1..3) |" in page
    other = msgspec.structs.replace(CONTEXT, machine={"processor": "q"})
    page = report.page([section("rules"), section("cpu", other)])
    assert "processor q" in page
    assert "processor p" in page


def test_the_time_of_a_log_line() -> None:
    log = "[2025-01-01 00:00:01,250] [1] [INFO] begun\n2025-01-01 00:00:03,750 INFO x: done\n"
    assert stamp(log, "done") - stamp(log, "begun") == 2.5
    with pytest.raises(BenchError, match="no line with 'never'"):
        stamp(log, "never")


def test_a_clock_counts_no_time_twice_and_puts_everything_back() -> None:
    from dafu.stages import users

    def watched() -> tuple[object, object]:
        return vars(users)["step_users"], vars(users.UserStage)["run"]

    before = watched()
    clock = cpu.Clock()
    inner = clock.wrap("inner", lambda: sum(range(400_000)))
    outer = clock.wrap("outer", lambda: (inner(), inner()))
    with clock.watching(cpu.PARTS):
        assert not set(watched()) & set(before)
        outer()
    assert watched() == before
    assert clock.seconds["outer"] < clock.seconds["inner"] / 2


def test_a_part_that_is_gone_is_named() -> None:
    with (
        pytest.raises(BenchError, match=r"names dafu\.schema:gone"),
        cpu.Clock().watching({"part": ("dafu.schema:gone",)}),
    ):
        pass


def test_a_population_has_one_record_for_each_user() -> None:
    found = [record for _, records in user_changes(600, 4) for record in records]
    size = USERS.head.itemsize + EVENTS * USERS.event.itemsize
    assert len({key for key, _ in found}) == len(found) == 600
    assert {len(value or b"") for _, value in found} == {size}


class Slow(Publisher):
    """Holds up the event loop once, as a stalled machine would, and acknowledges at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def post(self, topic, keys, values, *, partition=None, headers=None):  # type: ignore[no-untyped-def]
        import time

        if len(self.sizes) == 3:
            time.sleep(0.1)
        self.sizes.append(len(keys))
        future = asyncio.get_running_loop().create_future()
        future.set_result({})
        return future


async def test_a_load_generator_that_was_held_up_catches_up_and_says_so() -> None:
    import time

    out = Slow()
    load = Load("", "", "t", 1000.0, 0.002, 0.0)
    data = [b"x"] * 300
    began = time.monotonic_ns()
    sent = await Generator(out, load, data, data).run(began)
    assert sum(out.sizes) == sent.records == 300
    assert max(out.sizes) >= 80  # what fell due meanwhile
    assert sent.late_max_ms >= 90
    assert sent.published_max_ms >= 90
    assert (time.monotonic_ns() - began) / 1e9 >= 0.299


def test_rings_come_out_with_figures() -> None:
    found = rings.measure(rings.Plan(links=3000, steps=60, sightings=900))
    figures = [row[1] for table in found.tables for row in table.rows]
    assert all(isinstance(f, Figure) and f.median > 0.0 for f in figures[:5])
    assert found.name in report.ORDER


def test_a_histogram_keeps_percentiles_to_three_digits() -> None:
    values = np.arange(1, 100_001, dtype=np.float64)
    found = latency.histogram(values)
    assert found.get_total_count() == 100_000
    assert found.get_value_at_percentile(99.0) == pytest.approx(99_000, rel=2e-3)


@pytest.mark.broker
def test_throughput_comes_out_for_both_jobs(bootstrap: str) -> None:
    sizes = throughput.Sizes(
        transactions=5_000, runs=1, faust=100, faust_per_row=0, quix=0, quix_per_row=0, partitions=2
    )
    table = throughput.measure(EMBEDDED, bootstrap, sizes, None).tables[0]
    assert [row[0] for row in table.rows] == [job.title for job in throughput.jobs(sizes, None)]
    for row in table.rows:
        rate, cost = row[2], row[3]
        assert isinstance(rate, Figure)
        assert isinstance(cost, Figure)
        assert rate.median > 0
        assert cost.median > 0


@pytest.mark.broker
def test_latency_comes_out_and_every_transaction_is_decided(bootstrap: str) -> None:
    plan = latency.Plan(
        (100,), (1,), seconds=2.0, warm_up=1.0, slices=2, partitions=2, broker_warm_up=0
    )
    found = latency.measure(EMBEDDED, bootstrap, plan)
    row = dict(zip(latency.COLUMNS, found.tables[0].rows[0], strict=True))
    p50, p99, most = row["p50 ms"], row["p99 ms"], row["max ms"]
    assert isinstance(p50, Figure)
    assert isinstance(p99, Figure)
    assert isinstance(most, Figure)
    assert 0 < p50.median <= p99.median <= most.median * 1.01
    assert row["undecided"] == "0"
    assert found.raw
