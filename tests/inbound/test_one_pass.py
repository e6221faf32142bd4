"""Claims of usual requests are read in one pass, with the results of the `ClaimReader`."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from byline.asgi import _inspect_headers
from byline.attribution import Attribution
from byline.inbound.body import BodyBuffer
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
    fields = read_in_one_pass(raw, in_one_pass, complete=complete)
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
    fields = read_in_one_pass(raw, buffer, complete=True)
    assert fields is not None
    assert Attribution(**fields) == CLAIMED
    # A second thread of the request that asks at the same time gets the same claims, although the body is released.
    assert buffer is not None
    assert not buffer.chunks
    assert read_in_one_pass(raw, buffer, complete=True) == fields


def test_a_body_that_is_not_usual_is_left_to_the_reader() -> None:
    scope = _scope([], b"application/json")
    body = _asgi_body(scope, b'{"user": 42}')
    assert read_in_one_pass(scope, body, complete=True) is None
    assert _READER.read(request_of(scope), scope, body).attribution == Attribution(user_id="42")


@pytest.mark.parametrize("value", [b"identity", b"gzip"])
def test_a_body_with_an_encoding_is_left_to_the_reader(value: bytes) -> None:
    scope = _scope([(b"content-encoding", value)], b"application/json")
    assert read_in_one_pass(scope, _asgi_body(scope, b'{"user": "u"}'), complete=True) is None
