"""The splice: added members are there, all other bytes are unchanged."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byline.gateways.json_splice import insert_into_member, insert_members, top_level_members

BLANKS = st.sampled_from(["", " ", "\n", "\t ", " \r\n  "])


def _units(name: str) -> list[int]:
    raw = name.encode("utf-16-be")
    return [int.from_bytes(raw[index : index + 2], "big") for index in range(0, len(raw), 2)]


def spell(name: str, how: int) -> str:
    """Spell a name as JSON: plain, in ASCII, or with nothing but escapes."""
    if how == 0:
        return json.dumps(name, ensure_ascii=False)
    if how == 1:
        return json.dumps(name)
    return '"' + "".join(f"\\u{unit:04x}" for unit in _units(name)) + '"'


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(['{"user":1}', '"user":', "}", "{", "\\", '","trace":{', "metadata"]),
)


@st.composite
def texts(draw: Any, depth: int = 0) -> str:
    """JSON of any value, with blanks wherever they may stand."""
    kind = draw(st.integers(0, 3 if depth < 3 else 1))
    if kind <= 1:
        return json.dumps(draw(SCALARS), ensure_ascii=draw(st.booleans()))
    if kind == 2:
        items = draw(st.lists(texts(depth=depth + 1), max_size=3))
        blank = draw(BLANKS)
        return f"[{blank}" + f"{blank},{blank}".join(items) + f"{blank}]"
    return str(draw(objects(depth=depth + 1)))


@st.composite
def objects(draw: Any, depth: int = 0) -> str:
    """JSON of an object; names may stand there twice, and in any spelling."""
    pairs = draw(
        st.lists(
            st.tuples(
                st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
                | st.sampled_from(["user", "trace", "metadata"]),
                st.integers(0, 2),
                texts(depth=depth + 1),
            ),
            max_size=5,
        )
    )
    blank, other = draw(BLANKS), draw(BLANKS)
    members = [f"{spell(name, how)}{blank}:{other}{text}" for name, how, text in pairs]
    return f"{{{other}" + f"{blank},{other}".join(members) + f"{blank}}}"


ADDED = st.dictionaries(
    st.sampled_from(["user", "trace", "metadata", "session_id"]),
    st.one_of(SCALARS, st.dictionaries(st.sampled_from(["user_id", "k", "ü"]), SCALARS, max_size=2)),
    max_size=3,
)


def cut_out(before: bytes, after: bytes) -> bytes:
    """Remove the one run of bytes by which ``after`` is longer; fail if there is another difference."""
    start = 0
    while start < len(before) and before[start] == after[start]:
        start += 1
    grown = len(after) - len(before)
    assert grown > 0
    assert after[:start] + after[start + grown :] == before
    return after[start : start + grown]


@settings(deadline=None)
@given(objects(), ADDED, BLANKS, BLANKS)
def test_everything_that_was_not_added_stays_byte_for_byte(
    text: str, added: dict[str, Any], before: str, after: str
) -> None:
    """New members have their value; existing members keep theirs."""
    body = f"{before}{text}{after}".encode()
    present = json.loads(body)
    result = insert_members(body, added)
    new = {name: value for name, value in added.items() if name not in present}
    if not new:
        assert result is body
        return
    cut_out(body, result)
    # Python's own decoder is the judge: a name that is there twice counts by its last value.
    assert json.loads(result) == {**new, **present}


@settings(deadline=None)
@given(objects(), st.sampled_from(["user", "trace", "metadata"]), ADDED, BLANKS)
def test_everything_around_a_widened_member_stays_byte_for_byte(
    text: str, name: str, added: dict[str, Any], before: str
) -> None:
    """Only the named object grows, only if it is an object, and only by missing members."""
    body = f"{before}{text}".encode()
    present = json.loads(body)
    result = insert_into_member(body, name, added)
    if result == body:
        found = present.get(name)
        if isinstance(found, dict) and added.keys() - found.keys():
            # A name in another spelling is not looked for; the body is left as it is then.
            assert json.dumps(name).encode() not in body or _is_respelt(body, name)
        return
    cut_out(body, result)
    old = present.get(name, {})
    assert json.loads(result) == {**present, name: {**added, **old}}


def _is_respelt(body: bytes, name: str) -> bool:
    return spell(name, 2).encode() in body


@settings(deadline=None)
@given(texts())
def test_body_that_is_not_an_object_is_unchanged(text: str) -> None:
    body = text.encode()
    if not isinstance(json.loads(body), dict):
        assert insert_members(body, {"user": "ada"}) is body
        assert insert_into_member(body, "metadata", {"user_id": "ada"}) is body


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_kept(body: bytes) -> None:
    """All bytes of the body are still there, in their order."""
    result = insert_members(body, {"user": "ada"})
    if result != body:
        assert cut_out(body, result) in (b'"user":"ada",', b'"user":"ada"', b'user":"ada","')


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", b'{"user":"ada"}'),
        (b" {\n} ", b' {"user":"ada"\n} '),
        (b'{"a":1}', b'{"user":"ada","a":1}'),
        (b'{"user":null}', b'{"user":null}'),
        (b'{"\\u0075ser":"bob"}', b'{"\\u0075ser":"bob"}'),
        (b'{"a":1,"a":2}', b'{"user":"ada","a":1,"a":2}'),
        (b'{"a":{"user":1}}', b'{"user":"ada","a":{"user":1}}'),
        (b'{"a":1.0e5,"b":1E+2}', b'{"user":"ada","a":1.0e5,"b":1E+2}'),
        (b'{"a":123456789012345678901234567890}', b'{"user":"ada","a":123456789012345678901234567890}'),
    ],
)
def test_examples(body: bytes, expected: bytes) -> None:
    assert insert_members(body, {"user": "ada"}) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"[]",
        b"1",
        b"null",
        b'"{}"',
        b"{",
        b"{}{}",
        b'{"a":NaN}',
        b"\xef\xbb\xbf{}",
        b"{'a':1}",
        b'{"a":1,}',
    ],
)
def test_bodies_that_json_does_not_allow_come_back_as_they_are(body: bytes) -> None:
    """Also bodies that only Python reads, such as one with a byte order mark: servers may read them differently."""
    assert insert_members(body, {"user": "ada"}) is body
    assert insert_into_member(body, "metadata", {"user_id": "ada"}) is body


def test_deep_nesting_is_no_error() -> None:
    """Deep bodies are spliced if the decoder can read them, and otherwise unchanged."""
    for depth in (100, 100_000):
        body = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
        result = insert_members(body, {"user": "ada"})
        assert result in (body, b'{"user":"ada",' + body[1:])


def test_the_same_text_further_inside_is_not_taken_for_the_member() -> None:
    body = b'{"x":{"metadata":{}},"metadata" : {},"y":[{"metadata":{}}]}'
    assert (
        insert_into_member(body, "metadata", {"user_id": "u"})
        == b'{"x":{"metadata":{}},"metadata" : {"user_id":"u"},"y":[{"metadata":{}}]}'
    )


def test_of_a_repeated_member_the_last_one_counts() -> None:
    body = b'{"metadata":{},"metadata":{}}'
    assert insert_into_member(body, "metadata", {"user_id": "u"}) == b'{"metadata":{},"metadata":{"user_id":"u"}}'


def test_members_that_the_caller_has_read_are_not_read_again() -> None:
    """The body is not searched: the caller names its members."""
    assert (
        insert_members(b"{ no JSON at all }", {"user": "ada"}, {"a": msgspec.Raw(b"1")})
        == b'{"user":"ada", no JSON at all }'
    )
    assert top_level_members(b'{"a":1,"a":2}') == {"a": msgspec.Raw(b"2")}
