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
from dafu.rings.engine import SWEEP_EVERY
from dafu.rings.membership import encode_membership
from dafu.rings.records import Membership
from dafu.rules import compile_rules
from dafu.schema import Label, encode_label
from dafu.settings import load_settings
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.stages.ring_pipeline import RingPipeline
from dafu.stages.users import UserStage
from dafu.streaming.wire import decode, encode


def warm_up(model: Model | None = None, sequence: RecurrentModel | None = None) -> None:
    """Run a few made-up transactions, a label and a membership through all stages, on a state of
    their own."""
    rules = compile_rules([], {}, {}, {})
    # The first decision is a review, so that it is explained.
    stages = UserStage(0, sequence), MerchantStage(rules, model, Thresholds(fraud=0.0))
    pipeline = RingPipeline(*stages)
    places = {"lat": 48.1, "long": 11.6, "merchant_lat": 52.5, "merchant_long": 13.4}
    values = [
        orjson.dumps(
            {
                "transaction_id": str(i),
                "user_id": "warm-up",
                "merchant_id": "warm-up",
                "amount": 1.0 + i,
                "timestamp": 1_700_000_000_000 + i,
                "device_fingerprint": "warm-up",
                **places,
            }
        )
        for i in range(3)
    ]
    label = Label("0", "warm-up", True, "analyst", 1_700_000_000_000)
    values.insert(1, encode_label(label))
    membership = Membership("warm-up", "warm-up", 1_700_000_000_000, 2, 0.5)
    values.insert(2, encode_membership(membership))
    pipeline.run_chunk([b"warm-up"] * len(values), values)
    for first in (0, SWEEP_EVERY):
        users = [f"warm-up-{i}" for i in range(first, first + SWEEP_EVERY)]
        values = [
            orjson.dumps(
                {
                    "transaction_id": user,
                    "user_id": user,
                    "merchant_id": "warm-up",
                    "amount": 1.0,
                    "timestamp": 1_700_000_000_000 + 10_000_000_000 * first,
                    "device_fingerprint": f"shared-{first}",
                    "ip_address": "10.0.0.1",
                }
            )
            for user in users
        ]
        pipeline.run_chunk([user.encode() for user in users], values)
    column = ByteColumn.of([b"a", b"b"])
    partitions_for(column, 2)
    for batch in encode(column, column, 0, max_bytes=1000):
        decode(bytes(batch.data))


if __name__ == "__main__":
    users, merchants = load_stages(load_settings())
    warm_up(merchants.model, users.sequence)
