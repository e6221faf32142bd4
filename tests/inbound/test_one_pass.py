"""Claims of usual requests are read in one pass, with the results of the `ClaimReader`."""

from __future__ import annotations

import io
import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byline.asgi import _inspect_headers
from byline.attribution import Attribution
from byline.inbound.body import BodyBuffer, leave_out_long_texts
from byline.inbound.claim_names import BODY_CLAIMS, HEADER_CLAIMS, TRACE_KEYS
from byline.inbound.one_pass import read_in_one_pass
from byline.inbound.reader import ClaimReader
from byline.inbound.request import request_of
from byline.inbound.wsgi_input import tee_wsgi_input

_READER = ClaimReader()
_LIMIT = 1 << 20

Headers = list[tuple[bytes, bytes]]

_TEXTS = st.one_of(
    st.sampled_from(["s-1", "", " ", " a b ", "a,b", "x" * 200, "y" * 201, "ü", "\u200c", "a\nb", "none", "\ud800"]),
    st.text(max_size=8),
)
_VALUES = st.one_of(_TEXTS, st.none(), st.integers(), st.booleans(), st.floats(), st.lists(_TEXTS, max_size=2))
_KEYS = st.one_of(
    st.sampled_from(
        [*TRACE_KEYS, "mask_input", "langfuse_user_id", "prompt_name", "caller_x", "k", "k" * 64, "k" * 65]
    ),
    st.text(max_size=5),
)
_OBJECTS = st.dictionaries(_KEYS, _VALUES, max_size=6)
_MEMBERS = st.dictionaries(
    st.sampled_from([*BODY_CLAIMS, *4 * ["session_id", "user", "end_user", "trace"], "messages", "model", "input"]),
    st.one_of(_TEXTS, _VALUES, _OBJECTS, _OBJECTS),
    max_size=5,
)
_BODIES = st.one_of(
    _MEMBERS.map(lambda members: json.dumps(members).encode()),
    _MEMBERS.map(lambda members: json.dumps(members, ensure_ascii=False, indent=1).encode(errors="surrogatepass")),
    st.sampled_from(
        [b"", b"[]", b"{", b'"x"', b'\xef\xbb\xbf{"user": "u"}', b'{"user": "a", "user": "b"}', b'{"user":NaN}']
    ),
)
_HEADER_NAMES = st.sampled_from(
    [*(name.encode() for name in HEADER_CLAIMS), *8 * [b"x-session-id"], b"X-Session-Id", b"x_session_id", b"baggage"]
)
_HEADER_VALUES = st.one_of(
    _TEXTS.map(lambda text: text.encode(errors="surrogatepass")),
    st.sampled_from([b"\xe4", b"user.id=u", b'{"trace_id": "t"}', b"byline=x"]),
)
_HEADERS = st.lists(st.tuples(_HEADER_NAMES, _HEADER_VALUES), max_size=3)
_TYPES = st.sampled_from([b"application/json", b"application/json; charset=utf-8", b"text/plain", None])


def _scope(headers: Headers, content_type: bytes | None) -> dict[str, Any]:
    types = [] if content_type is None else [(b"content-type", content_type)]
    return {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [*headers, *types]}


def _asgi_body(scope: dict[str, Any], body: bytes | None) -> BodyBuffer | None:
    if body is None:
        return None
    buffer = BodyBuffer(_LIMIT, None, _inspect_headers, scope)
    buffer.append(body, last=True)
    return buffer


def _environ(headers: Headers, content_type: bytes | None, body: bytes) -> tuple[dict[str, Any], BodyBuffer | None]:
    environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "wsgi.input": io.BytesIO(body)}
    if content_type is not None:
        environ["CONTENT_TYPE"] = content_type.decode()
    for name, value in headers:
        environ[f"HTTP_{name.decode().upper().replace('-', '_')}"] = value.decode("latin-1")
    buffer = tee_wsgi_input(environ, _LIMIT)
    environ["wsgi.input"].read()
    return environ, buffer


def _assert_equal(raw: dict[str, Any], in_one_pass: BodyBuffer | None, in_full: BodyBuffer | None) -> None:
    complete = in_one_pass is None or in_one_pass.is_complete()
    fields = read_in_one_pass(raw, in_one_pass if complete else None)
    if fields is not None:
        claims = _READER.read(request_of(raw), raw, in_full)
        assert (Attribution(**fields), []) == (claims.attribution, claims.rejected)
        assert all(fields.values())


@given(_HEADERS, _TYPES, st.one_of(st.none(), _BODIES))
def test_asgi_requests_have_equal_claims(headers: Headers, content_type: bytes | None, body: bytes | None) -> None:
    scope = _scope(headers, content_type)
    _assert_equal(scope, _asgi_body(scope, body), _asgi_body(scope, body))


@given(_HEADERS, _TYPES, _BODIES)
def test_wsgi_requests_have_equal_claims(headers: Headers, content_type: bytes | None, body: bytes) -> None:
    environ, one = _environ(headers, content_type, body)
    _, other = _environ(headers, content_type, body)
    _assert_equal(environ, one, other)


_UNITS = st.sampled_from(
    ["x", "lorem ", "\\", "\\\\ ", '"', 'a"', "\n", "ü", "\u2028", "{", "},", "1,", "[", "/", "\ud800", "😀", '\\"']
)
_LONG_TEXTS = st.lists(st.tuples(_UNITS, st.integers(1, 9000)), max_size=4).map(
    lambda parts: "".join(unit * times for unit, times in parts)[:40_000]
)
_LONG_VALUES: st.SearchStrategy[Any] = st.one_of(
    _LONG_TEXTS,
    st.integers(2000, 9000).map(lambda length: [1.5] * length),
    st.integers(2000, 9000).map(lambda length: [[]] * length),
    st.tuples(_LONG_TEXTS, _LONG_TEXTS).map(list),
)
_LONG_MEMBERS = st.dictionaries(
    st.one_of(st.sampled_from(["messages", "input", "session_id", "user", "trace", "metadata"]), _LONG_TEXTS),
    st.one_of(_LONG_VALUES, st.dictionaries(st.one_of(_KEYS, _LONG_TEXTS), _LONG_TEXTS, max_size=2), _TEXTS),
    max_size=4,
)


@given(_LONG_MEMBERS, st.booleans(), st.lists(st.integers(0, 200_000), max_size=3))
@settings(max_examples=100)
def test_long_bodies_have_equal_claims(members: dict[str, Any], ascii_only: bool, cuts: list[int]) -> None:
    data = json.dumps(members, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    scope = _scope([(b"x-session-id", b"s-1")], b"application/json")
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    in_one_pass = BodyBuffer(_LIMIT, None, _inspect_headers, scope)
    for begin, end in itertools.pairwise(places):
        in_one_pass.append(data[begin:end], last=False)
    in_one_pass.append(b"", last=True)
    _assert_equal(scope, in_one_pass, _asgi_body(scope, data))


@pytest.mark.parametrize("size", [20_000, 1_000_000])
@pytest.mark.parametrize("chunk", [65_536, 1_000_000, 999])
def test_a_prompt_is_not_decoded_for_claims(size: int, chunk: int) -> None:
    content = ('Zwölf "Boxkämpfer"\n' + "lorem ipsum dolor " * (size // 150)) * 8
    data = json.dumps({**BODY, "messages": [{"role": "user", "content": content}]}).encode()
    scope = _scope([(b"content-length", b"%d" % len(data))], b"application/json")
    body = BodyBuffer(4 * _LIMIT, None, _inspect_headers, scope)
    for place in range(0, len(data), chunk):
        body.append(data[place : place + chunk], last=False)
    body.append(b"", last=True)
    if chunk > 999:
        assert len(leave_out_long_texts(body.chunks)) < 40_000
    fields = read_in_one_pass(scope, body)
    if chunk == 999 and size == 1_000_000:
        # Nothing is left out of chunks that are no longer than a short text.
        assert fields is None
        fields = dict(_READER.read(request_of(scope), scope, body).attribution)
    assert fields is not None
    assert Attribution(**fields) == Attribution(**{**dict(CLAIMED), "session_id": "s-body"})


@pytest.mark.parametrize("claim", ["session_id", "user"])
def test_a_claim_that_is_too_long_is_named_although_it_is_left_out(claim: str) -> None:
    data = json.dumps({claim: "x" * 20_000, "model": "m"}).encode()
    scope = _scope([], b"application/json")
    body = _asgi_body(scope, data)
    assert read_in_one_pass(scope, body) is None
    claims = _READER.read(request_of(scope), scope, body)
    assert claims.attribution == Attribution()
    assert [reason.partition(": ")[2] for reason in claims.rejected] == ["too long"]


def test_numbers_are_no_long_text() -> None:
    data = json.dumps({"input": [0.25] * 5000, "user": "u"}).encode()
    assert b"xxx" in leave_out_long_texts([data])
    scope = _scope([], b"application/json")
    body = _asgi_body(scope, data)
    assert read_in_one_pass(scope, body) is None
    assert _READER.read(request_of(scope), scope, body).attribution == Attribution(user_id="u")


def test_a_request_with_many_headers_is_read_in_one_pass() -> None:
    headers = [(b"x-filler-%d" % number, b"1") for number in range(80)]
    scope = _scope([*headers, (b"x-session-id", b"s-1")], b"application/json")
    fields = read_in_one_pass(scope, _asgi_body(scope, b'{"user": "u"}'))
    assert fields == {"session_id": "s-1", "user_id": "u"}


BODY = {
    "model": "m",
    "messages": [{"role": "user", "content": "hello"}],
    "message": "hello",
    "session_id": "s-body",
    "user": "u",
    "trace": {"trace_id": "t", "trace_name": " My Pipeline", "pipeline": "x"},
}
CLAIMED = Attribution(session_id="s-1", user_id="u", trace_id="t", trace_name="My Pipeline", metadata={"pipeline": "x"})


@pytest.mark.parametrize("protocol", ["asgi", "wsgi"])
def test_a_usual_request_is_read_in_one_pass(protocol: str) -> None:
    headers, body = [(b"x-session-id", b"s-1"), (b"accept", b"*/*")], json.dumps(BODY).encode()
    raw = _scope(headers, b"application/json")
    buffer = _asgi_body(raw, body)
    if protocol == "wsgi":
        raw, buffer = _environ(headers, b"application/json", body)
    fields = read_in_one_pass(raw, buffer)
    assert fields is not None
    assert Attribution(**fields) == CLAIMED
    # A second thread of the request that asks at the same time gets the same claims, although the body is released.
    assert buffer is not None
    assert not buffer.chunks
    assert read_in_one_pass(raw, buffer) == fields


def test_a_body_that_is_not_usual_is_left_to_the_reader() -> None:
    scope = _scope([], b"application/json")
    body = _asgi_body(scope, b'{"user": 42}')
    assert read_in_one_pass(scope, body) is None
    assert _READER.read(request_of(scope), scope, body).attribution == Attribution(user_id="42")


@pytest.mark.parametrize("value", [b"identity", b"gzip"])
def test_a_body_with_an_encoding_is_left_to_the_reader(value: bytes) -> None:
    scope = _scope([(b"content-encoding", value)], b"application/json")
    assert read_in_one_pass(scope, _asgi_body(scope, b'{"user": "u"}')) is None
