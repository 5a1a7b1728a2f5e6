"""The graph against networkx and a dictionary, whatever was added, dropped, and ran out."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.rings.graph import MAX_LINKS, Graph
from dafu.rings.identifiers import DAY_MS, WINDOW_MS
from dafu.rings.names import Names
from dafu.rings.records import Facts

LEVELS = (0.1, 0.5, 0.9)
operations = st.lists(
    st.tuples(
        st.sampled_from(("put",) * 6 + ("drop", "sweep")),
        st.integers(0, 11),  # user
        st.integers(0, 9),  # identifier
        st.sampled_from((0.05, 0.3, 0.6, 1.0)),
        st.sampled_from((0, 0, 1, DAY_MS, 10 * DAY_MS, WINDOW_MS)),
        st.integers(0, 3).map(lambda days: days * DAY_MS),
    ),
    max_size=80,
)


def put(graph: Graph, user: str, thing: str, weight: float, last: int, clock: int) -> None:
    until = last + WINDOW_MS
    u = graph.put_user(user, Facts(last, 0), last, until, clock)
    i = graph.put_identifier(thing, 2, weight, clock, clock + WINDOW_MS, clock)
    graph.put_link(u, i, last, last, clock)


def names_in(graph: Graph, user: str, level: float, clock: int, most: int) -> set[str]:
    found = graph.component(graph.user_names.find(user), level, clock, most)
    names = [graph.user_names.texts[row] for row in found.users.tolist()]
    assert len(set(names)) == len(names)
    assert found.complete == (len(names) <= most)
    return set(names)


def links_in(graph: Graph, user: str, level: float, clock: int) -> set[tuple[str, str]]:
    found = graph.component(graph.user_names.find(user), level, clock, 100)
    links = graph.links[found.links]
    return {
        (graph.user_names.texts[u], graph.identifier_names.texts[i])
        for u, i in zip(links["user"].tolist(), links["identifier"].tolist(), strict=True)
    }


@settings(max_examples=200, deadline=None)
@given(operations)
def test_components_are_those_of_the_links_that_hold(described: list[tuple[Any, ...]]) -> None:
    graph, clock = Graph(), 10**12
    links: dict[tuple[str, str], int] = {}
    # As of one time the lower weight holds; the links alone do not make an identifier forgotten.
    weights: dict[str, tuple[int, float]] = {}
    for what, user, thing, weight, step, late in described:
        u, i = f"u{user}", f"i{thing}"
        clock += step
        if what == "put":
            last = clock - late
            put(graph, u, i, weight, last, clock)
            if i in weights and weights[i][0] == clock:
                weight = min(weight, weights[i][1])
            weights[i] = (clock, weight)
            held = links.get((u, i), 0)
            links[u, i] = max(last, held) if held + WINDOW_MS > clock else last
        elif what == "drop" and (u, i) in links:
            rows = graph.user_names.find(u), graph.identifier_names.find(i)
            row = graph.find_link(*rows) if min(rows) >= 0 else -1  # a sweep may have taken them
            if row >= 0:
                graph.drop_link(row)
            del links[u, i]
        elif what == "sweep":
            graph.sweep(clock, 7)
        for level in LEVELS:
            holds = [
                (a, b)
                for (a, b), last in links.items()
                if last + WINDOW_MS > clock and weights[b][1] >= level
            ]
            oracle = nx.Graph(holds)
            for name in {a for a, _ in holds}:
                whole = nx.node_connected_component(oracle, name)
                users = {n for n in whole if n.startswith("u")}
                assert names_in(graph, name, level, clock, 20) == users
                assert links_in(graph, name, level, clock) == {
                    link for link in holds if link[0] in users
                }
                most = len(users) - 1
                if most:
                    assert names_in(graph, name, level, clock, most) <= users


@settings(max_examples=100, deadline=None)
@given(operations)
def test_in_the_end_everything_is_freed(described: list[tuple[Any, ...]]) -> None:
    graph, clock = Graph(), 10**12
    for what, user, thing, weight, step, late in described:
        clock += step
        if what == "put":
            put(graph, f"u{user}", f"i{thing}", weight, clock - late, clock)
    clock += 2 * WINDOW_MS
    for _ in range(100):
        graph.sweep(clock, 5)
    assert len(graph) == len(graph.user_names) == len(graph.identifier_names) == 0


def test_a_user_who_ran_out_is_a_stranger_again() -> None:
    graph, clock = Graph(), 10**12
    graph.put_user("u", Facts(clock, 5, 9, 9.0, 1, clock), clock, clock + 10, clock)
    assert graph.user("u", clock + 9) == 0
    assert graph.user("u", clock + 10) == -1
    row = graph.put_user("u", Facts(1, 7), 3, clock + 99, clock + 10)
    assert graph.facts(row) == Facts(1, 7)
    assert graph.users["tied"][row] == 3


def test_what_is_told_of_an_identifier_as_of_later_holds() -> None:
    graph = Graph()
    row = graph.put_identifier("i", 3, 0.5, 100, 1000, 50)
    for users, weight, as_of in ((9, 1.0, 99), (2, 0.5, 100), (3, 0.9, 100)):
        graph.put_identifier("i", users, weight, as_of, 900, 50)
        told = graph.identifiers[row].item()
        assert told[:4] == (100, 0.5, 1000, 3)
    graph.put_identifier("i", 4, 0.0, 100, 1000, 50)
    assert graph.identifiers["weight"][row] == 0.0


def test_beyond_the_limit_the_link_used_the_longest_ago_is_to_go() -> None:
    graph, clock = Graph(), 10**12
    for k in range(MAX_LINKS + 1):
        assert not graph.user_names.texts or graph.excess(0) == -1
        put(graph, "u", f"i{k:03}", 1.0, clock - (k == 7) - (k == 9), clock)
    row = graph.excess(0)
    assert graph.identifier_names.texts[graph.links["identifier"][row]] == "i007"


def test_many_links_cost_few_bytes_in_arrays() -> None:
    graph, clock = Graph(), 10**12
    rng = np.random.default_rng(0)
    for user, thing in rng.integers(0, 10_000, (20_000, 2)).tolist():
        put(graph, f"u{user}", f"i{thing}", 1.0, clock, clock)
    assert graph.nbytes / len(graph) < 200


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=100))
def test_names_are_a_dictionary(described: list[tuple[bool, int]]) -> None:
    names, oracle = Names(), dict[str, int]()
    for add, number in described:
        text = f"n{number}"
        assert names.find(text) == oracle.get(text, -1)
        if add and text not in oracle:
            oracle[text] = names.add(text)
        elif not add and text in oracle:
            names.drop(oracle.pop(text))
        assert len(names) == len(oracle)
        assert {names.texts[row] for row in oracle.values()} == oracle.keys()
