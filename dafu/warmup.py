"""Compile every kernel before the worker joins its group: `python -m dafu.warmup`.

A kernel is compiled at its first call and cached on disk. Decisions must not wait for that, so a
few transactions run through the real stages first.
"""

from __future__ import annotations

import orjson

from dafu.columns import ByteColumn
from dafu.loading import load_stages
from dafu.models.model import Model
from dafu.models.recurrent import RecurrentModel
from dafu.partitioner import partitions_for
from dafu.rules import compile_rules
from dafu.schema import Label, encode_label
from dafu.settings import load_settings
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.stages.pipeline import Pipeline
from dafu.stages.users import UserStage
from dafu.streaming.wire import decode, encode


def warm_up(model: Model | None = None, sequence: RecurrentModel | None = None) -> None:
    """Run a few made-up transactions and a label through both stages on a state of their own."""
    rules = compile_rules([], {}, {}, {})
    # The first decision is a review, so that it is explained.
    pipeline = Pipeline(UserStage(0, sequence), MerchantStage(rules, model, Thresholds(fraud=0.0)))
    places = {"lat": 48.1, "long": 11.6, "merchant_lat": 52.5, "merchant_long": 13.4}
    values = [
        orjson.dumps(
            {
                "transaction_id": str(i),
                "user_id": "warm-up",
                "merchant_id": "warm-up",
                "amount": 1.0 + i,
                "timestamp": 1_700_000_000_000 + i,
                **places,
            }
        )
        for i in range(3)
    ]
    label = Label("0", "warm-up", True, "analyst", 1_700_000_000_000)
    values.insert(1, encode_label(label))
    pipeline.run([b"warm-up"] * len(values), values)
    column = ByteColumn.of([b"a", b"b"])
    partitions_for(column, 2)
    for batch in encode(column, column, 0, max_bytes=1000):
        decode(bytes(batch.data))


if __name__ == "__main__":
    users, merchants = load_stages(load_settings())
    warm_up(merchants.model, users.sequence)
