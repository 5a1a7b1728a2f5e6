"""Random conditions, well typed by construction, and random rows for them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from dafu.rules.syntax import (
    Arithmetic,
    Boolean,
    Call,
    Compare,
    ListLiteral,
    Logical,
    Membership,
    Negate,
    Node,
    Not,
    Number,
    Reference,
    Text,
)

S = st.SearchStrategy

_VALUES = st.one_of(
    st.sampled_from([0.0, 1.0, 2.0, 5.0, 10.0, 0.5, 1e300]),
    st.floats(0, 1e6, allow_nan=False),
)
_WORDS = st.sampled_from(["", "a", "B", "ab", "Travel", "x y", 'q"\\', "tab\t"])
_OPS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
_EQUALITY = st.sampled_from(["==", "!="])

rows: S[dict[str, Any]] = st.fixed_dictionaries(
    {
        **{
            name: st.one_of(st.none(), _VALUES, _VALUES.map(lambda v: -v))
            for name in (
                "user_count_1h",
                "amount_to_user_mean_30d",
                "km_from_home",
                "seconds_since_last",
                "account_age_days",
            )
        },
        "new_device": st.sampled_from([None, 0.0, 1.0]),
        "is_known": st.sampled_from([None, True, False]),
        "category": st.one_of(st.none(), _WORDS),
        "country": st.one_of(st.none(), _WORDS),
    }
)


def _pairs(op: S[str], a: S[Any], b: S[Any], make: Any) -> S[Any]:
    return st.builds(make, op, a, b)


_plain_number = st.one_of(
    st.builds(Number, _VALUES),
    st.sampled_from(["user_count_1h", "amount_to_user_mean_30d"]).map(Reference),
)
_plain_text = st.one_of(
    st.builds(Text, _WORDS), st.sampled_from(["category", "country"]).map(Reference)
)
_flag = st.sampled_from(["new_device", "is_known"]).map(Reference)
_with_unit = st.one_of(
    st.builds(
        Compare,
        _OPS,
        st.just(Reference("km_from_home")),
        st.builds(Number, _VALUES, st.sampled_from(["km", "m"])),
    ),
    st.builds(
        Compare,
        _OPS,
        st.sampled_from(["seconds_since_last", "account_age_days"]).map(Reference),
        st.builds(Number, st.integers(0, 1000).map(float), st.sampled_from(["s", "min", "h", "d"])),
    ),
)


def _numbers(inner: S[Node], conditions: S[Node]) -> S[Node]:
    def call(name: str, *arguments: S[Any]) -> S[Node]:
        return st.tuples(*arguments).map(lambda a: Call(name, a))

    return st.one_of(
        st.builds(Arithmetic, st.sampled_from(list("+-*/%")), inner, inner),
        inner.map(Negate),
        st.sampled_from(["abs", "round", "sqrt", "log"]).flatmap(lambda f: call(f, inner)),
        st.sampled_from(["min", "max", "coalesce"]).flatmap(lambda f: call(f, inner, inner)),
        call("if_else", conditions, inner, inner),
        call("length", _plain_text),
    )


def _texts(inner: S[Node]) -> S[Node]:
    return st.one_of(
        st.sampled_from(["lower", "upper"]).flatmap(lambda f: inner.map(lambda t: Call(f, (t,)))),
        st.tuples(inner, inner).map(lambda a: Call("coalesce", a)),
    )


_simple = st.one_of(_with_unit, _flag, st.builds(Boolean, st.booleans()))
numbers: S[Node] = st.recursive(_plain_number, lambda i: _numbers(i, _simple), max_leaves=6)
texts: S[Node] = st.recursive(_plain_text, _texts, max_leaves=3)

_atoms: S[Node] = st.one_of(
    _simple,
    st.builds(Compare, _OPS, numbers, numbers),
    st.builds(Compare, _OPS, texts, texts),
    st.builds(Compare, _EQUALITY, _flag, st.builds(Boolean, st.booleans())),
    st.builds(
        Membership,
        numbers,
        st.lists(st.builds(Number, _VALUES), max_size=12).map(lambda i: ListLiteral(tuple(i))),
        st.booleans(),
    ),
    st.builds(
        Membership,
        texts,
        st.lists(st.builds(Text, _WORDS), max_size=4).map(lambda i: ListLiteral(tuple(i))),
        st.booleans(),
    ),
    st.tuples(numbers, numbers, numbers).map(lambda a: Call("between", a)),
    st.one_of(numbers, texts, _flag).map(lambda x: Call("is_missing", (x,))),
    st.tuples(
        st.sampled_from(["starts_with", "ends_with", "contains"]), st.tuples(texts, texts)
    ).map(lambda a: Call(a[0], a[1])),
)
conditions: S[Node] = st.recursive(
    _atoms,
    lambda inner: st.one_of(
        inner.map(Not),
        st.builds(
            Logical,
            st.sampled_from(["and", "or"]),
            st.lists(inner, min_size=2, max_size=3).map(tuple),
        ),
    ),
    max_leaves=6,
)
