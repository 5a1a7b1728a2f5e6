"""`dafu features` and `dafu schema`, and the documents that they generate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dafu.features.catalogue import ALIASES, CATALOGUE_HASH, FEATURES
from dafu.schema import Decision, Transaction
from tests.cli.conftest import Run

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_list_of_features_in_the_docs_is_this_one(run: Run) -> None:
    ran = run("features", "--markdown")
    assert (ran.code, ran.err) == (0, "")
    hint = "write it anew: dafu features --markdown > docs/features.md"
    assert (DOCS / "features.md").read_text() == ran.out, hint


@pytest.mark.parametrize("name", ["transaction.schema.json", "decision.schema.json"])
def test_the_schemas_in_the_docs_are_these(run: Run, name: str) -> None:
    assert run("schema", "--out", "new").code == 0
    hint = "write them anew: dafu schema --out docs"
    assert (DOCS / name).read_text() == (Path("new") / name).read_text(), hint


def test_features_as_json_and_as_a_table(run: Run) -> None:
    document = json.loads(run("features", "--json").out)
    assert document["hash"] == CATALOGUE_HASH
    assert [f["name"] for f in document["features"]] == [f.name for f in FEATURES]
    assert document["aliases"] == ALIASES
    table = run("features").out
    assert all(f.name in table for f in FEATURES)
    assert run("features", "--json", "--markdown").code == 2


def test_schemas_name_every_field(run: Run) -> None:
    out = run("schema").out
    assert all(f'"{name}"' in out for name in Transaction.__struct_fields__)
    assert all(f'"{name}"' in out for name in Decision.__struct_fields__)
    Path("taken").write_text("")
    ran = run("schema", "--out", "taken")
    assert ran.code == 1
    assert "taken can not be written" in ran.err
