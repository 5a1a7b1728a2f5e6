"""Rings and look-alikes: whether what is told of them is in the file, and nothing else changes."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import networkx as nx
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dafu.cli import main
from dafu.generator import (
    GROUP_SCHEMA,
    SCHEMA,
    GeneratorError,
    generate,
    generate_traffic,
    write,
    write_truth,
)
from dafu.generator.look_alikes import LOOK_ALIKES
from dafu.generator.rings import LARGEST, RING_KINDS, RING_SHARES, SMALLEST
from dafu.ingest import TransactionReader, load_mapping, to_records
from dafu.rings.truth import KnownGroup, Truth, decode_truth
from tests.generator.test_generate import digest

IDENTIFIERS = ("device_fingerprint", "ip_address", "card_id", "email")
USERS, MERCHANTS, DAYS, RINGS, ALIKE = 3000, 300, 50, 120, 100


@pytest.fixture(scope="module")
def world() -> tuple[pl.DataFrame, Truth]:
    made = generate_traffic(USERS, MERCHANTS, DAYS, 5, rings=RINGS, look_alikes=ALIKE)
    frame = pl.from_arrow(pa.Table.from_batches(made.batches))
    assert isinstance(frame, pl.DataFrame)
    at = pl.col("timestamp").str.to_datetime("%Y-%m-%dT%H:%M:%S%.3fZ", time_unit="ms")
    return frame.with_columns(at.cast(pl.Int64).alias("at")), made.truth


@pytest.fixture(scope="module")
def frame(world: tuple[pl.DataFrame, Truth]) -> pl.DataFrame:
    return world[0]


@pytest.fixture(scope="module")
def truth(world: tuple[pl.DataFrame, Truth]) -> Truth:
    return world[1]


def of_kind(truth: Truth, kind: str) -> list[KnownGroup]:
    return [group for group in truth.groups if group.kind == kind]


def worked(truth: Truth) -> list[KnownGroup]:
    """The rings that were asked for; campaigns of card testing are rings as well."""
    return [group for group in truth.groups if group.kind in RING_KINDS]


def rows_of(frame: pl.DataFrame, group: KnownGroup) -> pl.DataFrame:
    return frame.filter(pl.col("ring_id" if group.fraud else "look_alike_id") == group.group_id)


def crowd_of(frame: pl.DataFrame, group: KnownGroup, column: str) -> int:
    """Users of what most of the group share of this sort."""
    rows = rows_of(frame, group).drop_nulls(column)
    users: list[int] = rows.group_by(column).agg(pl.col("user_id").n_unique())["user_id"].to_list()
    return max(users, default=0)


def test_rings_come_on_top_of_a_simulation_that_is_the_same_without() -> None:
    plain = generate(300, 50, 5, seed=3)
    assert plain.schema == SCHEMA
    ringed = generate(300, 50, 5, seed=3, rings=6)
    assert ringed.schema == GROUP_SCHEMA
    columns = SCHEMA.names[1:]  # a transaction's id is its place
    ring = pc.fill_null(pc.equal(ringed["fraud_scenario"], "ring"), False)
    opened = pc.greater(ringed["user_id"], "user-00000299")
    own = pc.and_(pc.is_valid(ringed["ring_id"]), pc.equal(ringed["is_fraud"], 0))
    rest = ringed.filter(pc.invert(pc.or_(pc.or_(ring, opened), own))).select(columns)
    assert rest.num_rows < ringed.num_rows
    assert rest.equals(plain.select(columns))


def test_the_same_seed_gives_the_same_groups() -> None:
    made = [generate_traffic(400, 50, 10, 3, rings=8, look_alikes=9) for _ in range(2)]
    assert made[0].truth == made[1].truth
    tables = [pa.Table.from_batches(m.batches) for m in made]
    assert digest(tables[0]) == digest(tables[1])
    assert digest(generate(400, 50, 10, 3, rings=8, look_alikes=9)) == digest(tables[0])
    other = generate_traffic(400, 50, 10, 4, rings=8, look_alikes=9)
    assert other.truth != made[0].truth


def test_the_truth_is_what_is_in_the_file(frame: pl.DataFrame, truth: Truth) -> None:
    named = frame.with_columns(pl.coalesce("ring_id", "look_alike_id").alias("group"))
    seen = {
        row["group"]: row
        for row in named.drop_nulls("group")
        .group_by("group")
        .agg(
            pl.col("user_id").unique().sort().alias("members"),
            pl.len().alias("transactions"),
            pl.col("is_fraud").sum().alias("frauds"),
            pl.col("at").min().alias("first"),
            pl.col("at").max().alias("last"),
            pl.col("at").sort().alias("times"),
        )
        .to_dicts()
    }
    assert set(seen) == {group.group_id for group in truth.groups}
    for group in truth.groups:
        row = seen[group.group_id]
        assert group.members == row["members"]
        assert (group.transactions, group.frauds) == (row["transactions"], row["frauds"])
        assert (group.first_seen, group.last_seen) == (row["first"], row["last"])
        assert group.times == (row["times"] if group.fraud else [])
    assert frame.filter(
        pl.all_horizontal(pl.col("ring_id", "look_alike_id").is_not_null())
    ).is_empty()


def test_reached_is_where_three_members_first_share_something(
    frame: pl.DataFrame, truth: Truth
) -> None:
    """Recomputed with graphs, one transaction more each time."""
    checked = 0
    for group in [*truth.groups[:RINGS:4], *of_kind(truth, "family"), *of_kind(truth, "couple")]:
        graph, reached = nx.Graph(), None
        for row in rows_of(frame, group).iter_rows(named=True):
            for column in IDENTIFIERS:
                value = row[column]
                mobile = column == "ip_address" and group.fraud and str(value).startswith("100.")
                if value is not None and not mobile:
                    graph.add_edge(("user", row["user_id"]), (column, value))
            parts = nx.connected_components(graph)
            if any(sum(kind == "user" for kind, _ in part) >= truth.min_size for part in parts):
                reached = row
                break
        assert group.reached == (reached and reached["transaction_id"]), group.group_id
        assert group.reached_at == (reached and reached["at"])
        checked += reached is not None
    assert checked >= 50


def test_rings_come_in_their_shares_and_sizes(truth: Truth) -> None:
    rings = worked(truth)
    assert len(rings) == RINGS
    for kind in RING_KINDS:
        assert len(of_kind(truth, kind)) == pytest.approx(RING_SHARES[kind] * RINGS, abs=1), kind
    sizes = sorted(len(ring.members) for ring in rings if ring.kind != "slow")
    assert sizes[0] == SMALLEST
    assert 12 < sizes[-1] <= LARGEST
    assert 4 <= sizes[len(sizes) // 2] <= 8
    assert all(ring.reached for ring in rings)
    hours = sorted((ring.last_seen - ring.first_seen) / 3_600_000 for ring in rings)
    assert hours[0] < 6
    assert hours[-1] > 24 * 28


def ties(rows: pl.DataFrame) -> nx.Graph:
    graph = nx.Graph()
    for column in IDENTIFIERS:
        for user, value in rows.select("user_id", column).drop_nulls().unique().rows():
            if not (column == "ip_address" and value.startswith("100.")):
                graph.add_edge(user, (column, value))
    return graph


def test_a_ring_hangs_together(frame: pl.DataFrame, truth: Truth) -> None:
    largest = []
    for ring in worked(truth):
        parts = nx.connected_components(ties(rows_of(frame, ring)))
        largest.append(max(sum(isinstance(n, str) for n in p) for p in parts) / len(ring.members))
    assert sum(share == 1.0 for share in largest) > 0.8 * RINGS
    assert min(largest) >= 0.5


def test_rings_are_tied_by_what_their_kind_says(frame: pl.DataFrame, truth: Truth) -> None:
    """Users of the most shared identifier of each sort, per ring."""
    crowd: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for ring in worked(truth):
        for column in IDENTIFIERS:
            share = crowd_of(frame, ring, column) / len(ring.members)
            crowd[ring.kind][column].append(share)
    for kind, column in (
        ("device_farm", "device_fingerprint"),
        ("ip_cluster", "ip_address"),
        ("shared_card", "card_id"),
    ):
        mean = {c: sum(values) / len(values) for c, values in crowd[kind].items()}
        assert mean[column] > 0.6, (kind, mean)
        assert mean[column] == max(mean.values())
    mixed = {c: sum(values) / len(values) for c, values in crowd["mixed"].items()}
    assert all(0.3 < mixed[column] < 0.9 for column in IDENTIFIERS[:3]), mixed
    inboxes = [share for kind in crowd.values() for share in kind["email"]]
    assert 0.1 < sum(share > 0.5 for share in inboxes) / len(inboxes) < 0.5


def test_slow_rings_take_in_about_one_a_week(frame: pl.DataFrame, truth: Truth) -> None:
    gaps = []
    for ring in of_kind(truth, "slow"):
        active = rows_of(frame, ring).group_by("user_id").agg(pl.col("at").max())["at"].sort()
        assert ring.last_seen - ring.first_seen > 10 * 86_400_000
        gaps += (active.diff().drop_nulls() / 86_400_000).to_list()
    assert 3 < sum(gaps) / len(gaps) < 9


def test_members_have_a_life_and_frauds_do_not_stand_alone(
    frame: pl.DataFrame, truth: Truth
) -> None:
    ids = [ring.group_id for ring in worked(truth)]
    ringed = frame.filter(pl.col("ring_id").is_in(ids))
    assert 0.3 < ringed["is_fraud"].mean() < 0.7  # type: ignore[operator]
    fraud = ringed.filter(pl.col("is_fraud") == 1)
    assert set(fraud["fraud_scenario"]) == {"ring"}
    members = ringed["user_id"].unique()
    aside = frame.filter(pl.col("user_id").is_in(members.implode()) & pl.col("ring_id").is_null())
    with_life = aside["user_id"].n_unique() / len(members)
    assert 0.3 < with_life < 0.7  # the others were opened for it
    genuine = frame.filter(pl.col("ring_id").is_null() & (pl.col("is_fraud") == 0))
    assert len(set(fraud["merchant_id"]) - set(genuine["merchant_id"])) <= 2
    low, high = genuine["amount"].quantile(0.005), genuine["amount"].quantile(0.995)
    assert fraud["amount"].is_between(low, high).mean() > 0.9  # type: ignore[operator]
    for name in ("198.18.", "10.", "100."):
        assert fraud["ip_address"].str.starts_with(name).any()


def test_campaigns_of_card_testing_are_rings(frame: pl.DataFrame, truth: Truth) -> None:
    campaigns = of_kind(truth, "card_testing")
    assert campaigns
    named = frame.filter(pl.col("fraud_scenario") == "card_testing")
    assert set(named["ring_id"]) == {campaign.group_id for campaign in campaigns}
    for campaign in campaigns:
        rows = rows_of(frame, campaign)
        assert (rows["is_fraud"] == 1).all()
        assert rows["device_fingerprint"].n_unique() <= 3


def test_email_addresses_are_given_online(frame: pl.DataFrame) -> None:
    online = frame["channel"] == "online"
    assert (frame["email"].is_not_null() == online).all()
    assert frame["email"].drop_nulls().str.contains(r"^user\.\d{8}@\w+\.example$").all()
    alone = frame.filter(pl.col("ring_id").is_null() & pl.col("look_alike_id").is_null())
    assert (
        alone.drop_nulls("email")
        .group_by("email")
        .agg(pl.col("user_id").n_unique())["user_id"]
        .max()
        == 1
    )


def test_look_alikes_are_honest_and_share_as_rings_do(frame: pl.DataFrame, truth: Truth) -> None:
    alike = [group for group in truth.groups if not group.fraud]
    assert {group.kind for group in alike} == set(LOOK_ALIKES)
    assert all(group.frauds == 0 for group in alike)
    families = of_kind(truth, "family")
    tablets = [group for group in families if crowd_of(frame, group, "device_fingerprint") >= 3]
    assert 0.3 < len(tablets) / len(families) < 0.9
    for group in of_kind(truth, "couple"):
        assert len(group.members) <= 2
        assert crowd_of(frame, group, "card_id") == len(group.members)
    for group in of_kind(truth, "office"):
        rows = rows_of(frame, group)
        assert rows["ip_address"].n_unique() <= 2
        assert rows["device_fingerprint"].n_unique() >= len(group.members) - 2
    for group in of_kind(truth, "shop_tablet"):
        rows = rows_of(frame, group)
        assert (rows["device_fingerprint"].n_unique(), rows["merchant_id"].n_unique()) == (1, 1)
    for group in of_kind(truth, "proxy"):
        assert rows_of(frame, group)["ip_address"].n_unique() <= 6
    for group in of_kind(truth, "carrier"):
        rows = rows_of(frame, group)
        assert rows["ip_address"].str.starts_with("100.").all()
        assert rows["ip_address"].n_unique() <= 16
        assert rows["user_id"].n_unique() >= 40


def test_families_live_together(frame: pl.DataFrame, truth: Truth) -> None:
    for group in of_kind(truth, "family"):
        online = rows_of(frame, group).filter(pl.col("channel") == "online")
        homes = online.group_by("lat", "long").len().sort("len", descending=True)
        assert homes["len"][0] > 0.8 * len(online)


def test_a_sold_device_has_one_owner_at_a_time(frame: pl.DataFrame, truth: Truth) -> None:
    owners = 0
    for group in of_kind(truth, "sold_device"):
        rows = rows_of(frame, group)
        assert rows["device_fingerprint"].n_unique() == 1
        spans = rows.group_by("user_id").agg(
            pl.col("at").min().alias("first"), pl.col("at").max().alias("last")
        )
        ordered = spans.sort("first")
        assert (ordered["first"][1:] > ordered["last"][:-1]).all()
        owners = max(owners, len(ordered))
    assert owners == 3


def test_an_engine_never_sees_the_truth(tmp_path: Path) -> None:
    path = tmp_path / "payments.csv"
    made = generate_traffic(100, 30, 10, 1, rings=4, look_alikes=6)
    write(made.batches, path)
    reader = TransactionReader(path, load_mapping("dafu"))
    values = [value for batch in reader for _, value in to_records(batch)]
    assert len(values) > 1000
    assert not any(word in value for value in values for word in (b"ring", b"benign", b"fraud"))
    labels = [
        batch.column("ring_id").drop_null()
        for batch in TransactionReader(path, load_mapping("dafu"))
    ]
    assert sum(map(len, labels)) == sum(g.transactions for g in made.truth.groups if g.fraud)


def test_the_command_writes_the_truth_besides(tmp_path: Path) -> None:
    out, side = tmp_path / "p.parquet", tmp_path / "truth.json"
    options = ["--users", "200", "--merchants", "40", "--days", "12", "--seed", "9"]
    groups = ["--rings", "5", "--look-alikes", "7", "--truth", str(side)]
    with pytest.raises(SystemExit) as done:
        main(["generate", "--out", str(out), *options, *groups])
    assert done.value.code == 0
    wanted = generate_traffic(200, 40, 12, 9, rings=5, look_alikes=7)
    assert decode_truth(side.read_bytes(), side.name) == wanted.truth
    assert pa.parquet.read_table(out).equals(pa.Table.from_batches(wanted.batches))
    assert json.loads(side.read_bytes())["min_size"] == 3
    with pytest.raises(GeneratorError, match="cannot be written"):
        write_truth(wanted.truth, tmp_path)
    with pytest.raises(SystemExit) as done:
        main(["generate", "--out", str(out), *options, "--truth", str(side)])
    assert done.value.code == 2


@pytest.mark.parametrize(("users", "merchants", "days"), [(1, 1, 1), (4, 3, 2), (30, 5, 60)])
def test_tiny_worlds_have_groups(users: int, merchants: int, days: int) -> None:
    made = generate_traffic(users, merchants, days, 0, rings=20, look_alikes=20)
    table = pa.Table.from_batches(made.batches)
    assert table.schema == GROUP_SCHEMA
    assert len(worked(made.truth)) == 20
    rings = [group for group in made.truth.groups if group.fraud]
    assert sum(ring.transactions for ring in rings) == len(table["ring_id"].drop_null())


@pytest.mark.parametrize("name", ["rings", "look_alikes"])
def test_absurd_numbers_are_refused(name: str) -> None:
    with pytest.raises(GeneratorError, match=f"{name} is -1; it must be within"):
        generate_traffic(5, 5, 2, 1, **{name: -1})  # type: ignore[arg-type]
