"""What is kept of keys, users and clients."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dafu.web.auth.records import (
    KEY_PREFIX,
    AuthRecordError,
    AuthRecords,
    ClientRecord,
    KeyRecord,
    UserRecord,
    add,
    digest,
    new_key,
    new_secret,
    permissions_of,
    remove,
)
from dafu.web.principals import ROLES, Permission


def test_keys_are_new_each_time_and_have_256_bits() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(key.startswith(KEY_PREFIX) and len(key) == len(KEY_PREFIX) + 43 for key in keys)
    assert "." not in "".join(keys)
    assert new_secret() not in keys


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_key_is_found_by_itself_alone(mine: str, other: str) -> None:
    records = add(AuthRecords(), KeyRecord("mine", digest(mine), "viewer"))
    found = records.key(other)
    assert (found is not None) == (other == mine)
    assert records.key(mine) is not None


def test_a_name_stands_for_one_alone() -> None:
    records = add(AuthRecords(), UserRecord("ann", "hash", "viewer"))
    for record in (
        UserRecord("ann", "hash", "viewer"),
        KeyRecord("ann", digest("k"), "viewer"),
        ClientRecord("ann", digest("s"), "viewer"),
    ):
        with pytest.raises(AuthRecordError, match="already a user named ann"):
            add(records, record)
    assert remove(records, UserRecord, "ann") == AuthRecords()
    with pytest.raises(AuthRecordError, match="no key named ann; there are: none"):
        remove(records, KeyRecord, "ann")


@given(st.sampled_from(list(ROLES)), st.frozensets(st.sampled_from(list(Permission))))
def test_permissions_are_never_more_than_the_roles(role: str, asked: frozenset[Permission]) -> None:
    assert permissions_of(role, asked) == asked & ROLES[role]  # type: ignore[arg-type, index]
    assert permissions_of(role) == ROLES[role]  # type: ignore[arg-type, index]
    assert permissions_of(role, ()) == frozenset()  # type: ignore[arg-type]


def test_records_survive_plain_data() -> None:
    end = datetime(2027, 1, 1, tzinfo=UTC)
    records = AuthRecords(
        keys=(KeyRecord("k", digest("k"), "admin", (Permission.READ,), end, True),),
        users=(UserRecord("u", "hash", "analyst"),),
        clients=(ClientRecord("c", digest("c"), "engineer"),),
    )
    assert msgspec.convert(msgspec.to_builtins(records), AuthRecords) == records


@pytest.mark.parametrize("name", ["", "a b", "a:b", "-a", "a\n", "x" * 65, "../a", "\u00fc"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": name, "sha256": digest("k"), "role": "viewer"}, KeyRecord)
