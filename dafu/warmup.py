"""Compile every kernel before the worker joins its group: `python -m dafu.warmup`.

A kernel is compiled at its first call and cached on disk. Decisions must not wait for that, so a
few transactions run through the real stages first.
"""

from __future__ import annotations

import orjson

from dafu.columns import ByteColumn
from dafu.models.model import Model
from dafu.models.package import load_model
from dafu.partitioner import partitions_for
from dafu.rules import compile_rules
from dafu.settings import load_settings
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.stages.pipeline import Pipeline
from dafu.stages.users import UserStage
from dafu.streaming.wire import decode, encode


def warm_up(model: Model | None = None) -> None:
    """Run a few made-up transactions through both stages on a state of their own."""
    rules = compile_rules([], {}, {}, {})
    pipeline = Pipeline(UserStage(0), MerchantStage(rules, model, Thresholds()))
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
    pipeline.run([b"warm-up"] * len(values), values)
    column = ByteColumn.of([b"a", b"b"])
    partitions_for(column, 2)
    for batch in encode(column, column, 0, max_bytes=1000):
        decode(bytes(batch.data))


if __name__ == "__main__":
    path = load_settings().model_path
    warm_up(None if path is None else load_model(path, None))
