"""Small model packages that can be served, trained in a moment or drawn at random."""

from __future__ import annotations

import functools
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dafu.features.catalogue import CATALOGUE_HASH, FEATURES, INDEX
from dafu.features.selections import BEHAVIOR
from dafu.models.isolation import IsolationForestModel
from dafu.models.package import save_package
from dafu.models.recurrent import RecurrentModel, SequenceInput
from dafu.registry import ModelRef
from dafu.rules import compile_rules
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.stages.pipeline import Pipeline
from dafu.stages.users import UserStage
from tests.integration.payments import payments
from tests.models.forests import train_isolation_forest
from tests.models.test_recurrent import make_model

SEQUENCE_INPUTS = (
    SequenceInput("amount", "log1p", 20.0, 3.0, 1.2),
    SequenceInput("seconds_since_last", "missing", mean=0.1, scale=0.3),
    SequenceInput("seconds_since_last", "log1p", 3600.0, 8.0, 2.0),
)


@functools.cache
def _features() -> NDArray[np.float64]:
    """Features [800, F] of generated payments."""
    pipeline = Pipeline(
        UserStage(10**12), MerchantStage(compile_rules([], {}, {}, {}), None, Thresholds())
    )
    keys, values = zip(*itertools.islice(payments(1000, seed=77), 800), strict=True)
    return pipeline.run(keys, values)[1].features


def forest(
    directory: Path, seed: int, *, sequence: str | None = None, name: str = "forest"
) -> IsolationForestModel:
    """A packaged forest of few trees; it reads `sequence_risk` of the model of that version."""
    names = (*BEHAVIOR, *(["sequence_risk"] if sequence else []))
    columns = [INDEX[n] for n in names]
    x = _features()[:, columns].copy()
    if sequence:
        x[:, -1] = np.random.default_rng(seed).random(len(x)) ** 4
    model = train_isolation_forest(
        x,
        names,
        [FEATURES[c].group for c in columns],
        seed=seed,
        n_estimators=10,
        max_samples=64,
        catalogue_hash=CATALOGUE_HASH,
        name=name,
    )
    if sequence:
        model = replace(model, requires={"sequence": sequence})
    return save_package(model, directory)


def recurrent(directory: Path, seed: int) -> RecurrentModel:
    """A packaged sequence model with random weights."""
    model = make_model(units=4, dense=3, seed=seed, inputs=SEQUENCE_INPUTS)
    return save_package(replace(model, catalogue_hash=CATALOGUE_HASH), directory)


def ref(model: IsolationForestModel | RecurrentModel, directory: Path) -> ModelRef:
    """What a deployment of the package names."""
    return ModelRef(model.name, model.version, str(directory))


def flip_a_byte(directory: Path) -> Path:
    """Damage the last byte of a package's largest array; returns the file."""
    files = json.loads((directory / "manifest.json").read_bytes())["files"]
    file = Path(directory, max(files, key=lambda name: files[name]["bytes"]))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    return file
