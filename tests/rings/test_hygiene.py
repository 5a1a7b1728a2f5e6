"""What names something that users can share: known cases, and properties of all texts."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dafu.rings.hygiene import REFUSALS, clean, judge
from dafu.rings.records import KINDS, MAX_VALUE_BYTES, Kind

TEXTS = st.one_of(
    st.text(max_size=200),
    st.text(st.characters(codec=None), max_size=20),
    st.ip_addresses().map(str),
    st.emails(),
    st.integers(1, 60).map(lambda n: f"{'ab' * n}@{'cd' * n}.test"),
    st.from_regex(r"[0-9a-fA-F:-]{1,40}", fullmatch=True),
    st.from_regex(r"[0-9 -]{1,30}", fullmatch=True),
)


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        ("device", None, "empty"),
        ("device", "  ", "empty"),
        ("device", "unknown", "placeholder"),
        ("device", "N/A", "placeholder"),
        ("device", "[object Object]", "placeholder"),
        ("device", "00000000-0000-0000-0000-000000000000", "placeholder"),
        ("device", "FFFFFFFFFFFFFFFF", "placeholder"),
        ("device", "0", "placeholder"),
        ("device", "---", "placeholder"),
        ("device", "9774D56D682E549C", "placeholder"),
        ("device", "02:00:00:00:00:00", "placeholder"),
        ("device", "fp\x0012", "unprintable"),
        ("device", "fp\n12", "unprintable"),
        ("device", "\ud800", "unprintable"),
        ("ip", "0.0.0.0", "unspecified"),
        ("ip", "::", "unspecified"),
        ("ip", "127.0.0.53", "unspecified"),
        ("ip", "::1", "unspecified"),
        ("ip", "::ffff:127.0.0.1", "unspecified"),
        ("ip", "169.254.1.1", "unspecified"),
        ("ip", "fe80::1%eth0", "unspecified"),
        ("ip", "224.0.0.1", "unspecified"),
        ("ip", "255.255.255.255", "unspecified"),
        ("ip", "localhost", "malformed"),
        ("ip", "10.1.2.3/8", "malformed"),
        ("ip", "unknown", "placeholder"),
        ("card", "****1111", "masked"),
        ("card", "4111 11xx xxxx 1111", "masked"),
        ("card", "0000000000000000", "placeholder"),
        ("email", "none", "placeholder"),
        ("email", "no-reply@shop.test", "placeholder"),
        ("email", "jane", "malformed"),
        ("email", "@shop.test", "malformed"),
        ("email", "...@gmail.com", "malformed"),
    ],
)
def test_what_names_nothing_is_refused_with_a_reason(
    kind: Kind, text: str | None, why: str
) -> None:
    assert judge(kind, text) == (None, why)
    assert clean(kind, text) is None


@pytest.mark.parametrize(
    ("kind", "spellings", "normal"),
    [
        ("device", ("AB12-CD34", " ab12-cd34 "), "ab12-cd34"),
        ("device", ("Fp_Twelve",), "Fp_Twelve"),
        ("device", ("f", "x1"), None),
        ("device", ("caf\u00e9-1", "cafe\u0301-1"), "caf\u00e9-1"),
        ("ip", ("10.1.2.3", " 10.1.2.3", "::ffff:10.1.2.3", "::FFFF:0a01:0203"), "10.1.2.3"),
        ("ip", ("100.64.0.9",), "100.64.0.9"),
        ("ip", ("2001:db8:0:1::", "[2001:DB8:0:1:9:8:7:6]"), "2001:db8:0:1::/64"),
        ("card", ("4111 1111 1111 1112", "4111-1111-1111-1112"), "4111111111111112"),
        ("card", ("Card-9",), "Card-9"),
        ("email", ("Jane@Shop.test", "jane+a@shop.test", "jane+b@shop.test."), "jane@shop.test"),
        ("email", ("j.a.n.e@googlemail.com", "jane+1@gmail.com"), "jane@gmail.com"),
    ],
)
def test_spellings_of_one_thing_are_one(
    kind: Kind, spellings: tuple[str, ...], normal: str | None
) -> None:
    for text in spellings:
        assert clean(kind, text) == (normal or text)


@given(kind=st.sampled_from(KINDS), text=st.none() | TEXTS)
def test_any_text_is_refused_or_becomes_a_short_one_that_stays(
    kind: Kind, text: str | None
) -> None:
    value, why = judge(kind, text)
    if value is None:
        assert why in REFUSALS
        return
    assert why is None
    assert 0 < len(value.encode()) <= MAX_VALUE_BYTES
    assert value.isprintable()
    assert judge(kind, value) == (value, None)


def test_long_texts_are_told_apart_by_their_hash() -> None:
    first, second = clean("device", "a" * 999 + "b"), clean("device", "a" * 999 + "c")
    assert first is not None and first.startswith("blake2b:")
    assert first != second


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="no identifier of kind 'phone'"):
        judge("phone", "1")


def test_what_was_seen_lately_is_remembered() -> None:
    texts = [f"fp_{i:x}" for i in range(1000)]
    for text in texts:
        clean("device", text)
    before = judge.cache_info()
    for text in texts:
        clean("device", text)
    after = judge.cache_info()
    assert (after.hits - before.hits, after.misses - before.misses) == (1000, 0)


@given(st.ip_addresses(v=4))
def test_ipv4_addresses_are_judged_as_the_standard_library_knows_them(
    address: ipaddress.IPv4Address,
) -> None:
    nowhere = (
        address.is_unspecified
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or int(address) < 1 << 24
    )
    assert (clean("ip", str(address)) is None) == nowhere
    assert clean("ip", str(address)) in (None, str(address))
    assert clean("ip", f"::ffff:{address}") == clean("ip", str(address))
