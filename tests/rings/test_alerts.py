"""Rings as they open, grow, merge, split and close; what is told, and what is not."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.rings.alerts import KEEP, OPEN, News, RingBook, moved
from dafu.rings.describe import MAX_LISTED_EDGES, MAX_LISTED_MEMBERS, Portrait
from dafu.rings.encoding import pack, reader
from dafu.rings.parting import WEIGHTS
from dafu.rings.records import Facts, Membership
from dafu.rings.scoring import Candidate, Shared, Times, Use, User
from tests.rings.naive import component_of

NOW = 1_700_000_000_000


def portrait(
    members: Sequence[str],
    score: float = 0.9,
    blocked: Sequence[str] = (),
    amount: float = 10.0,
    reviewed: Sequence[str] = (),
) -> Portrait:
    """A candidate whose members share one device."""
    names = sorted(members)
    users = [
        User(n, Facts(NOW, NOW, 1, amount, 0, NOW * (n in blocked), NOW * (n in reviewed)), NOW)
        for n in names
    ]
    uses = [Use(i, NOW, NOW) for i in range(len(names))]
    component = component_of(users, [Shared("device:fp", 1.0, len(names), uses)], Times(NOW, NOW))
    numbers = list(range(len(names)))
    return Portrait(
        component,
        Candidate(numbers, [0], dict.fromkeys(numbers, NOW), dict.fromkeys(WEIGHTS, 0.5), score),
    )


def tell(book: RingBook, *found: Portrait, at: int = 0) -> News:
    """What is new if these are all that there is."""
    return book.reconcile(found, list(book.rings), NOW + at)


def events(news: News) -> list[tuple[str, int]]:
    return [(alert.event, alert.size) for alert in news.alerts]


def test_a_ring_opens_at_a_score_and_goes_on_at_a_lower_one() -> None:
    book = RingBook()
    assert events(tell(book, portrait("abc", OPEN - 0.01))) == []
    news = tell(book, portrait("abc", OPEN))
    assert events(news) == [("opened", 3)]
    ring_id = news.alerts[0].ring_id
    assert [(m.user_id, m.ring_id, m.size, m.risk) for m in news.memberships] == [
        (user, ring_id, 3, OPEN) for user in "abc"
    ]
    assert {m.shared for m in news.memberships} == {"device fp"}
    assert {m.sharers for m in news.memberships} == {2}
    assert events(tell(book, portrait("abc", KEEP))) == [("updated", 3)]
    news = tell(book, portrait("abc", KEEP - 0.01), at=5)
    assert events(news) == [("closed", 3)]
    assert news.memberships == [Membership(user, ring_id, NOW + 5, 0, 0.0) for user in "abc"]
    assert news.rings == {ring_id: None}
    assert book.rings == {} and book.ring_of == {}


def test_what_opens_once_more_while_the_clock_stands_still_is_another_ring() -> None:
    book = RingBook()
    told = [tell(book, portrait("abc", score)) for score in (OPEN, 0.0, OPEN, 0.0)]
    alerts = [alert for news in told for alert in news.alerts]
    assert [alert.event for alert in alerts] == ["opened", "closed"] * 2
    assert len({alert.alert_id for alert in alerts}) == 4
    assert len({alert.ring_id for alert in alerts}) == 2


def test_reviews_as_members_joined_are_a_reason_if_they_say_more_than_the_blocks() -> None:
    found = tell(RingBook(), portrait("abc", reviewed="ab")).alerts[0]
    assert "2 of 3 users had transactions reviewed as they joined" in found.reasons
    found = tell(RingBook(), portrait("abc", blocked="ab", reviewed="ab")).alerts[0]
    assert found.reasons[0] == "2 of 3 users had transactions blocked"
    assert not any("reviewed" in reason for reason in found.reasons)


def test_what_did_not_change_is_not_told() -> None:
    book = RingBook()
    tell(book, portrait("abc"))
    assert tell(book, portrait("abc", 0.95)) == News([], [], {})
    assert tell(book, portrait("abc", 0.95, amount=19.0)) == News([], [], {})
    assert events(tell(book, portrait("abc", 0.95, amount=20.0))) == [("updated", 3)]


def test_blocks_are_told_to_the_others() -> None:
    book = RingBook()
    tell(book, portrait("abc"))
    news = tell(book, portrait("abc", blocked="b"))
    assert events(news) == [("updated", 3)]
    assert news.alerts[0].blocked == 1
    assert "1 of 3 users had transactions blocked" in news.alerts[0].reasons
    assert [(m.user_id, m.blocked) for m in news.memberships] == [("a", 1), ("c", 1)]


def test_growing_is_told_in_the_order_of_log_n() -> None:
    book, told, memberships = RingBook(), 0, 0
    names = [f"u{k:03}" for k in range(200)]
    for n in range(3, 201):
        news = tell(book, portrait(names[:n]))
        told += len(news.alerts)
        memberships += len(news.memberships)
        assert {m.user_id for m in news.memberships} >= {names[n - 1]}
    assert told < 25
    assert memberships < 200 * 8
    (ring,) = book.rings.values()
    assert len(ring.members) == 200
    alert = tell(book, portrait([*names, *(f"v{k:03}" for k in range(200))])).alerts[0]
    assert alert.size == 400
    assert (len(alert.members), len(alert.edges)) == (MAX_LISTED_MEMBERS, MAX_LISTED_EDGES)


def test_the_oldest_survives_a_merge_and_the_largest_part_a_split() -> None:
    book = RingBook()
    old = tell(book, portrait("abc")).alerts[0].ring_id
    young = tell(book, portrait("abc"), portrait("defgh"), at=9).alerts[0].ring_id
    news = tell(book, portrait("abcdefgh"), at=10)
    assert [(a.ring_id, a.event, a.related) for a in news.alerts] == [
        (old, "merged", [young]), (young, "closed", [old])
    ]  # fmt: skip
    assert {m.ring_id for m in news.memberships} == {old}
    assert {m.user_id for m in news.memberships} == set("abcdefgh")
    news = tell(book, portrait("abc"), portrait("defgh"), at=11)
    split = next(a for a in news.alerts if a.event == "split")
    assert split.related == [old]
    assert split.size == 3
    assert [(a.event, a.size) for a in news.alerts if a.ring_id == old] == [("updated", 5)]
    assert {m.user_id: m.ring_id for m in news.memberships}["a"] == split.ring_id


def test_who_leaves_is_told_and_who_changes_rings_is_told_once() -> None:
    book = RingBook()
    tell(book, portrait("abcd"))
    tell(book, portrait("abcd"), portrait("wxyz"))
    news = tell(book, portrait("abc"), portrait("dwxy"))
    assert {m.user_id for m in news.memberships if m.size == 0} == {"z"}
    assert [m.size for m in news.memberships if m.user_id == "d"] == [4]


def test_counts_move_by_a_quarter() -> None:
    for told in range(1, 100):
        up = next(now for now in range(told, 300) if moved(told, now))
        assert up == -(-told * 5 // 4)
        down = next(now for now in range(told, -1, -1) if moved(told, now))
        assert down == told * 4 // 5 or told == 1


groups = st.lists(st.lists(st.integers(0, 4), min_size=10, max_size=10), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(groups)
def test_users_know_which_ring_they_are_in(described: list[list[int]]) -> None:
    """Memberships add up to the rings; alerts tell of each ring's beginning and end, in order."""
    book = RingBook()
    read = reader("ring", type(next(iter(_one().rings.values()))))
    known: dict[str, str] = {}
    stored: dict[str, bytes] = {}
    opened: dict[str, int] = {}
    for turn, group_of in enumerate(described):
        parts = [
            [f"u{user}" for user, group in enumerate(group_of) if group == g] for g in range(4)
        ]
        news = tell(book, *(portrait(part) for part in parts if len(part) >= 3), at=turn)
        for m in news.memberships:
            assert (m.size == 0) <= (known.get(m.user_id) == m.ring_id)
            known.pop(m.user_id, None)
            if m.size:
                known[m.user_id] = m.ring_id
        assert known == book.ring_of
        for alert in news.alerts:
            assert (alert.event in ("opened", "split")) == (alert.ring_id not in opened)
            opened[alert.ring_id] = opened.get(alert.ring_id, 0) + 1
            assert alert.alert_id == f"{alert.ring_id}:{opened[alert.ring_id]}"
            assert (alert.event == "closed") == (alert.ring_id not in book.rings)
        for ring_id, ring in news.rings.items():
            stored.pop(ring_id, None)
            if ring is not None:
                stored[ring_id] = pack(ring)
        assert stored == {ring_id: pack(ring) for ring_id, ring in book.rings.items()}
        book = RingBook(read(b"R", raw) for raw in stored.values())
        assert book.ring_of == known


def _one() -> RingBook:
    book = RingBook()
    tell(book, portrait("abc"))
    return book
