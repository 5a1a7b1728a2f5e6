"""Stage two: repeats and crashes never change a decision; unreadable attributes stop nothing."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.features.catalogue import ALIASES, FEATURES, MERCHANT_FEATURES, USER_FEATURES
from dafu.features.state import MERCHANTS
from dafu.models.isolation import IsolationForestModel
from dafu.registry import Role
from dafu.rules import compile_rules, parse_rules
from dafu.schema import MAX_DEPTH, decode_decision
from dafu.stages.batch import (
    FORWARD,
    FORWARD_MAGIC,
    LABEL_MAGIC,
    MAX_SEQUENCE_MODELS,
    InputBatch,
    MerchantOutput,
    UserOutput,
    model_number,
)
from dafu.stages.decide import Thresholds
from dafu.stages.forwarded import LayoutMismatchError
from dafu.stages.merchants import MerchantStage
from dafu.stages.names import RULE_NAMES
from dafu.tables.records import MemoryRecords
from tests.oracle import MerchantOracle, Payment, assert_features
from tests.packages import forest
from tests.streams import (
    START,
    alone,
    batches,
    choices,
    copy,
    cuts,
    header,
    payments,
    states,
    user_stage,
)

STREAMS = st.lists(choices, min_size=1, max_size=40).map(payments)
SIZES = st.lists(st.integers(1, 20), max_size=8)
NAMES = [f.name for f in FEATURES]
Log = list[tuple[bytes, bytes]]


def merchant_stage() -> MerchantStage:
    return MerchantStage(compile_rules([], {}, {}, {}), None, Thresholds())


def pairs(output: UserOutput) -> Log:
    return list(zip(output.forward_keys.present(), output.forward_values.present(), strict=True))


def forwarded_batch(output: UserOutput) -> InputBatch:
    """What stage two reads when stage one's output is all there is."""
    keys, values = zip(*pairs(output), strict=True)
    return InputBatch.of(0, keys, values)


def log_with_repeats(stream: list[Payment], sizes: list[int], crashes: list[int]) -> Log:
    """What stage one leaves in one partition downstream; at each crash a number of the changes
    are written, and the batch is run again."""
    records, stage, log = MemoryRecords(), user_stage(), []
    for i, batch in enumerate(batches(stream, sizes)):
        if i < len(crashes):
            output = stage.run(batch, alone(records))
            log += pairs(output)
            records.write(output.only_changes[: crashes[i]])
        output = stage.run(batch, alone(records))
        log += pairs(output)
        records.write(output.only_changes)
    return log


def inputs(log: Log, sizes: list[int], first: int = 0) -> list[InputBatch]:
    out = []
    for a, b in cuts(len(log), sizes):
        keys, values = zip(*log[a:b], strict=True)
        out.append(InputBatch.of(0, keys, values, first + a, [START] * (b - a)))
    return out


def decisions(outputs: list[MerchantOutput]) -> dict[tuple[str, str], list[bytes]]:
    found: dict[tuple[str, str], list[bytes]] = defaultdict(list)
    for output in outputs:
        for key, value in zip(output.keys, output.decisions.present(), strict=True):
            decision = decode_decision(value)
            assert key == decision.user_id.encode()
            found[decision.user_id, decision.transaction_id].append(value)
    return found


@settings(max_examples=50, deadline=None)
@given(
    stream=STREAMS,
    sizes=SIZES,
    crashes=st.lists(st.integers(0, 20), max_size=4),
    other=SIZES,
    crash=st.integers(0, 100),
    kept=st.integers(0, 1000),
)
def test_one_decision_each_whatever_repeats_cuts_and_crashes(
    stream: list[Payment],
    sizes: list[int],
    crashes: list[int],
    other: list[int],
    crash: int,
    kept: int,
) -> None:
    log = log_with_repeats(stream, sizes, crashes)
    stage, records = merchant_stage(), MemoryRecords()
    work = inputs(log, other)
    outputs = []
    crash %= len(work)
    for i, batch in enumerate(work):
        output = stage.run(batch, alone(records))
        if i == crash:
            crashed = copy(records, output.only_changes[: kept % (len(output.only_changes) + 1)])
        records.write(output.only_changes)
        outputs.append(output)
    whole = decisions(outputs)
    sources = Counter(int(header(value)["offset"]) for _, value in log)
    assert sum(map(len, whole.values())) == len(sources), "one decision a transaction"
    assert sum(o.repeats for o in outputs) == len(log) - len(sources)

    start = int(work[crash].offsets[0])
    published = decisions(outputs[: crash + 1])
    for sizes_again in (other, sizes):
        again = copy(crashed)
        first = start if sizes_again is sizes else 0
        recut = inputs(log[first:], sizes_again, first)
        late = []
        for batch in recut:
            late.append(stage.run(batch, alone(again)))
            again.write(late[-1].only_changes)
        repeated = decisions(late)
        for who, values in repeated.items():
            assert len(values) == 1
            assert values[0] in whole[who], "the same bytes"
        assert published.keys() | repeated.keys() == whole.keys(), "none lost"
        assert states(MERCHANTS, again.data) == states(MERCHANTS, records.data)
        assert again.data[b"S"] == records.data[b"S"]
        if sizes_again is other:
            assert again.data == records.data


@settings(max_examples=30, deadline=None)
@given(stream=STREAMS, sizes=SIZES)
def test_features_come_complete_and_in_order(stream: list[Payment], sizes: list[int]) -> None:
    log = log_with_repeats(stream, sizes, [])
    records, stage = MemoryRecords(), merchant_stage()
    outputs = []
    for batch in inputs(log, sizes):
        outputs.append(stage.run(batch, alone(records)))
        records.write(outputs[-1].only_changes)
    rows = np.vstack([o.features for o in outputs])
    assert rows.shape == (len(log), len(NAMES))
    oracles: dict[bytes, MerchantOracle] = defaultdict(MerchantOracle)
    times: dict[bytes, int] = {}
    names = [f.name for f in MERCHANT_FEATURES]
    for (key, value), row in zip(log, rows, strict=True):
        head = header(value)
        assert row[: len(USER_FEATURES)].tobytes() == head["features"].tobytes()
        tx = stream[int(head["offset"])]
        times[key] = max(times.get(key, tx.time), tx.time)
        expected = oracles[key].add(tx)
        if min(times.values()) > max(times.values()) - 30 * 86_400_000:
            assert_features(names, row[len(USER_FEATURES) :], expected, tx.transaction_id)


def test_what_was_decided_is_fenced_and_a_repeat_is_not() -> None:
    log = log_with_repeats(generated_stream(), [4], [0])
    records, stage = MemoryRecords(), merchant_stage()
    for batch in inputs(log, []):
        output = stage.run(batch, alone(records))
        assert (output.fenced, output.repeats, len(output.decisions)) == (0, 4, 6)
        records.write(output.only_changes)
        again = stage.run(batch, alone(records))
        assert (again.fenced, again.repeats, len(again.decisions)) == (10, 0, 0)
        assert again.only_changes == []


def generated_stream() -> list[Payment]:
    """Six payments of three users at two merchants."""
    things, places = (None,) * 3, (None,) * 2
    return payments([(i % 3, i % 2, 1.0, 0, 0, things, places, "new", 0) for i in range(6)])


ATTRIBUTE_RULE = """
version: 1
rules:
  - id: marked
    condition: attributes.mark == 'x'
    action: block
    risk_score: 0.95
"""
RECORD = {"transaction_id": "t", "user_id": "u", "merchant_id": "m", "amount": 1}


@pytest.mark.parametrize(
    ("extra", "fires"),
    [
        (b'"mark": "x"', True),
        (b'"mark": "y"', False),
        (b'"other": 1', False),
        (b'"mark": 1e999', False),
        (b'"mark": "\xff"', False),
        (b'"mark": ' + b"9" * 5000, False),
        (b'"mark": "x", "\xff": 1', True),
        (b'"mark": {"deep": ' + b"[" * (MAX_DEPTH - 2) + b"]" * (MAX_DEPTH - 2) + b"}", False),
    ],
)
def test_an_unreadable_attribute_is_a_missing_one(extra: bytes, fires: bool) -> None:
    rules = parse_rules(ATTRIBUTE_RULE, RULE_NAMES, ALIASES)
    stage = MerchantStage(rules, None, Thresholds())
    plain = json.dumps({**RECORD, "timestamp": START}).encode()
    values = [plain[:-1] + b", " + extra + b"}", plain.replace(b'"t"', b'"t2"')]
    first = user_stage().run(InputBatch.of(0, [b"u"] * 2, values), alone(MemoryRecords()))
    assert first.rejected == []
    batch = forwarded_batch(first)
    output = stage.run(batch, alone(MemoryRecords()))
    decided = [decode_decision(d) for d in output.decisions.present()]
    assert [d.decision for d in decided] == ["block" if fires else "approve", "approve"]


def test_an_attribute_named_like_a_field_is_that_field() -> None:
    text = ATTRIBUTE_RULE.replace("attributes.mark == 'x'", "attributes.country == country")
    stage = MerchantStage(parse_rules(text, RULE_NAMES, ALIASES), None, Thresholds())
    values = [json.dumps({**RECORD, "timestamp": START, "country": "DE"}).encode()]
    first = user_stage().run(InputBatch.of(0, [b"u"], values), alone(MemoryRecords()))
    batch = forwarded_batch(first)
    output = stage.run(batch, alone(MemoryRecords()))
    assert decode_decision(output.decisions.present()[0]).decision == "block"


def test_foreign_records_are_refused_and_other_layouts_stop() -> None:
    log = log_with_repeats(
        payments([(0, 0, 1.0, 0, 0, (None,) * 3, (None,) * 2, "new", 0)]), [], []
    )
    key, value = log[0]
    batch = InputBatch.of(0, [b"m", None, key], [b"{}", value, value])
    output = merchant_stage().run(batch, alone(MemoryRecords()))
    assert [(r.index, r.reason) for r in output.rejected] == [
        (0, "not_forwarded"),
        (1, "not_forwarded"),
    ]
    assert len(output.decisions) == 1
    head = np.frombuffer(value, FORWARD, 1).copy()
    head["layout"] ^= 1
    other = head.tobytes() + value[FORWARD.itemsize :]
    with pytest.raises(LayoutMismatchError, match="offset 7"):
        merchant_stage().run(InputBatch.of(0, [key], [other], 7), alone(MemoryRecords()))


@pytest.mark.parametrize("magic", [FORWARD_MAGIC, LABEL_MAGIC])
@pytest.mark.parametrize("size", [4, 40, 4000])
def test_records_of_another_format_stop_the_worker(magic: int, size: int) -> None:
    other = (magic + (1 << 16)).to_bytes(4, "little").ljust(size, b"x")
    batch = InputBatch.of(0, [b"m", b"m"], [b"{}", other], 6)
    with pytest.raises(LayoutMismatchError, match="offset 7 was forwarded in format 5"):
        merchant_stage().run(batch, alone(MemoryRecords()))


class Forests(NamedTuple):
    plain: list[IsolationForestModel]
    sequential: IsolationForestModel


SEQUENCE = "a sequence model's version"


@pytest.fixture(scope="module")
def forests(tmp_path_factory: pytest.TempPathFactory) -> Forests:
    root = tmp_path_factory.mktemp("forests")
    plain = [forest(root / f"p{i}", seed=i, name=f"m{i}") for i in range(4)]
    return Forests(plain, forest(root / "s", seed=9, sequence=SEQUENCE, name="sequential"))


LOOKING: list[Role] = ["challenger", "shadow"]


@settings(max_examples=25)
@given(
    stream=STREAMS,
    sizes=SIZES,
    champion=st.sampled_from([None, 0, 1]),
    looking=st.lists(st.tuples(st.sampled_from(LOOKING), st.integers(0, 3)), max_size=8),
)
def test_who_looks_on_changes_nothing_but_what_is_noted_of_him(
    forests: Forests,
    stream: list[Payment],
    sizes: list[int],
    champion: Literal[0, 1] | None,
    looking: list[tuple[Role, int]],
) -> None:
    log = log_with_repeats(stream, [], [])
    rules = compile_rules([], {}, {}, {})
    model = None if champion is None else forests.plain[champion]
    candidates = [(role, forests.plain[k]) for role, k in looking]
    stages = [MerchantStage(rules, model, Thresholds(), them) for them in ([], candidates)]
    kept = [MemoryRecords(), MemoryRecords()]
    for batch in inputs(log, sizes):
        alone_, watched = (
            stage.run(batch, alone(records)) for stage, records in zip(stages, kept, strict=True)
        )
        for output, records in zip((alone_, watched), kept, strict=True):
            records.write(output.only_changes)
        assert alone_.outcomes.tobytes() == watched.outcomes.tobytes()
        assert alone_.features.tobytes() == watched.features.tobytes()
        for bare, full in zip(alone_.decisions.present(), watched.decisions.present(), strict=True):
            document = msgspec.json.decode(full)
            noted = document.pop("candidates", [])
            without = msgspec.json.decode(bare)
            assert without.pop("candidates", []) == []
            assert document == without
            marks = [(c["role"], c["model"], c["version"]) for c in noted]
            assert marks == [(role, m.name, m.version) for role, m in candidates]
        scores = {
            k: forests.plain[k].score(
                watched.features, forests.plain[k].column_index({n: i for i, n in enumerate(NAMES)})
            )
            for _, k in looking
        }
        for row, full in enumerate(watched.decisions.present()):
            for (_, k), said in zip(looking, decode_decision(full).candidates, strict=True):
                assert said.risk_score == pytest.approx(scores[k].risk[row], abs=1e-6)
    assert kept[0].data == kept[1].data


@pytest.mark.parametrize(
    ("slots", "risks", "seen"),
    [
        ((SEQUENCE, None, None), (0.9, np.nan, np.nan), 0.9),
        (("another", None, None), (0.9, np.nan, np.nan), np.nan),
        (("another", "third", SEQUENCE), (0.9, 0.8, 0.1), 0.1),
        ((None, SEQUENCE, None), (np.nan, 0.3, np.nan), 0.3),
        ((None, None, None), (0.7, np.nan, np.nan), np.nan),
        ((SEQUENCE, "another", None), (np.nan, 0.5, np.nan), np.nan),
    ],
)
def test_a_model_sees_the_sequence_model_that_it_was_trained_with_or_none(
    forests: Forests, slots: tuple[Any, ...], risks: tuple[float, ...], seen: float
) -> None:
    assert len(slots) == MAX_SEQUENCE_MODELS
    log = []
    for key, value in log_with_repeats(generated_stream(), [], []):
        head = np.frombuffer(value, FORWARD, 1).copy()
        head["sequence_model"] = [0 if v is None else model_number(v) for v in slots]
        head["sequence_risk"] = risks
        head["features"][:, NAMES.index("sequence_risk")] = risks[0]
        log.append((key, head.tobytes() + value[FORWARD.itemsize :]))
    model = forests.sequential
    plain = forests.plain[0]
    rules = compile_rules([], {}, {}, {})
    stage = MerchantStage(rules, model, Thresholds(fraud=0.0), [("shadow", plain)])
    output = stage.run(inputs(log, [])[0], alone(MemoryRecords()))
    columns = {n: i for i, n in enumerate(NAMES)}
    x = output.features.copy()
    assert np.array_equal(x[:, columns["sequence_risk"]], np.full(len(x), risks[0]), equal_nan=True)
    x[:, columns["sequence_risk"]] = seen
    expected = model.score(x, model.column_index(columns)).risk
    decided = [decode_decision(d) for d in output.decisions.present()]
    assert [d.scores["sequential"] for d in decided] == pytest.approx(expected, abs=1e-6)
    # Every one is a review, and explained by what the model saw.
    why = model.explained_risk(model.explain(x, model.column_index(columns)))
    by_sequence = why[:, model.groups.index("sequence")]
    told_by = [d.explanations.sequence_risk for d in decided]
    assert told_by == pytest.approx(by_sequence, abs=1e-6)
    others = plain.score(x, plain.column_index(columns)).risk
    assert [d.candidates[0].risk_score for d in decided] == pytest.approx(others, abs=1e-6)
    first = slots[0]
    told = None if first is None else f"{model_number(first):016x}"
    assert {d.versions.sequence for d in decided} == {told}


def test_the_forest_of_these_tests_does_look_at_the_sequence_risk(forests: Forests) -> None:
    columns = {n: i for i, n in enumerate(NAMES)}
    x = np.ones((3, len(NAMES)))
    x[:, columns["sequence_risk"]] = [0.0, 1.0, np.nan]
    model = forests.sequential
    assert len(set(model.score(x, model.column_index(columns)).raw.tolist())) >= 2
