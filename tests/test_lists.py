"""Entries of lists: what tells them apart, when they hold, what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dafu.errors import RegistryError
from dafu.features.state import LATENESS
from dafu.lists import (
    MAX_AT_ONCE,
    MAX_ENTRIES,
    EntryKey,
    ListChange,
    ListEntry,
    ListEvent,
    check_entries,
)
from dafu.registry import decode_event, encode_event, encode_list_change, read_list_change

NOW = 1_767_225_600_000


def event(action: Any, *entries: ListEntry) -> ListEvent:
    return ListEvent(event_id="e", action=action, entries=entries, by="ann", why="ring", at=NOW)


def there(*entries: ListEntry) -> dict[EntryKey, ListEntry]:
    return {e.key: e for e in entries}


def test_spellings_that_mean_the_same_are_one_entry() -> None:
    assert ListEntry("deny", "email", "A@X.org").key == ListEntry("deny", "email", "a@x.ORG").key
    assert ListEntry("deny", "country", "de").key == ("deny", "country", "DE")
    assert ListEntry("deny", "device", "A").key != ListEntry("deny", "device", "a").key
    assert ListEntry("deny", "user", "a").key != ListEntry("watch", "user", "a").key


def test_an_entry_holds_before_its_end_and_is_kept_for_late_transactions() -> None:
    entry = ListEntry("deny", "user", "u", until=NOW)
    assert entry.holds_at(NOW - 1)
    assert not entry.holds_at(NOW)
    assert not entry.forgotten_at(NOW + LATENESS - 1)
    assert entry.forgotten_at(NOW + LATENESS)
    for_good = ListEntry("deny", "user", "u")
    assert for_good.holds_at(NOW)
    assert not for_good.forgotten_at(2**62)


def test_events_carry_who_and_why_and_logs_do_not() -> None:
    asked = event("add_entries", ListEntry("deny", "user", "u", until=NOW))
    assert decode_event(encode_event(asked)) == asked
    (signed,), (unsigned,) = asked.signed(), asked.unsigned()
    assert (signed.by, signed.why, signed.at) == ("ann", "ring", NOW)
    assert unsigned == asked.entries[0]
    change = ListChange(4, NOW, asked.unsigned(), removed=True)
    raw = encode_list_change(change)
    assert b"ann" not in raw
    assert b"ring" not in raw
    assert read_list_change(raw) == change


@pytest.mark.parametrize(
    "value",
    [None, b"", b"{}", b'{"lists":}', b'{"lists":{"number":1}}', b'{"models":{}}',
     b'{"lists":{"number":1,"now":2,"entries":[{"list":"grey","kind":"user","value":"u"}]}}',
     b'{"lists":{"number":1,"now":2,"entries":[{"list":"deny","kind":"user","value":""}]}}'],
)  # fmt: skip
def test_a_damaged_change_is_none(value: bytes | None) -> None:
    assert read_list_change(value) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("entries", []), ("entries", [{}]), ("action", "move_entries"),
     ("entries", [{"list": "deny", "kind": "user", "value": "u"}] * (MAX_AT_ONCE + 1)),
     ("entries", [{"list": "deny", "kind": "shoe", "value": "u"}]),
     ("entries", [{"list": "deny", "kind": "user", "value": "u", "until": 5}])],
)  # fmt: skip
def test_an_event_that_is_none_is_no_event(field: str, value: Any) -> None:
    asked = msgspec.to_builtins(event("add_entries", ListEntry("deny", "user", "u")))
    with pytest.raises(msgspec.ValidationError):
        decode_event(msgspec.json.encode({**asked, field: value}))


def test_what_is_not_there_is_not_removed_and_all_of_it_is_named() -> None:
    held = there(ListEntry("deny", "user", "u"))
    check_entries(held, event("remove_entries", ListEntry("deny", "user", "u")), NOW)
    absent = [ListEntry("watch", "ip", f"10.0.0.{k}") for k in range(22)]
    with pytest.raises(RegistryError) as refused:
        check_entries(held, event("remove_entries", *absent), NOW)
    assert "ip '10.0.0.0' is not on the watch list" in str(refused.value)
    assert str(refused.value).endswith("and 2 more")


def test_what_has_ended_is_not_put() -> None:
    over = ListEntry("deny", "user", "u", until=NOW)
    check_entries({}, event("add_entries", over), NOW - 1)
    with pytest.raises(RegistryError, match="user 'u' would have ended already"):
        check_entries({}, event("add_entries", over), NOW)


def test_lists_are_bounded_and_make_room_for_what_is_forgotten() -> None:
    full = there(*(ListEntry("deny", "user", f"u{k}", until=NOW) for k in range(MAX_ENTRIES)))
    one_more = event("add_entries", ListEntry("deny", "user", "new"))
    with pytest.raises(RegistryError, match="10,001 entries, and 10,000 may be"):
        check_entries(full, one_more, NOW)
    check_entries(full, event("add_entries", ListEntry("deny", "user", "u3")), NOW)
    check_entries(full, one_more, NOW + LATENESS)
