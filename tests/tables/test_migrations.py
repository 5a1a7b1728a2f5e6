"""Records of older schema versions: read as if the present version had written them.

The old layouts are made up. `Old` says how a record was written in the version before, field by
field and without the module under test.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.features.state import (
    MERCHANTS,
    NEVER,
    RETAINED_MAX,
    SCHEMA_VERSION,
    USERS,
    EntityLayout,
    archive_dtype,
)
from dafu.tables import migrations as module
from dafu.tables.inspect import describe_user
from dafu.tables.migrations import (
    MIGRATIONS,
    Migrations,
    OldMarks,
    OldRecord,
    OldVersion,
    StateError,
    present_marks,
)
from dafu.tables.records import MemoryRecords
from dafu.tables.slotted import ARCHIVE
from dafu.tables.working_set import CHUNK, HEAD, SourceMarks, blank_head
from tests import streams
from tests.oracle import DAY_MS, Payment

# Version 0: nobody counted transactions, amounts were cents, users had neither IP nor country.


def without(dtype: np.dtype[np.void], *names: str) -> list[tuple[str, np.dtype[np.void]]]:
    return [(name, dtype[name]) for name in dtype.names or () if name not in names]


OLD_USER_HEAD = np.dtype(
    [("schema", "i8"), *reversed(without(USERS.head, "schema", "total_count"))]
)
OLD_USER_EVENT = np.dtype(
    [
        ("time", "i8"),
        ("cents", "i8"),
        ("transaction", "u8"),
        ("merchant", "u8"),
        ("device", "u8"),
        ("route", "i8"),
    ]
)
OLD_USER_ARCHIVE = archive_dtype(2, 128)
OLD_MERCHANT_HEAD = np.dtype(without(MERCHANTS.head, "total_count"))
THINGS_SINCE = ("ip", "country")


BEFORE = SCHEMA_VERSION - 1
TAG = BEFORE.to_bytes(8, "little")


def count(old: np.ndarray, new: np.ndarray) -> None:
    new["total_count"] = old["next_event"]


def whole_amounts(old: np.ndarray, new: np.ndarray) -> None:
    new["amount"] = old["cents"] / 100


def more_things(old: np.ndarray, new: np.ndarray) -> None:
    new["last_seen"] = NEVER
    new["last_seen"][:, :2] = old["last_seen"]


THE_ONE_BEFORE = {
    "user": Migrations(
        USERS,
        [
            OldVersion(
                BEFORE,
                OldRecord(OLD_USER_HEAD, count),
                OldRecord(OLD_USER_EVENT, whole_amounts),
                OldRecord(OLD_USER_ARCHIVE, more_things),
                OldRecord(USERS.labels),
            )
        ],
    ),
    "merchant": Migrations(
        MERCHANTS,
        [
            OldVersion(
                BEFORE,
                OldRecord(OLD_MERCHANT_HEAD, count),
                OldRecord(MERCHANTS.event),
                OldRecord(MERCHANTS.archive),
                OldRecord(MERCHANTS.labels),
            )
        ],
    ),
}


@pytest.fixture(autouse=True)
def the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there had been a the version before."""
    for kind, migrations in THE_ONE_BEFORE.items():
        monkeypatch.setitem(MIGRATIONS, kind, migrations)


class Old:
    """Writes records of the present version as the version before did."""

    def __init__(self, layout: EntityLayout) -> None:
        self.layout = layout
        self.users = layout is USERS

    def __call__(self, key: bytes, value: bytes) -> bytes:
        if key.startswith(CHUNK):
            return self.events(value)
        if key.startswith(ARCHIVE):
            return self.archive(value)
        assert key.startswith(HEAD)
        size = self.layout.head.itemsize
        return self.head(value[:size]) + self.events(value[size:])

    def head(self, value: bytes) -> bytes:
        (head,) = np.frombuffer(value, self.layout.head)
        names = (OLD_USER_HEAD if self.users else OLD_MERCHANT_HEAD).names or ()
        return b"".join(head[name].tobytes() if name != "schema" else TAG for name in names)

    def events(self, value: bytes) -> bytes:
        if not self.users:
            return value
        out = []
        for event in np.frombuffer(value, USERS.event):
            assert not any(event[name] for name in THINGS_SINCE), "an old one can not say that"
            out.append(event["time"].tobytes() + np.int64(round(event["amount"] * 100)).tobytes())
            out += [event[name].tobytes() for name in (OLD_USER_EVENT.names or ())[2:]]
        return b"".join(out)

    def archive(self, value: bytes) -> bytes:
        (archive,) = np.frombuffer(value, self.layout.archive)
        out = [TAG]
        for name in (self.layout.archive.names or ())[1:]:
            seen = archive[name]
            if name == "last_seen" and self.users:
                assert (seen[2:] == NEVER).all(), "the version before can not say that"
                seen = seen[:2]
            out.append(seen.tobytes())
        return b"".join(out)


def aged(layout: EntityLayout, records: MemoryRecords, choose: Callable[[], bool]) -> MemoryRecords:
    """The same records, those of them as the version before that are chosen."""
    old = Old(layout)
    out = MemoryRecords()
    out.data = {k: old(k, v) if choose() else v for k, v in records.data.items()}
    return out


def plain(stream: Sequence[Payment]) -> list[Payment]:
    """Payments that the version before could remember."""
    out = []
    for p in stream:
        values = {f: getattr(p, f) for f in p.__struct_fields__}
        out.append(Payment(**{**values, "ip": None, "country": None}))
    return out


def busy(seed: int) -> list[Payment]:
    """Two users at two merchants, busy enough for archives, over forty days."""
    rng = np.random.default_rng(seed)
    n = 2 * RETAINED_MAX + 300
    times = np.sort(streams.START + rng.integers(0, 40 * DAY_MS, n))
    return [
        Payment(
            transaction_id=f"t{i}",
            user_id=f"u{int(rng.random() < 0.2)}",
            merchant_id=f"m{int(rng.random() < 0.1)}",
            amount=float(rng.integers(0, 100_000)) / 100,
            time=int(t),
            device=rng.choice(["a", "b", "c"]),
        )
        for i, t in enumerate(times)
    ]


def check(stream: list[Payment], cut: int, choose: Callable[[], bool]) -> set[bytes]:
    """Go on from old records and from present ones: everything must come out alike.

    Returns the kinds of users' records that were there.
    """
    before, after = stream[:cut], stream[cut:]
    users, merchants = MemoryRecords(), MemoryRecords()
    streams.run_users(streams.batches(before, [50] * len(before)), users)
    streams.step_merchant_kernel(before, [50] * len(before), merchants)
    kinds = {key[:1] for key in users.data}
    old_users = aged(USERS, users, choose)
    old_merchants = aged(MERCHANTS, merchants, choose)
    assert streams.states(USERS, old_users.data) == streams.states(USERS, users.data)
    assert streams.states(MERCHANTS, old_merchants.data) == streams.states(
        MERCHANTS, merchants.data
    )
    batches = streams.batches(after, [7] * len(after), cut)
    expected = streams.forwarded(streams.run_users(batches, users))
    assert streams.forwarded(streams.run_users(batches, old_users)) == expected
    assert streams.states(USERS, old_users.data) == streams.states(USERS, users.data)
    features, status = streams.step_merchant_kernel(after, [7] * len(after), merchants, cut)
    again = streams.step_merchant_kernel(after, [7] * len(after), old_merchants, cut)
    np.testing.assert_array_equal(again[0], features)
    np.testing.assert_array_equal(again[1], status)
    assert streams.states(MERCHANTS, old_merchants.data) == streams.states(
        MERCHANTS, merchants.data
    )
    # What was written in the meantime is of the present version.
    for key, value in old_users.data.items():
        if key.startswith(HEAD) and key[1:].decode() in {p.user_id for p in after}:
            assert value[:8] in (SCHEMA_VERSION.to_bytes(8, "little"), TAG)
    return kinds


@settings(max_examples=40, deadline=None)
@given(st.lists(streams.choices, max_size=60), st.floats(0, 1), st.randoms(use_true_random=False))
def test_any_history_goes_on_as_if_nothing_had_changed(
    described: list[tuple[object, ...]], share: float, rng: random.Random
) -> None:
    for (
        kind,
        migrations,
    ) in THE_ONE_BEFORE.items():  # the fixture is the function's, not the example's
        assert MIGRATIONS[kind] is migrations
    stream = plain(streams.payments(described))
    check(stream, int(len(stream) * share), lambda: rng.random() < 0.7)


@pytest.mark.parametrize("share_old", [1.0, 0.5])
@pytest.mark.parametrize("seed", [1, 2])
def test_entities_with_closed_chunks_and_archives(seed: int, share_old: float) -> None:
    rng = random.Random(seed)
    stream = busy(seed)
    kinds = check(stream, len(stream) - 200, lambda: rng.random() < share_old)
    assert kinds == {HEAD, CHUNK, ARCHIVE}


def test_people_read_old_records_too() -> None:
    stream = busy(3)
    records = MemoryRecords()
    streams.run_users(streams.batches(stream, [100] * len(stream)), records)
    new = describe_user(records, b"u0")
    old = describe_user(aged(USERS, records, lambda: True), b"u0")
    assert new is not None and old is not None
    assert (old.windows, old.transactions, old.total_count) == (
        new.windows,
        new.transactions,
        new.total_count,
    )


def test_a_record_is_rewritten_with_the_next_transaction_and_a_closed_chunk_never() -> None:
    stream = busy(4)
    users = MemoryRecords()
    streams.run_users(streams.batches(stream[:-1], [100] * len(stream)), users)
    old = aged(USERS, users, lambda: True)
    before = dict(old.data)
    streams.run_users(streams.batches(stream[-1:], [1], len(stream)), old)
    user = stream[-1].user_id.encode()
    changed = {key for key in before if old.data.get(key) != before[key]}
    head = HEAD + user
    assert head in changed
    assert old.data[head].startswith(SCHEMA_VERSION.to_bytes(8, "little"))
    assert not [k for k in changed if k in old.data and k.startswith(CHUNK)]
    assert not [k for k in changed if k.startswith(HEAD) and k != head]


# Several versions in turn, on a small layout: a balance that became cents, then got a currency.

SMALL = EntityLayout(
    "account",
    np.dtype([("schema", "i8"), ("cents", "i8"), ("currency", "u8")]),
    np.dtype([("time", "i8"), ("value", "i8"), ("kind", "u8")]),
    np.dtype([("schema", "i8"), ("sum", "i8")]),
    np.dtype([("schema", "i8"), ("known", "i8")]),
    2,
)


def to_cents(old: np.ndarray, new: np.ndarray) -> None:
    new["cents"] = old["balance"] * 100


def euros(old: np.ndarray, new: np.ndarray) -> None:
    new["currency"] = 978


def to_milliseconds(old: np.ndarray, new: np.ndarray) -> None:
    new["time"] = old["seconds"].astype(np.int64) * 1000


FIRST = OldVersion(
    1,
    OldRecord(np.dtype([("schema", "i8"), ("balance", "i8")]), to_cents),
    OldRecord(np.dtype([("seconds", "i4"), ("value", "i8")]), to_milliseconds),
    OldRecord(SMALL.archive),
    OldRecord(SMALL.labels),
)
SECOND = OldVersion(
    2,
    OldRecord(np.dtype([("schema", "i8"), ("cents", "i8")]), euros),
    OldRecord(np.dtype([("time", "i8"), ("value", "i8")])),
    OldRecord(SMALL.archive),
    OldRecord(SMALL.labels),
)
CHAIN = Migrations(SMALL, [FIRST, SECOND], present=3)

ints = st.integers(-(2**31), 2**31 - 1)


def q(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little", signed=True) for value in values)


@given(
    st.lists(
        st.tuples(st.integers(1, 3), ints, st.lists(st.tuples(ints, ints), max_size=1)),
        max_size=6,
    )
)
def test_every_record_goes_through_the_steps_from_its_own_version(
    described: list[tuple[int, int, list[tuple[int, int]]]],
) -> None:
    stored, expected = [], []
    for version, balance, events in described:
        head, *_ = (
            {1: q(1, balance), 2: q(2, balance * 100), 3: q(3, balance * 100, 978)}[version],
            None,
        )
        for at, value in events:
            seconds = at.to_bytes(4, "little", signed=True)
            head += {1: seconds + q(value), 2: q(at * 1000, value), 3: q(at * 1000, value, 0)}[
                version
            ]
        stored.append(head)
        present = q(3, balance * 100, 978)
        for at, value in events:
            present += q(at * 1000, value, 0)
        expected.append(present)
    names = [b"%d" % i for i in range(len(stored))]
    assert list(CHAIN.heads([*names, b"none"], [*stored, None])) == [*expected, None]


@given(st.lists(st.tuples(st.integers(1, 3), ints, ints, ints, ints), max_size=6))
def test_closed_chunks_are_told_by_their_length(
    described: list[tuple[int, int, int, int, int]],
) -> None:
    stored: list[bytes | None] = []
    expected = []
    for version, t1, v1, t2, v2 in described:
        stored.append(
            {
                1: t1.to_bytes(4, "little", signed=True)
                + q(v1)
                + t2.to_bytes(4, "little", signed=True)
                + q(v2),
                2: q(t1 * 1000, v1, t2 * 1000, v2),
                3: q(t1 * 1000, v1, 0, t2 * 1000, v2, 0),
            }[version]
        )
        expected.append(q(t1 * 1000, v1, 0, t2 * 1000, v2, 0))
    assert list(CHAIN.chunks([b"C"] * len(stored), stored)) == expected


def test_an_unchanged_record_gets_the_present_number() -> None:
    old: list[bytes | None] = [q(1, 7), q(2, 8), q(3, 9)]
    for part in ("archive", "labels"):
        assert CHAIN.slotted(part, [b"A\0a"] * 3, old) == [q(3, 7), q(3, 8), q(3, 9)]


@pytest.mark.parametrize("number", [0, -1, 4, 2**40])
def test_unknown_versions_are_refused_by_name(number: int) -> None:
    for refused in (
        lambda: CHAIN.heads([b"ok", b"ada"], [q(3, 1, 1), q(number, 1, 1)]),
        lambda: CHAIN.slotted("archive", [b"A\0ada"], [q(number, 7)]),
        lambda: present_marks(q(number, 5, 0), [OldMarks(1), OldMarks(2)], 3),
    ):
        with pytest.raises(StateError) as error:
            refused()
        text = str(error.value)
        assert f"has schema version {number}; this dafu reads versions 1 to 3" in text
        assert ("newer dafu wrote it" in text) == (number > 3)
        assert ("older dafu first" in text) == (number < 1)
        assert "b'ada'" in text or "source marks" in text


@pytest.mark.parametrize("kept", [0, 7, 8, 15, 17, 27])
def test_an_old_record_cut_short_is_damaged(kept: int) -> None:
    whole = q(1, 7) + bytes(12)
    if kept in (0, 7):
        # Too short for a version: left to who knows how long the present one is.
        assert CHAIN.heads([b"a"], [whole[:kept]]) == [whole[:kept]]
    else:
        with pytest.raises(StateError, match="missing or damaged"):
            CHAIN.heads([b"a"], [whole[:kept]])
    with pytest.raises(StateError, match="missing or damaged"):
        CHAIN.slotted("archive", [b"A\0a"], [q(2, 7)[: min(kept, 15)]])
    with pytest.raises(StateError, match="missing or damaged"):
        CHAIN.chunks([b"C"], [bytes(24)[: min(kept, 23)]])


def test_chunks_and_archives_that_are_missing_are_damaged() -> None:
    with pytest.raises(StateError, match="missing"):
        CHAIN.chunks([b"C", b"C"], [bytes(48), None])
    with pytest.raises(StateError, match="missing"):
        CHAIN.slotted("archive", [b"A\0a", b"A\0b"], [q(3, 1), None])


@pytest.mark.parametrize(
    ("event", "later", "wrong"),
    [
        (OldRecord(np.dtype([("a", "i8"), ("b", "i8"), ("c", "i8")])), SECOND.event, True),
        (OldRecord(SMALL.event, to_milliseconds), OldRecord(SMALL.event), True),
        (OldRecord(SMALL.event), SECOND.event, True),  # there, gone and back
        (OldRecord(SMALL.event), OldRecord(SMALL.event), False),
        (FIRST.event, SECOND.event, False),
    ],
)
def test_chunks_that_could_not_be_told_apart_are_refused(
    event: OldRecord, later: OldRecord, wrong: bool
) -> None:
    versions = [
        OldVersion(1, FIRST.head, event, FIRST.archive, FIRST.labels),
        OldVersion(2, SECOND.head, later, SECOND.archive, SECOND.labels),
    ]
    if not wrong:
        Migrations(SMALL, versions, present=3)
        return
    with pytest.raises(ValueError, match="look alike"):
        Migrations(SMALL, versions, present=3)


def test_versions_lead_up_to_the_present() -> None:
    for versions, present in (([FIRST], 3), ([SECOND, FIRST], 3), ([FIRST, SECOND], 4)):
        with pytest.raises(ValueError, match="do not lead up"):
            Migrations(SMALL, versions, present=present)
    headless = OldVersion(
        2, OldRecord(SECOND.event.dtype), SECOND.event, SECOND.archive, SECOND.labels
    )
    with pytest.raises(ValueError, match="begin with its schema version"):
        Migrations(SMALL, [headless], present=3)


def test_source_marks_of_an_older_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def widen(rest: bytes) -> bytes:
        fence, *marks = np.frombuffer(rest, np.int32).tolist()
        return q(fence, len(marks), *marks)

    monkeypatch.setattr(module, "OLD_MARKS", (OldMarks(BEFORE, widen),))
    records = MemoryRecords()
    records.write([(SourceMarks.KEY, q(BEFORE) + np.array([41, 7, -1, 9], np.int32).tobytes())])
    marks = SourceMarks.load(records)
    assert (marks.fence, marks.marks.tolist()) == (41, [7, -1, 9])


def test_version_1_had_no_labels_no_routes_and_no_delayed_counts() -> None:
    head = q(1, 41, 0, 1, NEVER, 0, 0, 0, 7, 9, 1)
    place = q(NEVER) + bytes(6 * 8)
    event = q(11, 9, 0, 13, 0, 0, 0)
    shipped = Migrations(USERS, module.OLD_USERS)
    (new,) = shipped.heads([b"ann"], [head + place + event])
    size = USERS.head.itemsize
    (got,) = np.frombuffer((new or b"")[:size], USERS.head)
    assert (got["schema"], got["fence"], got["total_count"], got["labelled"]) == (3, 41, 1, 0)
    (got,) = np.frombuffer((new or b"")[size:], USERS.event)
    assert (got["transaction"], got["merchant"], got["route"]) == (11, 13, -1)
    (chunk,) = shipped.chunks([b"C"], [event * USERS.chunk])
    assert (np.frombuffer(chunk or b"", USERS.event)["route"] == -1).all()
    old_archive = q(1, 5) + bytes(8 * (4 * 6 * 49 + 4 * 128))
    (archive,) = shipped.slotted("archive", [b"A\0ann"], [old_archive])
    (got,) = np.frombuffer(archive or b"", USERS.archive)
    assert got["through"] == 5
    assert (got["delayed_bucket"] == NEVER).all()


def test_version_2_had_no_rings_and_nobody_was_announced() -> None:
    counters = q(2, 41, 0, 1, NEVER, 0, 0, 0, 7, 9, 1, 1, 1, 0)
    place = q(5) + np.array([1.5, 2.5]).tobytes() + q(3) + bytes(3 * 8)
    event = q(11, 9, 0, 13, 0, 0, 0, 17)
    shipped = Migrations(USERS, module.OLD_USERS)
    (new,) = shipped.heads([b"ann"], [counters + place + event])
    size = USERS.head.itemsize
    (got,) = np.frombuffer((new or b"")[:size], USERS.head)
    assert (got["schema"], got["fence"], got["labelled"], got["labels_slot"]) == (3, 41, 1, 1)
    assert (got["place_lat"], got["places"]) == (1.5, 3)
    assert (got["ringed"], got["announced"].any(), got["announced_count"]) == (0, False, 0)
    assert got["announced_day"] == NEVER
    assert (new or b"")[size:] == event, "events are as they were"
    (labels,) = shipped.slotted("labels", [b"L\0ann"], [q(2, 1) + bytes(8 * (1 + 5 * 32))])
    assert labels == q(3, 1) + bytes(8 * (1 + 5 * 32))
    with pytest.raises(StateError, match="damaged"):
        shipped.slotted("ring", [b"R\0ann"], [q(2)])
    (merchant,) = Migrations(MERCHANTS, module.OLD_MERCHANTS).heads([b"m"], [counters])
    (got,) = np.frombuffer(merchant or b"", MERCHANTS.head)
    assert (got["schema"], got["fence"], got["labelled"], got["memory"]) == (3, 41, 1, 0)


def test_version_2_knew_neither_what_is_usual_at_a_merchant_nor_bursts() -> None:
    event = q(9, 0, 13)
    counters = q(2, 41, 0, 1, NEVER, 0, 0, 0, 7, 9, 1, 0, 0, 0)
    shipped = Migrations(MERCHANTS, module.OLD_MERCHANTS)
    (new,) = shipped.heads([b"shop"], [counters + event])
    present = blank_head(MERCHANTS)
    assert new is not None and new[len(present) :] == event
    (got,), (blank,) = (np.frombuffer(v[: len(present)], MERCHANTS.head) for v in (new, present))
    assert (got["schema"], got["fence"], got["total_count"]) == (3, 41, 1)
    since = [n for n in MERCHANTS.head.names or () if n.startswith(("usual", "peak", "hour"))]
    since += [n for n in MERCHANTS.head.names or () if n.startswith("burst")]
    assert len(since) == 17
    assert all(got[name] == blank[name] == 0 for name in since)


def test_the_shipped_versions_lead_up_to_the_present_layouts() -> None:
    for layout, old in ((USERS, module.OLD_USERS), (MERCHANTS, module.OLD_MERCHANTS)):
        shipped = Migrations(layout, old)
        values: list[bytes | None] = [blank_head(layout)]
        assert shipped.heads([b"a"], values) is values
