"""What travels on the topics: transactions in, decisions out, and the checks at the door.

This module knows JSON and types. It knows no topic, no clock and no feature.
Time is epoch milliseconds in UTC throughout; a timestamp without an offset is read as UTC.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct

from dafu.errors import DafuError

Id = Annotated[str, Meta(min_length=1, max_length=256)]
ShortText = Annotated[str, Meta(max_length=256)]
LongText = Annotated[str, Meta(max_length=1024)]
Moment = Annotated[
    datetime,
    Meta(
        extra_json_schema={
            "format": "date-time",
            # `format` binds nobody: validators may take it for a remark.
            "pattern": r"^20\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[Tt ]"
            r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?$",
        }
    ),
]
"""A time in text, RFC 3339, within the times that transactions may have."""
Latitude = Annotated[float, Meta(ge=-90.0, le=90.0)]
Longitude = Annotated[float, Meta(ge=-180.0, le=180.0)]
Unit = Annotated[float, Meta(ge=0.0, le=1.0)]

DecisionName = Literal["approve", "review", "block"]
RiskLevel = Literal["low", "medium", "high", "critical"]

MAX_RECORD_BYTES: Final = 65_536
MAX_DEPTH: Final = 64
"""Arrays and objects that a record may nest, so that what one stage reads the next can read too."""
MAX_AMOUNT: Final = 1e12
MIN_TIMESTAMP_MS: Final = 946_684_800_000  # 2000-01-01T00:00:00Z
MAX_TIMESTAMP_MS: Final = 4_102_444_800_000  # 2100-01-01T00:00:00Z
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_EPOCH_NAIVE: Final = datetime(1970, 1, 1)
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET: Final = re.compile(rb"[\[\]{}]")


class Transaction(Struct, frozen=True, gc=False, omit_defaults=True):
    """A payment as its producer publishes it, keyed by `user_id`.

    `amount` is in units of `currency`; `timestamp` is the time of the payment, as ISO 8601 text
    or epoch milliseconds; coordinates are WGS 84 degrees. `lat` and `long` say where the
    cardholder was (or lives, where that is all the producer knows), `merchant_lat` and
    `merchant_long` where the merchant is. Fields that are not listed here are kept as attributes,
    which rules read as `attributes.<name>`.
    """

    transaction_id: Id
    user_id: Id
    merchant_id: Id
    amount: Annotated[float, Meta(ge=0.0, le=MAX_AMOUNT)]
    timestamp: datetime | int | float
    currency: Annotated[str, Meta(max_length=16)] | None = None
    category: ShortText | None = None
    channel: ShortText | None = None
    country: Annotated[str, Meta(max_length=64)] | None = None
    device_fingerprint: LongText | None = None
    ip_address: Annotated[str, Meta(max_length=64)] | None = None
    card_id: ShortText | None = None
    email: ShortText | None = None
    user_agent: LongText | None = None
    lat: Latitude | None = None
    long: Longitude | None = None
    merchant_lat: Latitude | None = None
    merchant_long: Longitude | None = None


LabelSource = Literal["chargeback", "analyst", "rule"]


class Label(Struct, frozen=True, gc=False, omit_defaults=True):
    """What became known of a transaction, keyed by `user_id`: whether it was fraudulent.

    `observed_at` is when that was known, as ISO 8601 text or epoch milliseconds; of two labels of
    one transaction the later observed one holds. `merchant_id`, `timestamp` and `amount` are those
    of the transaction. They are needed only for one that may be forgotten by now: what is
    remembered of the user's transactions goes before them.
    """

    transaction_id: Id
    user_id: Id
    is_fraud: bool
    source: LabelSource
    observed_at: datetime | int | float
    merchant_id: Id | None = None
    timestamp: datetime | int | float | None = None
    amount: Annotated[float, Meta(ge=0.0, le=MAX_AMOUNT)] | None = None


class LabelRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """A label among the transactions, where its place decides which of them know of it."""

    label: Label


class FiredRule(Struct, frozen=True, gc=False):
    """A rule whose condition held: what it asked for and whether it had a say in the decision."""

    id: str
    action: str
    risk_score: Unit
    mode: Literal["live", "shadow"]


class Reason(Struct, frozen=True, gc=False):
    """Why the risk is what it is: the source and the values.

    The source is `rule:<id>`, `model:<name>`, `list:<name>` (deny, watch or allow), or `ring:<id>`:
    the fraud ring that the user is in.
    """

    source: str
    text: str


class Explanations(Struct, frozen=True, gc=False):
    """Risk by group of features: the larger of what the model and the live rules see in it."""

    amount_risk: Unit
    user_behavior_risk: Unit
    merchant_risk: Unit
    sequence_risk: Unit
    network_risk: Unit = 0.0


class CandidateScore(Struct, frozen=True, gc=False):
    """What a model says that looks on and decides nothing."""

    role: Literal["challenger", "shadow"]
    model: str
    version: str
    risk_score: Unit


class Versions(Struct, frozen=True, gc=False):
    """What decided: content hashes of rules, model, feature catalogue and thresholds.

    `sequence` is the 64-bit hash, in hexadecimal, of the version of the sequence model whose view
    is among the features; null for none.
    """

    rules: str
    model: str | None
    sequence: str | None
    features: str
    thresholds: str


class Decision(Struct, frozen=True, gc=False):
    """The answer to one transaction, keyed by `user_id`.

    A pure function of the log: it holds nothing that depends on the wall clock, on batching or on
    the worker (those travel in the record's headers). `risk_score` is 0..1; `confidence` 0.5..1 is
    how far the score is from even odds; `scores` holds one score per model and `rules`;
    `explanations` holds the risk 0..1 by group; `degraded` says that no model took part.
    `candidates` are models that score the same transactions without a say.
    """

    transaction_id: str
    user_id: str
    merchant_id: str
    timestamp: str
    decision: DecisionName
    risk_score: Unit
    risk_level: RiskLevel
    is_fraud: bool
    confidence: Annotated[float, Meta(ge=0.5, le=1.0)]
    model_used: str
    scores: dict[str, float]
    explanations: Explanations
    reasons: list[Reason]
    rules_fired: list[FiredRule]
    versions: Versions
    degraded: bool
    candidates: list[CandidateScore] = []


class InvalidRecordError(DafuError):
    """A record that can not be read. `reason` is a stable code, the text says what is wrong."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


TRANSACTION_FIELDS: Final = tuple(f.name for f in msgspec.structs.fields(Transaction))

LABEL_RECORD: Final = b'{"label":'
"""What the JSON of a `LabelRecord` begins with, as `encode_label` writes it."""

_T = TypeVar("_T")

_decode_transaction = msgspec.json.Decoder(Transaction).decode
_decode_label = msgspec.json.Decoder(Label).decode
_decode_label_record = msgspec.json.Decoder(LabelRecord).decode
_decode_any = msgspec.json.Decoder().decode


def timestamp_ms(value: datetime | int | float, name: str = "timestamp") -> int:
    """Epoch milliseconds of a decoded timestamp.

    Raises
    ------
    InvalidRecordError
        With reason `absurd_timestamp` when the time is not within 2000..2100.
    """
    if isinstance(value, datetime):
        ms = (value - (_EPOCH if value.tzinfo is not None else _EPOCH_NAIVE)) // _MILLISECOND
    else:
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidRecordError("absurd_timestamp", f"{name} is not finite")
        ms = math.floor(value)
    if not MIN_TIMESTAMP_MS <= ms < MAX_TIMESTAMP_MS:
        hint = ""
        if MIN_TIMESTAMP_MS <= ms * 1000 < MAX_TIMESTAMP_MS:
            hint = "; it looks like epoch seconds: send milliseconds"
        raise InvalidRecordError(
            "absurd_timestamp",
            f"{name} {value} is outside 2000-01-01..2100-01-01{hint}",
        )
    return ms


def iso(ms: int) -> str:
    """Epoch milliseconds as decisions have them.

    Examples
    --------
    >>> iso(1_736_322_009_384)
    '2025-01-08T07:40:09.384Z'
    """
    text = (_EPOCH + timedelta(milliseconds=int(ms))).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def too_deep(raw: bytes) -> bool:
    """Whether JSON text nests arrays and objects more than MAX_DEPTH deep."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return False
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", raw)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


def parse_transaction(raw: bytes | None) -> tuple[Transaction, int]:
    """Decode and check one transaction.

    Returns
    -------
    transaction, timestamp
        The decoded transaction and its time in epoch milliseconds.

    Raises
    ------
    InvalidRecordError
        With a reason code: `empty`, `oversized`, `too_deep`, `not_json`, `not_an_object`,
        `missing_field`, `invalid_field`, `absurd_timestamp`.
    """
    transaction = parse_document(raw, _decode_transaction, "a transaction")
    return transaction, timestamp_ms(transaction.timestamp)


class LabelTimes(NamedTuple):
    """Of a label, in epoch milliseconds: when it was observed, when the transaction was."""

    observed: int
    transaction: int | None


def parse_label(raw: bytes | None) -> tuple[Label, LabelTimes]:
    """Decode and check one label, as it comes on the labels topic.

    Raises
    ------
    InvalidRecordError
        As `parse_transaction` does.
    """
    label = parse_document(raw, _decode_label, "a label")
    return label, _label_times(label)


def parse_label_record(raw: bytes) -> tuple[Label, LabelTimes]:
    """Decode and check a label that stands among the transactions.

    Raises
    ------
    InvalidRecordError
        As `parse_transaction` does.
    """
    label = parse_document(raw, _decode_label_record, "a label record").label
    return label, _label_times(label)


def _label_times(label: Label) -> LabelTimes:
    observed = timestamp_ms(label.observed_at, "observed_at")
    return LabelTimes(observed, None if label.timestamp is None else timestamp_ms(label.timestamp))


def parse_document(raw: bytes | None, decode: Callable[[bytes], _T], what: str) -> _T:
    """Decode a record that is a JSON object.

    Parameters
    ----------
    raw : bytes or None
    decode : callable
        Of a msgspec decoder.
    what : str
        Says in messages what it should be, with its article.

    Raises
    ------
    InvalidRecordError
        As `parse_transaction` does.
    """
    text = present(raw)
    if too_deep(text):
        raise InvalidRecordError(
            "too_deep", f"arrays and objects are nested more than {MAX_DEPTH} deep"
        )
    try:
        return decode(text)
    except msgspec.ValidationError as exc:
        raise _explain(text, exc, what) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRecordError("not_json", f"not JSON: {exc}") from None


def present(raw: bytes | None) -> bytes:
    """A record's value, if it has one of a size that is read.

    Raises
    ------
    InvalidRecordError
        `empty` or `oversized`.
    """
    if not raw:
        raise InvalidRecordError("empty", "the record has no value")
    if len(raw) > MAX_RECORD_BYTES:
        raise InvalidRecordError(
            "oversized", f"the record has {len(raw)} bytes; at most {MAX_RECORD_BYTES} are read"
        )
    return raw


def _explain(raw: bytes, exc: msgspec.ValidationError, what: str) -> InvalidRecordError:
    text = str(exc)
    try:
        document = _decode_any(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as not_json:
        return InvalidRecordError("not_json", f"not JSON: {not_json}")
    if not isinstance(document, dict):
        return InvalidRecordError(
            "not_an_object", f"{what} is a JSON object, this is {type(document).__name__}"
        )
    reason = "missing_field" if "missing required field" in text else "invalid_field"
    return InvalidRecordError(reason, text)


def encode_label(label: Label) -> bytes:
    """A label as it stands among the transactions."""
    return LABEL_RECORD + msgspec.json.encode(label) + b"}"


_decision_encoder = msgspec.json.Encoder(decimal_format="number")


def encode_decision(decision: Decision) -> bytes:
    """Serialise a decision; field order is fixed, so equal decisions have equal bytes."""
    return _decision_encoder.encode(decision)


decode_decision = msgspec.json.Decoder(Decision).decode


def json_schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema (2020-12) of every document on a topic, by name."""
    return {
        "transaction": msgspec.json.schema(Transaction),
        "label": msgspec.json.schema(Label),
        "decision": msgspec.json.schema(Decision),
    }
