"""A ring as a picture: a standalone SVG of its members and of what they share.

Identifiers stand in the middle, members to both sides in the order of what ties them, so that no
label lies on another. What is blocked or fraudulent is told by shape and in words, colours only
repeat it; they follow the reader's light or dark scheme. Pure: the same alert gives the same text.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

from dafu.rings.records import Evidence, Kind, Member, RingAlert

MAX_NODES: Final = 100
"""Members and identifiers that are drawn; a line of text says how many there are beyond."""

_MAX_IDENTIFIERS: Final = 30
_MAX_REASONS: Final = 6
_ROW, _MARGIN, _LINE = 40.0, 24.0, 18.0
_WIDTH: Final = 1120.0
_LEFT, _MIDDLE, _RIGHT = 300.0, _WIDTH / 2, _WIDTH - 300.0
_LABEL_CHARACTERS: Final = 28
_DETAIL_CHARACTERS: Final = 48
_REASON_CHARACTERS: Final = 140
_HEADLINE_CHARACTERS: Final = 125
_SWEEPS: Final = 12

_UNWRITABLE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufffe\uffff]"
)
"""What XML does not allow, and what would reorder or hide the text around it."""

STYLE: Final = (
    "svg{--bg:#ffffff;--ink:#1b1f24;--soft:#57606a;--line:#8c959f;--user:#ddf4ff;"
    "--blocked:#fff1c2;--fraud:#ffd8d3;--thing:#eaeef2}"
    "@media (prefers-color-scheme:dark){svg{--bg:#0d1117;--ink:#e6edf3;--soft:#9da7b3;"
    "--line:#6e7681;--user:#0c2d6b;--blocked:#4b2900;--fraud:#67060c;--thing:#21262d}}"
    ".bg{fill:var(--bg)}text{fill:var(--ink);font:13px system-ui,sans-serif}"
    ".head{font-weight:600;font-size:16px}.soft{fill:var(--soft);font-size:11px}"
    ".mark{font-weight:700;font-size:11px;text-anchor:middle}"
    ".end{text-anchor:end}"
    ".centre{text-anchor:middle;paint-order:stroke;stroke:var(--bg);stroke-width:4px}"
    ".edge{stroke:var(--line);fill:none}.node{stroke:var(--ink);stroke-width:1.2}"
    ".user{fill:var(--user)}.blocked{fill:var(--blocked)}.fraud{fill:var(--fraud)}"
    ".thing{fill:var(--thing)}"
)
"""The style sheet of every picture."""

STYLE_SOURCE: Final = (
    f"'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
)
"""What a content security policy has to name as `style-src` for the style sheet to apply."""


class _Place(NamedTuple):
    x: float
    y: float


def draw(ring: RingAlert, *, styled: bool = True) -> str:
    """The picture of a ring.

    Parameters
    ----------
    ring
        Any alert of it; of more than `MAX_NODES` nodes the first ones are drawn.
    styled
        Whether it brings its style sheet, as a document of its own does; within a page the page's
        applies.

    Returns
    -------
    str
        An SVG document without references to anything outside it. Groups with a `data-node` are
        what one might want to move, edges name theirs in `data-from` and `data-to`.
    """
    evidence = ring.evidence[:_MAX_IDENTIFIERS]
    members = ring.members[: MAX_NODES - len(evidence)]
    reasons = [_cut(reason, _REASON_CHARACTERS) for reason in ring.reasons[:_MAX_REASONS]]
    notes = _notes(ring, len(members), len(evidence))
    top = _MARGIN + 34.0 + _LINE * (len(reasons) + len(notes)) + _ROW / 2
    people, things, bottom = _layout(members, evidence, ring, top)
    height = bottom + _MARGIN
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title desc" '
        f'viewBox="0 0 {_WIDTH:g} {height:g}" width="{_WIDTH:g}" height="{height:g}">',
        f'<title id="title">{_text(_headline(ring))}</title>',
        f'<desc id="desc">{_text(_description(ring, members, evidence))}</desc>',
        *([f"<style>{STYLE}</style>"] if styled else []),
        '<rect class="bg" fill="#ffffff" width="100%" height="100%"/>',
        f'<text class="head" x="{_MARGIN:g}" y="{_MARGIN + 12:g}">'
        f"{_text(_cut(_headline(ring), _HEADLINE_CHARACTERS))}</text>",
        *(
            f'<text class="{kind}" x="{_MARGIN:g}" y="{_MARGIN + 34 + i * _LINE:g}">'
            f"{_text(line)}</text>"
            for i, (kind, line) in enumerate(
                [*(("reason", line) for line in reasons), *(("soft", line) for line in notes)]
            )
        ),
        *_edges(ring, people, things),
        *(_thing(item, things[_name(item)]) for item in evidence),
        *(_person(member, people[member.user_id]) for member in members),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _headline(ring: RingAlert) -> str:
    place = f" at {ring.merchant_id}" if ring.merchant_id is not None else ""
    return (
        f"Ring {ring.ring_id}{place}: {ring.size} members, {ring.identifiers} shared identifiers, "
        f"score {ring.score:.2f}, {ring.event} {_moment(ring.time)}"
    )


def _notes(ring: RingAlert, members: int, identifiers: int) -> list[str]:
    notes = [
        f"{ring.transactions} transactions, {ring.amount:,.2f} in 30 days; {ring.frauds} members "
        f"known for fraud, {ring.blocked} with a blocked transaction; seen from "
        f"{_moment(ring.first_seen)} to {_moment(ring.last_seen)}",
        "Circle: member. Octagon, B: had a transaction blocked. Square, F: known fraud.",
    ]
    hidden = (
        ("members", ring.size - members),
        ("identifiers", ring.identifiers - identifiers),
        ("reasons", len(ring.reasons) - _MAX_REASONS),
    )
    more = [f"{count} {what}" for what, count in hidden if count > 0]
    return [*notes, f"Not shown: {', '.join(more)}."] if more else notes


def _description(ring: RingAlert, members: list[Member], evidence: list[Evidence]) -> str:
    shares: dict[str, list[str]] = {}
    for edge in ring.edges:
        shares.setdefault(edge.identifier, []).append(edge.user_id)
    lines = [
        f"{item.kind} {item.value} is used by {', '.join(shares.get(_name(item), ())) or 'nobody'}"
        for item in evidence
    ]
    marked = [f"{member.user_id}: {_state(member)}" for member in members if _state(member)]
    return "; ".join([*ring.reasons, *lines, *marked])


def _layout(
    members: Sequence[Member], evidence: Sequence[Evidence], ring: RingAlert, top: float
) -> tuple[dict[str, _Place], dict[str, _Place], float]:
    """Places of members and identifiers, and the lowest of them.

    Both orders follow the mean place of what they are tied to, in turn (the barycentre heuristic
    of Sugiyama, Tagawa and Toda, 1981), which keeps crossings few.
    """
    users, names = [m.user_id for m in members], [_name(item) for item in evidence]
    ties = [(e.user_id, e.identifier) for e in ring.edges]
    ties = sorted({tie for tie in ties if tie[0] in set(users) and tie[1] in set(names)})
    for _ in range(_SWEEPS):
        users = _by_neighbours(users, names, ties)
        names = _by_neighbours(names, users, [(name, user) for user, name in ties])
    rows = max(math.ceil(len(users) / 2), math.ceil(1.25 * len(names)), 1)  # these take more
    bottom = top + rows * _ROW

    def spread(items: Sequence[str], x: float) -> dict[str, _Place]:
        step = (bottom - top) / max(len(items), 1)
        return {item: _Place(x, round(top + (i + 0.5) * step, 1)) for i, item in enumerate(items)}

    people = spread(users[::2], _LEFT) | spread(users[1::2], _RIGHT)
    return people, spread(names, _MIDDLE), bottom


def _by_neighbours(
    items: list[str], others: list[str], ties: Iterable[tuple[str, str]]
) -> list[str]:
    rank = {other: i / max(len(others) - 1, 1) for i, other in enumerate(others)}
    near: dict[str, list[float]] = {}
    for item, other in ties:
        near.setdefault(item, []).append(rank[other])
    place = {item: i / max(len(items) - 1, 1) for i, item in enumerate(items)}
    means = {
        item: sum(near[item]) / len(near[item]) if item in near else place[item] for item in items
    }
    return sorted(items, key=lambda item: (round(means[item], 9), place[item]))


def _edges(ring: RingAlert, people: dict[str, _Place], things: dict[str, _Place]) -> Iterable[str]:
    weight = {_name(item): item.weight for item in ring.evidence}
    for edge in ring.edges:
        if edge.user_id not in people or edge.identifier not in things:
            continue
        a, b = people[edge.user_id], things[edge.identifier]
        towards = 1 if b.x > a.x else -1
        bend = (b.x - a.x) / 2
        seen = (
            f"{edge.user_id} with {edge.identifier} from {_moment(edge.first_seen)} "
            f"to {_moment(edge.last_seen)}"
        )
        yield (
            f'<path class="edge" data-from="user:{_text(edge.user_id)}" '
            f'data-to="{_text(edge.identifier)}" stroke="#8c959f" fill="none" '
            f'stroke-width="{0.8 + 2.2 * weight[edge.identifier]:.1f}" '
            f'd="M{a.x + 11 * towards:g} {a.y:g}C{a.x + bend:g} {a.y:g} {b.x - bend:g} {b.y:g} '
            f'{b.x - 14 * towards:g} {b.y:g}"><title>{_text(seen)}</title></path>'
        )


def _state(member: Member) -> str:
    """In words what is wrong with a member, empty for nothing."""
    facts = member.facts
    words = [f"{facts.frauds} known fraud" + "s" * (facts.frauds > 1)] if facts.frauds else []
    return ", ".join([*words, "blocked"] if facts.blocked_at else words)


def _person(member: Member, at: _Place) -> str:
    facts, right = member.facts, at.x > _MIDDLE
    x, anchor = (at.x + 18, "") if right else (at.x - 18, " end")
    mark = "F" * (facts.frauds > 0) + "B" * (facts.blocked_at > 0)
    if facts.frauds:
        shape = (
            f'<rect class="node fraud" fill="#ffd8d3" x="{at.x - 10:g}" y="{at.y - 10:g}" '
            'width="20" height="20"/>'
        )
    elif facts.blocked_at:
        shape = f'<polygon class="node blocked" fill="#fff1c2" points="{_corners(at, 8, 11.5)}"/>'
    else:
        shape = f'<circle class="node user" fill="#ddf4ff" cx="{at.x:g}" cy="{at.y:g}" r="10"/>'
    did = f"{facts.transactions} payments, {facts.amount:,.2f}"
    state = _state(member)
    told = f"{member.user_id}, member since {_moment(member.joined)}"
    if facts.blocked_at:
        told += f", blocked {_moment(facts.blocked_at)}"
    return (
        f'<g data-node="user:{_text(member.user_id)}">{shape}<title>{_text(told)}</title>'
        + (f'<text class="mark" x="{at.x:g}" y="{at.y + 4:g}">{mark}</text>' if mark else "")
        + f'<text class="name{anchor}" x="{x:g}" y="{at.y - 1:g}">'
        f"{_text(_cut(member.user_id, _LABEL_CHARACTERS))}</text>"
        f'<text class="soft{anchor}" x="{x:g}" y="{at.y + 13:g}">'
        f"{_text(_cut(f'{did}; {state}' if state else did, _DETAIL_CHARACTERS))}</text></g>"
    )


_CORNERS: Final[dict[Kind, int]] = {"device": 4, "ip": 6, "card": 4, "email": 3}


def _thing(item: Evidence, at: _Place) -> str:
    if item.kind == "card":
        shape = (
            f'<rect class="node thing" fill="#eaeef2" x="{at.x - 14:g}" y="{at.y - 9:g}" '
            f'width="28" height="18" rx="3"/><path class="edge" stroke="#8c959f" '
            f'd="M{at.x - 14:g} {at.y - 3:g}h28"/>'
        )
    else:
        corners = _corners(at, _CORNERS[item.kind], 12.0)
        shape = f'<polygon class="node thing" fill="#eaeef2" points="{corners}"/>'
    told = (
        f"{item.kind} {item.value}: {item.members} members of {item.users} users, "
        f"weight {item.weight:.2f}"
    )
    return (
        f'<g data-node="{_text(_name(item))}">{shape}<title>{_text(told)}</title>'
        f'<text class="centre" x="{at.x:g}" y="{at.y - 13:g}">'
        f"{_text(_cut(f'{item.kind} {item.value}', _LABEL_CHARACTERS))}</text>"
        f'<text class="soft centre" x="{at.x:g}" y="{at.y + 21:g}">'
        f"{item.members} of {item.users} users</text></g>"
    )


def _corners(at: _Place, count: int, radius: float) -> str:
    turns = [2 * math.pi * (i + 0.5) / count - math.pi / 2 for i in range(count)]
    return " ".join(
        f"{at.x + radius * math.cos(t):.1f},{at.y + radius * math.sin(t):.1f}" for t in turns
    )


def _name(item: Evidence) -> str:
    return f"{item.kind}:{item.value}"


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 3] + "..."


def _text(text: str) -> str:
    """Text as it may stand in an SVG document, whatever somebody called himself or his device."""
    return escape(_UNWRITABLE.sub("\ufffd", text), {'"': "&quot;"})
