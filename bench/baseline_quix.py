"""The job of `bench.tutorial` on Quix Streams: a peer that users might pick instead of Faust.

Written the way its documentation recommends: one `Application`, a `StreamingDataFrame` with
stateful functions, `group_by` for the second key, changelogged state in RocksDB (it has no other
store) with transactions that end at each commit. It runs in an environment of its own, because its
pins and dafu's runtime do not agree; `make bench` installs it from bench/quix.lock.

Environment: DAFU_BROKER (host:port), DAFU_TOPIC_PREFIX (empty), DAFU_DATA_DIR,
DAFU_BASELINE_MODEL (per-row | none)::

    .venv-quix/bin/python -m bench.baseline_quix
"""

# Its packages are not in the environment that mypy looks at.
# mypy: disable-error-code="misc"

from __future__ import annotations

import os
import time
from collections import defaultdict
from typing import Any, Final

from quixstreams import Application, State

from bench import tutorial
from bench.tutorial import DAY

READY: Final = "The application started and is now processing incoming messages"


def score_user(payment: dict[str, Any], state: State) -> dict[str, Any]:
    """Stage one: the windows and the behaviour of the user."""
    tx: dict[str, Any] = defaultdict(lambda: None, payment)
    now = tutorial.epoch_seconds(tx["timestamp"])
    entry = tutorial.user_entry(tx, now)
    history = tutorial.recent([*state.get("history", []), entry], now, 30 * DAY)
    state.set("history", history)
    return {
        "transaction_id": tx["transaction_id"],
        "user_id": tx["user_id"],
        "merchant_id": tx["merchant_id"],
        "amount": tx["amount"],
        "at": now,
        "features": tutorial.user_features(history),
    }


def score_merchant(tx: dict[str, Any], state: State) -> dict[str, Any]:
    """Stage two: the windows of the merchant, the model, the rules, the decision."""
    entry = [tx["at"], tx["amount"], tx["user_id"]]
    history = tutorial.recent([*state.get("history", []), entry], tx["at"], 7 * DAY)
    state.set("history", history)
    features = tx["features"] | tutorial.merchant_features(history, tx["amount"], tx["at"])
    return tutorial.judge(tx, features)


def main() -> None:
    """Run until SIGTERM."""
    if tutorial.model_choice() != "none":
        tutorial.isolation_forest()
    prefix = os.environ.get("DAFU_TOPIC_PREFIX", "")
    app = Application(
        broker_address=os.environ.get("DAFU_BROKER", "127.0.0.1:9092"),
        consumer_group=f"{prefix}baseline",
        auto_offset_reset="earliest",
        state_dir=os.environ.get("DAFU_DATA_DIR", ".dafu-data"),
    )
    transactions = app.topic(f"{prefix}transactions", key_deserializer="str")
    decisions = app.topic(f"{prefix}decisions", key_serializer="str")
    stream = app.dataframe(transactions)
    stream = stream.apply(score_user, stateful=True)
    stream = stream.group_by("merchant_id", key_serializer="str", key_deserializer="str")
    stream = stream.apply(score_merchant, stateful=True)
    # Records would carry the time of the transaction; the rate is taken from when they are sent.
    stream = stream.set_timestamp(lambda *_: time.time_ns() // 1_000_000)
    stream.to_topic(decisions, key=lambda decision: decision["user_id"])
    app.run()


if __name__ == "__main__":
    main()
