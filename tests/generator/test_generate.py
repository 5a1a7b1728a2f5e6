"""Determinism, order, labels, and whether the people in there behave like people."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from dafu.generator import (
    DEFAULT_SCENARIOS,
    LABEL_COLUMNS,
    SCENARIOS,
    SCHEMA,
    GeneratorError,
    generate,
    generate_traffic,
)
from dafu.generator.render import timestamps
from dafu.generator.world import distance_km
from dafu.schema import TRANSACTION_FIELDS, parse_transaction

USERS, MERCHANTS, DAYS = 3000, 400, 40


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return generate(USERS, MERCHANTS, DAYS, seed=11)


@pytest.fixture(scope="module")
def frame(table: pa.Table) -> pl.DataFrame:
    """The table with `at`, the time as a number of milliseconds."""
    whole = pl.from_arrow(table)
    assert isinstance(whole, pl.DataFrame)
    at = pl.col("timestamp").str.to_datetime("%Y-%m-%dT%H:%M:%S%.3fZ", time_unit="ms")
    return whole.with_columns(at.cast(pl.Int64).alias("at"))


@pytest.fixture(scope="module")
def genuine(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("is_fraud") == 0)


def fraud(frame: pl.DataFrame, scenario: str) -> pl.DataFrame:
    return frame.filter(pl.col("fraud_scenario") == scenario)


def digest(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


def hops(frame: pl.DataFrame) -> pl.DataFrame:
    """Per consecutive pair of a user's transactions: km and hours between them."""
    ordered = frame.sort("user_id", "at", maintain_order=True)
    before = ordered.select("user_id", "at", "lat", "long").shift(1)
    km = distance_km(
        before["lat"].to_numpy(),
        before["long"].to_numpy(),
        ordered["lat"].to_numpy(),
        ordered["long"].to_numpy(),
    )
    return pl.DataFrame(
        {
            "same": ordered["user_id"] == before["user_id"],
            "km": km,
            "hours": (ordered["at"] - before["at"]) / 3_600_000,
        }
    ).filter("same")


def test_the_same_seed_gives_the_same_bytes_in_another_process() -> None:
    here = digest(generate(300, 50, 5, seed=3))
    code = (
        "from tests.generator.test_generate import digest, generate\n"
        "print(digest(generate(300, 50, 5, seed=3)))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == here
    assert digest(generate(300, 50, 5, seed=4)) != here


def test_batches_are_the_table() -> None:
    batches = list(generate_traffic(3000, 100, 30, seed=2).batches)
    assert len(batches) > 1
    assert pa.Table.from_batches(batches).equals(generate(3000, 100, 30, seed=2).combine_chunks())


def test_sorted_by_time_within_the_simulation(frame: pl.DataFrame) -> None:
    assert frame["at"].is_sorted()
    start = datetime(2025, 1, 1, tzinfo=UTC).timestamp() * 1000
    assert frame["at"].min() >= start  # type: ignore[operator]
    assert frame["at"].max() < start + DAYS * 86_400_000  # type: ignore[operator]
    days = frame.group_by(pl.col("at") // 86_400_000).len()["len"]
    assert len(days) == DAYS
    assert days.min() > 0.6 * days.mean()  # type: ignore[operator]


def test_start_moves_the_whole_simulation() -> None:
    shifted = generate(50, 20, 3, seed=1, start=datetime(2026, 3, 4, tzinfo=UTC))
    first = shifted["timestamp"][0].as_py()
    assert first.startswith("2026-03-04T")
    assert generate(50, 20, 3, seed=1, start=datetime(2026, 3, 4)).equals(shifted)


def test_ids_are_unique_within_and_between_simulations(frame: pl.DataFrame) -> None:
    assert frame["transaction_id"].n_unique() == len(frame)
    other = generate(USERS, MERCHANTS, 1, seed=11)["transaction_id"].to_pylist()
    assert not set(other) & set(frame["transaction_id"].to_list())


def test_every_row_is_a_valid_transaction(frame: pl.DataFrame) -> None:
    assert frame.columns[:-1] == SCHEMA.names
    assert set(SCHEMA.names) - set(LABEL_COLUMNS) <= set(TRANSACTION_FIELDS)
    for row in frame.drop(*LABEL_COLUMNS, "at").sample(2000, seed=1).to_dicts():
        transaction, _ = parse_transaction(msgspec.json.encode(row))
        assert transaction.transaction_id == row["transaction_id"]


def test_timestamps_are_iso_8601() -> None:
    start = datetime(1999, 12, 31, 23, 59, 59, 7000, tzinfo=UTC)
    moments = [start + timedelta(milliseconds=ms) for ms in (0, 993, 86_400_000 * 60, 3_723_004)]
    texts = timestamps(np.array([round(m.timestamp() * 1000) for m in moments])).to_pylist()
    wanted = [m.isoformat(timespec="milliseconds").replace("+00:00", "Z") for m in moments]
    assert texts == wanted


def test_fraud_has_the_wanted_share_and_every_scenario(frame: pl.DataFrame) -> None:
    assert frame["is_fraud"].mean() == pytest.approx(0.01, rel=0.02)
    counts = dict(frame["fraud_scenario"].drop_nulls().value_counts().iter_rows())
    total = sum(counts.values())
    for name, share in zip(DEFAULT_SCENARIOS, (0.35, 0.20, 0.20, 0.15, 0.10), strict=True):
        assert counts[name] / total == pytest.approx(share, abs=0.02), name
    labelled = frame["fraud_scenario"].is_not_null()
    assert (labelled == (frame["is_fraud"] == 1)).all()


@pytest.mark.parametrize("rate", [0.0, 0.003, 0.05, 0.3])
def test_fraud_rate_is_an_argument(rate: float) -> None:
    made = generate(1000, 100, 20, seed=5, fraud_rate=rate)
    assert np.mean(made["is_fraud"].to_numpy()) == pytest.approx(rate, rel=0.05)


def test_no_column_is_reserved_for_fraud(frame: pl.DataFrame, genuine: pl.DataFrame) -> None:
    """A rule on one plain value must not give the label away."""
    for column in ("category", "channel", "country", "currency", "user_agent"):
        values = set(genuine[column].drop_nulls().unique())
        assert set(frame[column].drop_nulls().unique()) == values
    nets = [ip_network(n) for n in ("10.0.0.0/8", "100.64.0.0/10", "198.18.0.0/15")]
    seen = [ip_address(a) for a in genuine["ip_address"].drop_nulls().head(20_000)]
    shares = {net: sum(a in net for a in seen) / len(seen) for net in nets}
    assert all(share > 0.005 for share in shares.values()), shares
    assert sum(shares.values()) == pytest.approx(1.0)


def test_nobody_genuine_travels_impossibly_fast(genuine: pl.DataFrame) -> None:
    moves = hops(genuine)
    speed = moves["km"] / moves["hours"].clip(1e-9)
    assert len(moves) > 100_000
    assert speed.filter(moves["km"] > 0.01).max() < 1500.0  # type: ignore[operator]
    assert (moves["hours"] > 0).all()


def test_genuine_shopping_is_near_and_some_is_far(genuine: pl.DataFrame) -> None:
    moves = hops(genuine.filter(pl.col("channel") == "card_present"))
    assert moves["km"].median() < 8.0  # type: ignore[operator]
    assert 0.005 < (moves["km"] > 200.0).mean() < 0.10  # type: ignore[operator]
    present = genuine.filter(pl.col("channel") == "card_present")
    assert (present["lat"] == present["merchant_lat"]).all()
    assert 0.2 < 1 - len(present) / len(genuine) < 0.5


def test_days_and_weeks_have_a_rhythm_in_local_time(genuine: pl.DataFrame) -> None:
    local = (genuine["at"] / 3_600_000 + genuine["long"] / 15.0) % 24
    night = ((local >= 2) & (local < 5)).mean()
    evening = ((local >= 17) & (local < 20)).mean()
    assert evening > 8 * night  # type: ignore[operator]
    weekday = (genuine["at"] // 86_400_000 + 3) % 7  # 1970-01-01 was a Thursday
    by_day = weekday.filter(genuine["at"] < genuine["at"].min() + 35 * 86_400_000).value_counts()  # type: ignore[operator]
    counts = dict(by_day.iter_rows())
    assert counts[5] > 1.2 * counts[0]


def test_activity_popularity_and_amounts_are_heavy_tailed(genuine: pl.DataFrame) -> None:
    per_user = genuine.group_by("user_id").len()["len"]
    top = per_user.sort(descending=True).head(USERS // 10).sum()
    assert 0.25 < top / len(genuine) < 0.6
    per_merchant = genuine.group_by("merchant_id").len()["len"].sort(descending=True)
    assert per_merchant.head(MERCHANTS // 10).sum() > 0.3 * len(genuine)
    amounts = genuine["amount"]
    assert amounts.min() >= 0.5  # type: ignore[operator]
    assert amounts.mean() > 1.4 * amounts.median()  # type: ignore[operator]
    assert (amounts == amounts.round(2)).all()


def test_people_keep_to_their_habits(genuine: pl.DataFrame) -> None:
    busy = genuine.group_by("user_id").len().filter(pl.col("len") >= 40)["user_id"]
    each = genuine.filter(pl.col("user_id").is_in(busy.implode())).group_by("user_id")
    habits = each.agg(
        pl.col("device_fingerprint").drop_nulls().n_unique().alias("devices"),
        pl.col("card_id").n_unique().alias("cards"),
        pl.col("currency").n_unique().alias("currencies"),
        pl.col("ip_address").drop_nulls().n_unique().alias("ips"),
        (pl.col("merchant_id").mode().first() == pl.col("merchant_id")).mean().alias("favourite"),
    )
    assert habits["devices"].max() <= 6  # type: ignore[operator]
    assert 1.2 < habits["devices"].mean() < 3.0  # type: ignore[operator]
    assert habits["cards"].max() == 2
    assert habits["currencies"].max() == 1
    assert habits["ips"].mean() > 5  # type: ignore[operator]
    assert habits["favourite"].median() > 0.15  # type: ignore[operator]


def test_stolen_cards_are_used_in_bursts_far_away(frame: pl.DataFrame) -> None:
    burst = fraud(frame, "stolen_card")
    assert (burst["channel"] == "card_present").all()
    moves = hops(burst)
    assert (moves["hours"] < 2.0).mean() > 0.5  # type: ignore[operator]
    home = (
        frame.filter(pl.col("is_fraud") == 0)
        .group_by("user_id")
        .agg(pl.col("country").mode().first().alias("home"))
    )
    abroad = burst.join(home, on="user_id").select((pl.col("country") != pl.col("home")).mean())
    assert 0.6 < abroad.item() < 0.99
    known = frame.filter(pl.col("is_fraud") == 0).select("user_id", "merchant_id").unique()
    familiar = burst.join(known, on=["user_id", "merchant_id"], how="semi")
    assert len(familiar) < 0.1 * len(burst)


def test_account_takeovers_bring_a_new_device_and_larger_amounts(
    frame: pl.DataFrame, genuine: pl.DataFrame
) -> None:
    taken = fraud(frame, "account_takeover")
    assert (taken["channel"] == "online").all()
    for column in ("device_fingerprint", "ip_address"):
        known = genuine.select("user_id", column).unique()
        assert len(taken.join(known, on=["user_id", column], how="semi")) == 0
    assert taken["amount"].median() > 2 * genuine["amount"].median()  # type: ignore[operator]


def test_card_testing_tries_many_cards_at_one_merchant(frame: pl.DataFrame) -> None:
    tests = fraud(frame, "card_testing")
    probes = tests.filter(pl.col("amount") <= 3.0)
    assert 0.5 < len(probes) / len(tests) < 0.9
    quarter_hours = probes.group_by("merchant_id", pl.col("at") // 1_800_000).agg(
        pl.col("user_id").n_unique().alias("users"),
        pl.col("device_fingerprint").n_unique().alias("devices"),
    )
    assert quarter_hours["users"].max() >= 15  # type: ignore[operator]
    crowded = quarter_hours.filter(pl.col("users") >= 15)
    assert (crowded["devices"] <= 6).all()
    later = tests.filter(pl.col("amount") > 5.0)
    tried = probes.select("card_id", "device_fingerprint", pl.col("at").alias("tried"))
    followed = later.join(tried, on=["card_id", "device_fingerprint"])
    assert len(followed) >= 0.9 * len(later)
    assert (followed["at"] > followed["tried"]).mean() > 0.95  # type: ignore[operator]


def test_compromised_cards_have_a_merchant_in_common(
    frame: pl.DataFrame, genuine: pl.DataFrame
) -> None:
    """The point of compromise stands out: most abused cards had met in five shops."""
    abused = fraud(frame, "compromised_merchant").group_by("card_id").agg(pl.col("at").min())
    before = genuine.join(abused, on="card_id", suffix="_abuse").filter(
        pl.col("at") < pl.col("at_abuse")
    )
    visited = ["card_id", "merchant_id"]
    met = before.select(visited).unique().group_by("merchant_id").len("met")
    usual = genuine.select(visited).unique().group_by("merchant_id").len("usual")
    expected = pl.col("usual") * len(abused) / genuine["card_id"].n_unique()
    excess = (pl.col("met") - expected) / expected.sqrt()
    few = met.join(usual, on="merchant_id").sort(excess, descending=True).head(5)
    covered = before.join(few, on="merchant_id", how="semi")["card_id"].n_unique()
    assert covered > 0.8 * len(abused)


def test_large_amounts_are_large(frame: pl.DataFrame, genuine: pl.DataFrame) -> None:
    large = fraud(frame, "large_amount")["amount"]
    assert large.median() > 10 * genuine["amount"].median()  # type: ignore[operator]


def test_limit_probing_is_odd_in_its_order_alone() -> None:
    made = generate(1500, 200, 30, seed=3, scenarios=["limit_probing"])
    whole = pl.from_arrow(made)
    assert isinstance(whole, pl.DataFrame)
    assert set(whole["fraud_scenario"].drop_nulls()) == {"limit_probing"}
    assert whole["is_fraud"].mean() == pytest.approx(0.01, rel=0.02)
    probes, genuine = (whole.filter(pl.col("is_fraud") == flag) for flag in (1, 0))
    online = genuine.filter(pl.col("channel") == "online")
    assert (probes["channel"] == "online").all()
    # Of what the user does online it has everything but the order.
    low, high = online["amount"].quantile(0.02), online["amount"].quantile(0.99)
    assert probes["amount"].is_between(low, high).mean() > 0.95  # type: ignore[operator]
    for column in ("merchant_id", "device_fingerprint"):
        known = online.select("user_id", column).unique()
        familiar = probes.join(known, on=["user_id", column], how="semi")
        assert len(familiar) > 0.7 * len(probes), column

    def rising(frame: pl.DataFrame) -> float:
        """Share of purchases above the user's last one, of those within a day of it."""
        ordered = frame.sort("user_id", "timestamp", maintain_order=True)
        at = pl.col("timestamp").str.to_datetime("%Y-%m-%dT%H:%M:%S%.3fZ", time_unit="ms")
        ordered = ordered.with_columns(at.alias("at"))
        next_one = (pl.col("user_id") == pl.col("user_id").shift(1)) & (
            pl.col("at") - pl.col("at").shift(1) < timedelta(days=1)
        )
        pairs = ordered.select((pl.col("amount") > pl.col("amount").shift(1)).filter(next_one))
        return float(pairs["amount"].mean())  # type: ignore[arg-type]

    assert rising(probes) > 0.9
    assert 0.4 < rising(online) < 0.6


def test_a_merchant_in_collusion_charges_many_users_alike_and_far_too_much() -> None:
    made = generate(1500, 200, 30, seed=3, scenarios=["collusive_merchant"])
    whole = pl.from_arrow(made)
    assert isinstance(whole, pl.DataFrame)
    assert set(whole["fraud_scenario"].drop_nulls()) == {"collusive_merchant"}
    assert whole["is_fraud"].mean() == pytest.approx(0.01, rel=0.02)
    charged, genuine = (whole.filter(pl.col("is_fraud") == flag) for flag in (1, 0))
    assert (charged["channel"] == "card_present").all()
    usual = genuine.group_by("merchant_id").agg(pl.col("amount").mean().alias("usual"))
    day = pl.col("timestamp").str.slice(0, 10)
    episodes = charged.group_by("merchant_id", day).agg(
        pl.col("user_id").n_unique().alias("users"),
        pl.col("amount").min().alias("least"),
        pl.col("amount").max().alias("most"),
    )
    known = episodes.join(usual, on="merchant_id").filter(pl.col("users") >= 10)
    assert len(known) > 5
    assert (known["least"] > 3 * known["usual"]).all()
    alike = known["most"] / known["least"] < 1.07
    assert alike.mean() > 0.8  # type: ignore[operator]


def test_scenarios_do_not_touch_each_other() -> None:
    """The default ones by name are the default; a chosen one's fraud follows from the seed."""
    plain = digest(generate(300, 50, 10, seed=3))
    assert digest(generate(300, 50, 10, seed=3, scenarios=DEFAULT_SCENARIOS)) == plain
    assert digest(generate(300, 50, 10, seed=3, scenarios=SCENARIOS)) != plain
    chosen = [generate(300, 50, 10, seed=3, scenarios=["limit_probing"]) for _ in range(2)]
    assert digest(chosen[0]) == digest(chosen[1])


@pytest.mark.parametrize(("users", "merchants", "days"), [(1, 1, 1), (2, 3, 1), (5, 1, 60)])
def test_tiny_worlds_work(users: int, merchants: int, days: int) -> None:
    made = generate(users, merchants, days, seed=0, fraud_rate=0.2)
    assert made.schema == SCHEMA
    assert len(set(made["user_id"].to_pylist())) <= users
    assert len(set(made["merchant_id"].to_pylist())) <= merchants


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"users": 0}, "users is 0"),
        ({"scenarios": ["magic"]}, "scenarios are magic"),
        ({"scenarios": []}, "scenarios are none"),
        ({"merchants": -1}, "merchants is -1"),
        ({"days": 3651}, "days is 3651"),
        ({"seed": -1}, "seed is -1"),
        ({"fraud_rate": 0.5}, "fraud_rate is"),
    ],
)
def test_arguments_out_of_range_are_refused(change: dict[str, float], says: str) -> None:
    arguments = {"users": 5, "merchants": 5, "days": 2, "seed": 1, **change}
    with pytest.raises(GeneratorError, match=says):
        generate(**arguments)  # type: ignore[arg-type]
