"""Recurrent network per transaction: dafu's kernel against Keras, step by step and in one batch.

Knows the kernel and the library it is compared with; no worker and no broker.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np

from bench.forest import per_row_us
from bench.results import Cell, Section, Table, figure
from dafu.models.calibration import RankCalibration
from dafu.models.recurrent import Cell as CellName
from dafu.models.recurrent import RecurrentModel, SequenceInput, prepare
from dafu.models.sequence_training import build_network, weights_of

METHOD: Final = """\
32 units, a dense layer of 16, 12 inputs, one thread each. A row is one transaction: "fraud" steps
the state and gives a probability, "surprise" rates the transaction before that. The rows of a
batch are of as many users. "Keras, one step" calls the compiled network on one step of all users
with their states, "Keras, whole sequences" predicts 200 steps of each user at once, which a stream
cannot do: it does not know the next transaction. The runs take turns, so that a busy machine hits
all of them."""
BIASES: Final = [
    "Keras is made for training and large batches, the kernel does one thing.",
    "The kernel's time includes reading and standardising the features, Keras gets them ready.",
]
INPUTS: Final = 12
UNITS: Final = 32
DENSE: Final = 16
STEPS: Final = 200
RUNS: Final = 9
ROWS_PER_RUN: Final = 20_000


def one_step(network: Any) -> Callable[..., Any]:
    """The compiled function (inputs [B, 1, I], states) to (probabilities, new states)."""
    import tensorflow as tf

    cell, dense, head = (network.get_layer(name) for name in ("cell", "dense", "head"))

    def step(inputs: Any, *states: Any) -> Any:
        h, after = cell.cell(inputs[:, 0], list(states))
        return tf.sigmoid(head(dense(h))), after

    return tf.function(step, autograph=False)  # type: ignore[no-any-return]


def measure() -> Section:
    """Time one user and 500 users, for both cells."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rng = np.random.default_rng(0)
    inputs = tuple(SequenceInput(f"f{i}", "log1p" if i % 2 else "identity") for i in range(INPUTS))
    columns = np.arange(INPUTS, dtype=np.int32)
    cells: tuple[CellName, ...] = ("gru", "lstm")
    lines: list[list[Cell]] = []
    for cell in cells:
        network = build_network(cell, "fraud", INPUTS, UNITS, DENSE)
        habits = build_network(cell, "surprise", INPUTS, UNITS, DENSE)
        fraud = RecurrentModel(
            name="fraud", cell=cell, objective="fraud", inputs=inputs, weights=weights_of(network)
        )
        surprise = RecurrentModel(
            name="surprise",
            cell=cell,
            objective="surprise",
            inputs=inputs,
            weights=weights_of(habits),
            calibration=RankCalibration((0.0, 1.0), (0.0, 1.0)),
        )
        step = one_step(network)
        whole = tf.function(network, autograph=False)
        for users in (1, 500):
            x = rng.lognormal(0.0, 1.0, (users, INPUTS))
            entity = np.arange(users)
            state = np.zeros((users, fraud.state_size), np.float32)
            ready = tf.constant(prepare(inputs, x, columns)[:, None])
            states = [tf.zeros((users, UNITS))] * (fraud.state_size // UNITS)
            sequences = tf.repeat(ready, STEPS, axis=1)
            calls: dict[str, tuple[Callable[[], Any], int, int]] = {
                "step": (partial(step, ready, *states), users, users * 10),
                "whole": (partial(whole, sequences), users * STEPS, users * STEPS),
                "fraud": (partial(fraud.step, x, columns, entity, state), users, ROWS_PER_RUN),
                "surprise": (
                    partial(surprise.step, x, columns, entity, state),
                    users,
                    ROWS_PER_RUN,
                ),
            }
            took: dict[str, list[float]] = {name: [] for name in calls}
            for call, _, _ in calls.values():
                call()
            for _ in range(RUNS):
                for name, (call, rows, budget) in calls.items():
                    took[name].append(per_row_us(call, rows, budget))
            ratios = [a / b for a, b in zip(took["step"], took["fraud"], strict=True)]
            figures = [figure(t, 2) for t in took.values()]
            lines.append([cell.upper(), str(users), *figures, figure(ratios)])
    titles = [
        "cell",
        "rows",
        "Keras, one step",
        "Keras, whole sequences",
        "fraud",
        "surprise",
        "Keras' step to fraud",
    ]
    table = Table(f"Microseconds a row, {RUNS} runs", titles, lines)
    return Section("recurrent", "Recurrent network", METHOD, BIASES, [table])
