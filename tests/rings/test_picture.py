"""Pictures of rings: well-formed, the same again, readable, and safe with hostile names."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from dafu.rings.picture import MAX_NODES, STYLE_SOURCE, draw
from dafu.rings.records import KINDS, Edge, Evidence, Facts, Member, RingAlert

T0 = 1_750_000_000_000
SVG = "{http://www.w3.org/2000/svg}"


def make(members: int, identifiers: int, /, **changes: Any) -> RingAlert:
    """A ring of that many; every third member has frauds, every fourth was blocked."""
    people = [
        Member(
            f"user-{i:03}",
            T0 + i,
            Facts(
                T0, T0 - i, i + 1, 10.5 * i, frauds=int(i % 3 == 2), blocked_at=T0 * (i % 4 == 3)
            ),
        )
        for i in range(members)
    ]
    things = [
        Evidence(KINDS[i % 4], f"thing-{i}", 1.0 / (i + 1), members, members + 2)
        for i in range(identifiers)
    ]
    names = [f"{thing.kind}:{thing.value}" for thing in things]
    edges = [
        Edge(person.user_id, name, T0, T0 + 60_000)
        for i, person in enumerate(people)
        for j, name in enumerate(names)
        if (i + j) % identifiers < 2
    ]
    ring = RingAlert(
        alert_id="r-9-4",
        ring_id="r-9",
        event="grown",
        kind="accounts",
        time=T0,
        score=0.83,
        size=members,
        identifiers=identifiers,
        transactions=70,
        amount=12345.5,
        frauds=3,
        blocked=4,
        first_seen=T0 - 86_400_000,
        last_seen=T0,
        reasons=["7 users share device thing-0", "3 of them are new"],
        parts={"sharing": 0.9},
        members=people,
        evidence=things,
        edges=edges,
    )
    return msgspec.structs.replace(ring, **changes)


def texts(svg: str, kind: str = "text") -> list[str]:
    return ["".join(node.itertext()) for node in ET.fromstring(svg).iter(SVG + kind)]


def test_all_that_the_alert_says_is_in_the_picture() -> None:
    ring = make(8, 4)
    svg = draw(ring)
    words = " | ".join(texts(svg))
    for member in ring.members:
        assert member.user_id in words
    for thing in ring.evidence:
        assert f"{thing.kind} {thing.value}" in words
    for reason in ring.reasons:
        assert reason in words
    assert "Ring r-9: 8 members, 4 shared identifiers, score 0.83, grown 2025-06-15 15:06" in words
    assert "70 transactions, 12,345.50 in 30 days" in words
    titles = texts(svg, "title")
    assert sum("with" in title for title in titles) == len(ring.edges)
    assert "Not shown" not in words


def test_what_is_wrong_is_told_by_shape_and_in_words() -> None:
    root = ET.fromstring(draw(make(12, 3)))
    shapes = {}
    for group in root.iter(SVG + "g"):
        node = next(n for n in group if "node" in n.attrib.get("class", ""))
        words = ["".join(t.itertext()) for t in group.iter(SVG + "text")]
        marks = [t.text for t in group.iter(SVG + "text") if t.attrib["class"] == "mark"]
        shapes[next(w for w in words if w.startswith(("user", *KINDS)))] = (node.tag, marks, words)
    for i in range(12):
        tag, marks, words = shapes[f"user-{i:03}"]
        fraud, blocked = i % 3 == 2, i % 4 == 3
        expected = "rect" if fraud else "polygon" if blocked else "circle"
        assert tag == SVG + expected
        assert marks == (["F" * fraud + "B" * blocked] if fraud or blocked else [])
        assert ("1 known fraud" in words[-1]) == fraud
        assert words[-1].endswith("blocked") == blocked


def test_screen_readers_get_the_whole_story() -> None:
    ring = make(4, 2)
    root = ET.fromstring(draw(ring))
    assert root.attrib["role"] == "img"
    labelled = root.attrib["aria-labelledby"].split()
    told = {node.attrib["id"]: node.text or "" for node in root if "id" in node.attrib}
    assert list(told) == labelled == ["title", "desc"]
    assert "device thing-0 is used by user-000, user-001" in told["desc"]
    assert "user-002: 1 known fraud" in told["desc"]


def test_the_same_alert_gives_the_same_picture() -> None:
    assert draw(make(20, 5)) == draw(make(20, 5))
    # The order of edges says nothing.
    ring = make(20, 5)
    turned = msgspec.structs.replace(ring, edges=ring.edges[::-1])
    assert _places(draw(turned)) == _places(draw(ring))


def _places(svg: str) -> dict[str, tuple[float, float]]:
    return {
        "".join(node.itertext()): (float(node.attrib["x"]), float(node.attrib["y"]))
        for node in ET.fromstring(svg).iter(SVG + "text")
        if node.attrib["class"] != "mark"
    }


def _boxes(svg: str) -> Iterator[tuple[float, float, float, float]]:
    """Where each text is, by seven pixels a letter of 13 and six of 11 pixels."""
    for node in ET.fromstring(svg).iter(SVG + "text"):
        kinds, text = node.attrib["class"].split(), "".join(node.itertext())
        if "mark" in kinds:
            continue
        small = "soft" in kinds
        x, y, width = (
            float(node.attrib["x"]),
            float(node.attrib["y"]),
            len(text) * (5.6 if small else 6.6),
        )
        left = x - width if "end" in kinds else x - width / 2 if "centre" in kinds else x
        yield left, y - 10, left + width, y + 2


def test_labels_do_not_lie_on_each_other() -> None:
    for members, identifiers in ((1, 1), (3, 1), (5, 9), (25, 4), (70, 30), (95, 5)):
        svg = draw(make(members, identifiers))
        boxes = list(_boxes(svg))
        assert len(boxes) >= 2 * (members + identifiers)
        for a, b in combinations(boxes, 2):
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert apart, (members, identifiers, a, b)
        width, height = (float(v) for v in ET.fromstring(svg).attrib["viewBox"].split()[2:])
        assert all(a[0] >= 0 and a[1] >= 0 and a[2] <= width and a[3] <= height for a in boxes)


def test_more_than_can_be_drawn_is_counted() -> None:
    ring = make(150, 40, size=400, identifiers=60)
    svg = draw(ring)
    shown = len(re.findall(r"<g data-node=", svg))
    assert shown == MAX_NODES
    assert "Not shown: 330 members, 30 identifiers." in " ".join(texts(svg))
    ET.fromstring(svg)


def test_neighbours_stand_together() -> None:
    """Two farms in one ring: each with its own device, at its own height."""
    ring = make(12, 2)
    edges = [
        Edge(f"user-{i:03}", "device:thing-0" if i % 2 else "ip:thing-1", T0, T0) for i in range(12)
    ]
    places = _places(draw(msgspec.structs.replace(ring, edges=edges)))
    heights = {
        odd: [places[f"user-{i:03}"][1] for i in range(12) if i % 2 == odd] for odd in (0, 1)
    }
    assert max(heights[0]) < min(heights[1]) or max(heights[1]) < min(heights[0])


def test_the_style_sheet_is_named_by_its_hash() -> None:
    style = texts(draw(make(3, 1)), "style")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" == STYLE_SOURCE
    assert "prefers-color-scheme:dark" in style


hostile = st.text(min_size=1, max_size=40) | st.sampled_from(
    [
        '"><script>alert(1)</script>',
        "]]>",
        "&lt;",
        "</title><script/>",
        "\u202egpj",
        "\x00\x08",
        "a" * 300,
    ]
)


@given(user=hostile, value=hostile, reason=hostile)
def test_hostile_names_stay_text(user: str, value: str, reason: str) -> None:
    ring = make(
        1,
        1,
        members=[Member(user, T0, Facts(T0, T0))],
        evidence=[Evidence("device", value, 1.0, 1, 1)],
        edges=[Edge(user, f"device:{value}", T0, T0)],
        reasons=[reason],
        merchant_id=value,
    )
    svg = draw(ring)
    svg.encode("utf-8")
    root = ET.fromstring(svg)
    allowed = {"svg", "title", "desc", "style", "rect", "text", "path", "g", "circle", "polygon"}
    assert {node.tag.removeprefix(SVG) for node in root.iter()} <= allowed
    for node in root.iter():
        assert not any(name.startswith("on") or "href" in name for name in node.attrib)
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", svg)


def test_within_a_page_it_brings_no_style_and_says_what_can_be_moved() -> None:
    ring = make(3, 2)
    svg = draw(ring, styled=False)
    assert "<style" not in svg
    root = ET.fromstring(svg)
    nodes = {g.get("data-node") for g in root.iter(f"{SVG}g")}
    assert nodes == {f"user:{m.user_id}" for m in ring.members} | {
        f"{e.kind}:{e.value}" for e in ring.evidence
    }
    edges = [p for p in root.iter(f"{SVG}path") if p.get("data-from")]
    assert len(edges) == len(ring.edges)
    assert all({p.get("data-from"), p.get("data-to")} <= nodes for p in edges)
