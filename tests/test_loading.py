"""What reads payments in other words, as the settings want it."""

from __future__ import annotations

import builtins
import json
import sys
from typing import Any

import pytest

from dafu.ingest import MappingError
from dafu.loading import SourceFormatError, source_payments
from dafu.settings import SchemaRegistry, Settings
from dafu.settings.model import Source
from tests.schema_registry import framed

PAYMENT = {"transaction_id": "t", "user_id": "u", "merchant_id": "m", "amount": 1}
TEXT = json.dumps({**PAYMENT, "timestamp": 1_700_000_000_000}).encode()


def test_there_is_nothing_to_read_without_a_topic() -> None:
    assert source_payments(Settings()) is None
    with pytest.raises(MappingError, match="nobodys"):
        source_payments(Settings(source=Source(topic="core", mapping="nobodys")))


@pytest.mark.parametrize(("form", "raw"), [("json", TEXT), ("json-schema", framed(9, TEXT))])
def test_json_needs_no_schemas(form: Any, raw: bytes) -> None:
    payments = source_payments(Settings(source=Source(topic="core", format=form)))
    assert payments is not None
    assert payments.schemas is None
    user, value = payments.translator.translate(raw)
    assert user == "u"
    assert json.loads(value) == json.loads(TEXT)


def test_avro_needs_what_only_an_extra_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = SchemaRegistry(urls=("http://127.0.0.1:1",))
    settings = Settings(source=Source(topic="core", format="avro"), schema_registry=registry)
    assert source_payments(settings) is not None
    real = builtins.__import__

    def lacking(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("fastavro"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "dafu.ingest.avro")
    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(SourceFormatError, match=r"pip install 'dafu\[avro\]'"):
        source_payments(settings)
