"""Memberships in rings as they come on their topic, and as they stand among the transactions."""

from __future__ import annotations

from typing import Final

import msgspec

from dafu.rings.records import MEMBERSHIP_RECORD, Membership, MembershipRecord, encode
from dafu.schema import InvalidRecordError, parse_document, timestamp_ms

_MOST: Final = 2**31
"""Users, of whatever kind, that a membership may speak of."""

_decode = msgspec.json.Decoder(Membership).decode
_decode_record = msgspec.json.Decoder(MembershipRecord).decode


def parse_membership(raw: bytes | None) -> Membership:
    """Decode and check a membership, as it comes on its topic.

    Raises
    ------
    InvalidRecordError
        With a reason code, as `dafu.schema.parse_transaction` does.
    """
    return _checked(parse_document(raw, _decode, "a membership"))


def parse_membership_record(raw: bytes) -> Membership:
    """Decode and check a membership that stands among the transactions; raises likewise."""
    return _checked(parse_document(raw, _decode_record, "a membership record").ring)


def encode_membership(membership: Membership) -> bytes:
    """A membership as it stands among the transactions."""
    return MEMBERSHIP_RECORD + encode(membership) + b"}"


def _checked(membership: Membership) -> Membership:
    timestamp_ms(membership.time, "time")
    for name in ("size", "blocked", "frauds", "sharers"):
        if not 0 <= getattr(membership, name) < _MOST:
            raise InvalidRecordError(
                "invalid_field", f"{name} is {getattr(membership, name)}, not 0 to {_MOST - 1}"
            )
    return membership
