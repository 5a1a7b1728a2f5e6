"""Scores in published decisions against what the libraries that trained the models say themselves.

DAFU_TEST_AGREE sets the number of transactions.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dafu.features.catalogue import CATALOGUE_HASH, FEATURES, INDEX, USER_INDEX
from dafu.generator import generate_traffic, write
from dafu.history import History, read_history
from dafu.ingest import TransactionReader, load_mapping, to_records
from dafu.models.model import Model
from dafu.models.package import save_package
from dafu.models.recurrent import RecurrentModel, SequenceInput, prepare
from dafu.models.sequence_training import build_network, weights_of
from dafu.models.trainers.base import Description
from dafu.models.trainers.ensemble import weighted_ensemble
from dafu.models.trainers.isolation import IsolationForestTrainer
from dafu.models.trainers.random_forest import RandomForestTrainer
from dafu.models.trainers.xgboost import XGBoostTrainer
from dafu.schema import decode_decision
from dafu.stages.batch import FORWARD
from tests.integration.payments import by_transaction
from tests.integration.worker import BRISK, System

pytestmark = pytest.mark.broker

N = int(os.environ.get("DAFU_TEST_AGREE", "3000"))
NAMES = (
    "amount",
    "amount_to_user_mean_30d",
    "user_count_1d",
    "seconds_since_last",
    "new_device",
    "km_from_home",
    "merchant_count_1h",
    "amount_to_merchant_mean_30d",
    "sequence_risk",
)
INPUTS = (
    SequenceInput("amount", "log1p", 0.0, 3.0, 1.5),
    SequenceInput("seconds_since_last", "log1p", 0.0, 8.0, 3.0),
    SequenceInput("seconds_since_last", "missing"),
    SequenceInput("hour", "hour_sine"),
    SequenceInput("new_merchant", "identity", 0.0, 0.5, 0.5),
)
ROUNDED = 1e-6 + 0.5e-6
"""Within 1e-6 of the library, and six decimals in the decision."""


def keras_network() -> Any:
    """A GRU of Keras with weights that make its state matter."""
    network = build_network("gru", "fraud", len(INPUTS), 16, 8, seed=5)
    rng = np.random.default_rng(1)
    for layer in ("cell", "dense", "head"):
        of = network.get_layer(layer)
        of.set_weights([w + 0.2 * rng.normal(size=w.shape) for w in of.get_weights()])
    return network


def keras_scores(network: Any, history: History, model: RecurrentModel) -> NDArray[np.float64]:
    """Keras' probabilities over each user's whole sequence."""
    inputs = prepare(INPUTS, history.features, model.column_index(INDEX))
    order = np.argsort(history.users, kind="stable")
    users = history.users[order]
    begins = np.searchsorted(users, users)
    place = np.arange(len(users)) - begins
    # Zeros behind a sequence change nothing before them.
    sequences = np.zeros((users.max() + 1, place.max() + 1, len(INPUTS)), np.float32)
    sequences[users, place] = inputs[order]
    logits = network.predict(sequences, batch_size=256, verbose=0)[users, place, 0]
    out = np.empty(len(history))
    out[order] = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    return out


async def test_published_scores_are_those_of_the_libraries(bootstrap: str, tmp_path: Path) -> None:
    path = tmp_path / "transactions.parquet"
    write(generate_traffic(max(N // 40, 60), 50, 60, 31).batches, path)
    mapping = load_mapping("dafu")
    network = keras_network()
    recurrent = save_package(
        RecurrentModel(
            name="gru",
            cell="gru",
            objective="fraud",
            inputs=INPUTS,
            weights=weights_of(network),
            catalogue_hash=CATALOGUE_HASH,
        ),
        tmp_path / "gru",
    )
    history = read_history(TransactionReader(path, mapping, limit=N), sequence=recurrent)
    columns = [INDEX[name] for name in NAMES]
    x, y = history.features[:, columns], history.labels
    description = Description(
        NAMES,
        tuple(FEATURES[c].group for c in columns),
        catalogue_hash=CATALOGUE_HASH,
        requires={"gru": recurrent.version},
    )
    trees = XGBoostTrainer(seed=1, n_estimators=60, max_depth=5).fit(x, y)
    forest = RandomForestTrainer(seed=1, n_estimators=30).fit(x, y)
    isolation = IsolationForestTrainer(seed=1).fit(x)
    members: list[Model] = [t.export(description) for t in (trees, forest, isolation)]
    ensemble = save_package(
        weighted_ensemble(members, [2, 1, 1], history.features, INDEX, description),
        tmp_path / "ensemble",
    )
    records = [r for b in TransactionReader(path, mapping, limit=N) for r in to_records(b)]
    system = System(
        bootstrap,
        tmp_path,
        app=BRISK,
        MODEL_STORAGE_PATH=str(tmp_path / "ensemble"),
        DAFU_SEQUENCE_MODEL=str(tmp_path / "gru"),
    )
    await system.create(system.topics.transactions)
    await system.publish(records)
    with system.worker() as worker:
        await system.drained(worker, within=90.0 + N / 500)
    found = by_transaction(await system.decisions())
    ids = history.transaction_ids.to_pylist()
    decisions = [decode_decision(found[name]) for name in ids]
    assert len(found) == len(decisions) == N
    assert {d.versions.model for d in decisions} == {ensemble.version}
    scores = {m.name: np.array([d.scores[m.name] for d in decisions]) for m in members}
    by_library = {
        members[0].name: trees.score(x),
        members[1].name: forest.score(x),
        members[2].name: members[2].calibration.risk(isolation.score(x)),  # type: ignore[attr-defined]
    }
    for name, theirs in by_library.items():
        assert np.abs(scores[name] - theirs).max() <= ROUNDED, name
    headers = [
        np.frombuffer(record.value, FORWARD, 1)[0]
        for record in await system.read_flat(system.topics.transactions_by_merchant)
    ]
    stepped = np.array([h["features"][USER_INDEX["sequence_risk"]] for h in headers])
    by_keras = keras_scores(network, history, recurrent)
    assert np.abs(stepped - by_keras).max() <= 1e-5
    assert by_keras.std() > 0.01
    # Every decision says whose view of the sequence it rests on.
    assert {d.versions.sequence for d in decisions} == {
        f"{int(headers[0]['sequence_model'][0]):016x}"
    }
