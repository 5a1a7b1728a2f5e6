"""Rule files of both shapes, and everything that can be wrong with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.rules import RuleSet, RuleSetError, load_rules, parse_rules
from tests.rules.vocabulary import ALIASES, NAMES

GOOD = """
version: 1
lists:
  risky: [a, b]
rules:
  - id: first
    condition: amount > 10 and category in risky
    risk_score: 1
    action: block
    priority: 5
    tags: [x, y]
  - id: second
    condition: >-
      new_device
      and amount > 5
    risk_score: 0.5
    action: review
    mode: shadow
"""


def parse(text: str, *, is_json: bool = False) -> RuleSet:
    return parse_rules(text, NAMES, ALIASES, source="rules.yaml", is_json=is_json)


def errors(text: str, *, is_json: bool = False) -> list[str]:
    with pytest.raises(RuleSetError) as caught:
        parse(text, is_json=is_json)
    said = [str(e) for e in caught.value.errors]
    assert said
    assert all(s.startswith("rules.yaml") for s in said)
    return said


def test_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    document = {
        "version": 1,
        "lists": {"risky": ["b", "a"]},
        "rules": [
            {"id": "first", "condition": "amount>10 and category in risky", "risk_score": 1.0,
             "action": "decline", "priority": 5, "tags": ["x", "y"]},
            {"id": "second", "condition": "new_device and amount > 5", "risk_score": 0.5,
             "action": "flag_for_review", "mode": "shadow"},
        ],
    }  # fmt: skip
    (tmp_path / "rules.yaml").write_text(GOOD)
    (tmp_path / "rules.json").write_text(json.dumps(document))
    one, two = (load_rules(tmp_path / f"rules.{e}", NAMES, ALIASES) for e in ("yaml", "json"))
    assert one.version == two.version
    assert [r.id for r in one.rules] == ["first", "second"]
    assert one.rules[0].tags == ("x", "y")
    assert one.names == {"amount", "category", "new_device"}


def test_a_mapping_from_id_to_rule_is_read() -> None:
    text = """{
      "amount_threshold": {"condition": "amount > 10000", "risk_score": 0.8,
                           "action": "flag_for_review"},
      "velocity": {"condition": "transactions_per_hour > 10", "risk_score": 0.9,
                   "action": "block"},
      "location": {"condition": "distance_from_home > 1000km", "risk_score": 0.6,
                   "action": "location_verification"}}"""
    for is_json in (True, False):
        rules = parse(text, is_json=is_json)
        assert [r.id for r in rules.rules] == ["amount_threshold", "velocity", "location"]
        assert rules.names == {"amount", "user_count_1h", "km_from_home"}


def test_every_error_of_a_file_is_reported_with_its_rule() -> None:
    said = errors(
        """
version: 1
rule: []
lists: {countries: [DE, NO]}
rules:
  - {id: a, condition: amount > 1, risk_score: 0.5, action: blok}
  - {id: b, condition: amont > 1, risk_score: 0.5, action: block}
  - {id: c, condition: amount > 1, risk_score: high, action: block}
  - {id: d, condition: amount > 1, risk: 0.5, action: block}
  - {condition: amount > 1, risk_score: 0.5, action: block}
  - {id: e, condition: amount > 1, risk_score: 1.5, action: block}
  - {id: f, condition: 5, risk_score: 0.5, action: block}
  - {id: g, condition: amount > 1, risk_score: 0.5, action: block, mode: off}
  - {id: h, condition: amount > 1, risk_score: 0.5, action: block}
  - {id: h, condition: amount > 1, risk_score: 0.5, action: block}
  - 7
"""
    )
    expected = [
        ("", "unknown key 'rule'"),
        ("", "NO and YES"),
        ("'a'", "actions are"),
        ("'b'", "did you mean amount"),
        ("'c'", "Expected `float`, got `str`"),
        ("'d'", "unknown key 'risk'"),
        ("'number 5'", "missing required field `id`"),
        ("'e'", "<= 1.0"),
        ("'f'", "quote the condition"),
        ("'g'", "off in quotes"),
        ("'h'", "two rules with this id"),
        ("'number 11'", "Expected `object`"),
    ]
    for rule, part in expected:
        assert any(rule in s and part in s for s in said), (rule, part)
    assert len(said) == len(expected)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "this is nothing"),
        ("[]", "this is a list"),
        ("{}", "no rules"),
        ("version: 2\nrules: []", "version: 1"),
        ("version: true\nrules: []", "version: 1"),
        ("rules: []", "version: 1"),
        ("version: 1\nrules: {}\nlists: []", "not a mapping"),
        ("version: 1\nrules: {a: 1}", "not a list"),
        ("version: 1\nlists: {x: 5}", "not a list"),
        ("version: 1\nlists: {x: [[1]]}", "texts or numbers"),
        ("version: 1\nlists: {x: [.nan]}", "not finite"),
        ("version: 1\nlists: {'a b': [1]}", "no usable name"),
        ("version: 1\nlists: {1: [1]}", "no usable name"),
        ("a: 5", "'a' is int, not a rule"),
        ("version: 1\nversion: 1", "line 2: 'version' is given twice"),
        ("version: 1\nrules:\n- {id: a, id: b}", "'id' is given twice"),
        ("version: [", "not YAML"),
        ("? [a]\n: 1", "not YAML"),
        ("!!python/object/apply:os.getcwd []", "not YAML"),
        ("version: 1\nrules: [{id: '', condition: 'true', risk_score: 1, action: block}]", "an id"),
    ],
)
def test_broken_yaml(text: str, says: str) -> None:
    assert says in "\n".join(errors(text))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ('{"version": 1, "version": 1}', "given twice"),
        ('{"version": NaN}', "no JSON number"),
        ("[" * 200_000, "nested too deeply"),
    ],
)
def test_broken_json(text: str, says: str) -> None:
    assert says in "\n".join(errors(text, is_json=True))


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(RuleSetError, match=r"(?s)absent\.yaml.*can not read"):
        load_rules(tmp_path / "absent.yaml", NAMES, ALIASES)
    (tmp_path / "latin.yaml").write_bytes(b"version: 1 # \xe9")
    with pytest.raises(RuleSetError, match="not UTF-8"):
        load_rules(tmp_path / "latin.yaml", NAMES, ALIASES)


_keys = st.sampled_from(["version", "lists", "rules", "id", "condition", "risk_score", "mode", "x"])
_plain = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just(1), _keys
)
_documents = st.recursive(
    _plain,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_keys, inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(_documents.map(json.dumps), st.text(max_size=40)), st.booleans())
def test_no_document_raises_anything_else(text: str, is_json: bool) -> None:
    try:
        assert parse(text, is_json=is_json).version
    except RuleSetError as exc:
        assert exc.errors
