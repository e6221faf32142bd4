"""Sources of claims and their precedence; every row holds for ASGI and WSGI."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import byline
from byline import asgi
from tests.support import Door, Sent, accepted, both_doors, claim, run_asgi

TRACE_JSON = '{"trace_id": "w-1", "trace_name": "Pipeline", "k": 1}'

#: name: request, accepted attribution, dropped claims
CLAIMS: dict[str, tuple[Sent, dict[str, Any], list[str]]] = {
    "nothing": (Sent(), {}, []),
    "session header": (Sent(headers=[("x-session-id", "s")]), {"session_id": "s"}, []),
    "header of any case": (Sent(headers=[("X-SESSION-Id", "s")]), {"session_id": "s"}, []),
    "underscored header": (Sent(headers=[("x_session_id", "s")]), {"session_id": "s"}, []),
    "header on GET": (Sent(method="GET", headers=[("x-session-id", "s")], content_type=None), {"session_id": "s"}, []),
    "utf-8 header": (Sent(headers=[("x-session-id", "sitzung-ä-日")]), {"session_id": "sitzung-ä-日"}, []),
    "latin-1 header": (Sent(headers=[("x-session-id", b"sitzung-\xe4")]), {"session_id": "sitzung-ä"}, []),
    "trace header as JSON": (
        Sent(headers=[("trace", TRACE_JSON)]),
        {"trace_id": "w-1", "trace_name": "Pipeline", "metadata": {"k": 1}},
        [],
    ),
    "trace header as pairs": (
        Sent(headers=[("trace", 'trace_id=w-1, trace_name="My Pipeline", span_name=A%20B;k=v')]),
        {"trace_id": "w-1", "trace_name": "My Pipeline", "span_name": "A B", "metadata": {"k": "v"}},
        [],
    ),
    "trace header as bare id": (Sent(headers=[("trace", "w-1")]), {"trace_id": "w-1"}, []),
    "trace header as base64 id": (Sent(headers=[("trace", "dGVzdA==")]), {"trace_id": "dGVzdA=="}, []),
    "trace header as URL": (Sent(headers=[("trace", "urn:x?a=b")]), {"trace_id": "urn:x?a=b"}, []),
    "trace header over two lines": (
        Sent(headers=[("trace", "trace_id=w-1"), ("Trace", "trace_name=P")]),
        {"trace_id": "w-1", "trace_name": "P"},
        [],
    ),
    "the first of equal keys of pairs wins": (
        Sent(headers=[("trace", "trace_id=w-1"), ("trace", "trace_id=w-2")]),
        {"trace_id": "w-1"},
        [],
    ),
    "broken trace header": (Sent(headers=[("trace", '{"trace_id": ')]), {}, ["trace: not an object"]),
    "two trace ids": (Sent(headers=[("trace", "w-1"), ("trace", "w-2")]), {}, ["trace_id: repeated"]),
    "the same trace id twice": (Sent(headers=[("trace", "w-1"), ("trace", "w-1")]), {"trace_id": "w-1"}, []),
    "two sessions": (
        Sent(headers=[("x-session-id", "s"), ("X-Session-Id", "t")]),
        {},
        ["session_id: repeated"],
    ),
    "the same session twice": (
        Sent(headers=[("x-session-id", "s"), ("X-Session-Id", "s")]),
        {"session_id": "s"},
        [],
    ),
    "two sessions in headers, one in the body": (
        claim({"session_id": "b"}, headers=[("x-session-id", "s"), ("x-session-id", "t")]),
        {"session_id": "b"},
        ["session_id: repeated"],
    ),
    "blank header": (Sent(headers=[("x-session-id", "  ")]), {}, []),
    "body": (
        claim({"session_id": "s", "user": "u", "unknown": 1, "messages": []}),
        {"session_id": "s", "user_id": "u"},
        [],
    ),
    "end_user": (claim({"end_user": "u"}), {"user_id": "u"}, []),
    "user before end_user": (claim({"end_user": "e", "user": "u"}), {"user_id": "u"}, []),
    "end_user where user is blank": (claim({"end_user": "e", "user": ""}), {"user_id": "e"}, []),
    "end_user where user is bad": (claim({"end_user": "e", "user": {}}), {"user_id": "e"}, ["user_id: not text"]),
    "numbers as ids": (claim({"session_id": 7, "user": 0}), {"session_id": "7", "user_id": "0"}, []),
    "trace object": (
        claim(
            {
                "trace": {
                    "trace_id": "w",
                    "trace_name": "T",
                    "span_name": "S",
                    "generation_name": "G",
                    "parent_span_id": "p",
                    "environment": "Production",
                    "release": "r1",
                    "version": "v1",
                    "feature": "x",
                    "nested": {"a": [1]},
                    "gone": None,
                }
            }
        ),
        {
            "trace_id": "w",
            "trace_name": "T",
            "span_name": "S",
            "generation_name": "G",
            "parent_span_id": "p",
            "environment": "production",
            "release": "r1",
            "version": "v1",
            "metadata": {"feature": "x", "nested": '{"a":[1]}'},
        },
        [],
    ),
    "trace as text": (claim({"trace": "w-1"}), {"trace_id": "w-1"}, []),
    "LiteLLM metadata": (
        claim(
            {
                "metadata": {
                    "session_id": "s",
                    "trace_id": "w",
                    "trace_name": "T",
                    "trace_user_id": "u",
                    "generation_name": "G",
                    "generation_id": "g",
                    "debug_langfuse": "dropped silently",
                    "parent_observation_id": "p",
                    "trace_environment": "staging",
                    "trace_release": "r",
                    "trace_version": "v",
                    "tags": ["a", "b", "a"],
                    "trace_metadata": {"k": "v"},
                    "team": "blue",
                    "mask_input": True,
                }
            }
        ),
        {
            "session_id": "s",
            "trace_id": "w",
            "trace_name": "T",
            "user_id": "u",
            "generation_name": "G",
            "parent_span_id": "p",
            "environment": "staging",
            "release": "r",
            "version": "v",
            "tags": ("a", "b"),
            "metadata": {"k": "v", "generation_id": "g", "team": "blue"},
        },
        ["metadata.mask_input: not trusted"],
    ),
    "tags as text": (claim({"metadata": {"tags": "a, b"}}), {"tags": ("a", "b")}, []),
    "body's own session before its metadata's": (
        claim({"metadata": {"session_id": "m"}, "session_id": "s"}),
        {"session_id": "s"},
        [],
    ),
    "trace object before metadata": (
        claim({"metadata": {"trace_id": "m", "k": 2, "l": 2}, "trace": {"trace_id": "t", "k": 1}}),
        {"trace_id": "t", "metadata": {"k": 1, "l": 2}},
        [],
    ),
    "headers before body": (
        claim(
            {"session_id": "b", "trace": {"trace_id": "b", "span_name": "S"}},
            headers=[("x-session-id", "h"), ("trace", "h")],
        ),
        {"session_id": "h", "trace_id": "h", "span_name": "S"},
        [],
    ),
    "body before baggage": (
        claim({"session_id": "b"}, headers=[("baggage", "session.id=g,user.id=g")]),
        {"session_id": "b", "user_id": "g"},
        [],
    ),
    "baggage": (
        Sent(headers=[("baggage", "session.id=s%201;p=1, user.id = u ,x=x,langfuse_trace_name=T,langfuse_tags=a%2Cb")]),
        {"session_id": "s 1", "user_id": "u", "trace_name": "T", "tags": ("a", "b")},
        [],
    ),
    "baggage over two lines": (
        Sent(headers=[("baggage", "session.id=s"), ("baggage", "user.id=u")]),
        {"session_id": "s", "user_id": "u"},
        [],
    ),
    "baggage's first of two": (Sent(headers=[("baggage", "session.id=s,session.id=t")]), {"session_id": "s"}, []),
    "baggage without values": (Sent(headers=[("baggage", "session.id,=,;,user.id=")]), {}, []),
    "baggage too long, cut between its members": (
        Sent(headers=[("baggage", f"user.id=u,x={'y' * 8160},session.id=sessionsession")]),
        {"user_id": "u"},
        ["baggage: too long"],
    ),
    "tags and metadata of all layers are joined": (
        claim(
            {"trace": {"tags": ["t"], "k": "trace"}, "metadata": {"tags": ["m"], "k": "m", "m": 1}},
            headers=[("trace", '{"tags": ["h"], "h": 1}'), ("baggage", "langfuse_tags=b")],
        ),
        {"tags": ("h", "t", "m", "b"), "metadata": {"h": 1, "k": "trace", "m": 1}},
        [],
    ),
    "a query is no claim of a plain request": (Sent(query="session_id=q"), {}, []),
    "a form is no JSON": (Sent(b"session_id=x", content_type="application/x-www-form-urlencoded"), {}, []),
    "JSON by another name": (
        claim({"session_id": "s"}, content_type="application/vnd.api+json; charset=utf-8"),
        {"session_id": "s"},
        [],
    ),
    "content type in capitals": (claim({"session_id": "s"}, content_type="Application/JSON"), {"session_id": "s"}, []),
    "lines of JSON are no object": (Sent(b'{"user":"u"}\n{"user":"v"}', content_type="application/x-ndjson"), {}, []),
    "a list is no object": (Sent(b'[{"session_id":"s"}]'), {}, []),
    "an empty body": (Sent(b""), {}, []),
}  # fmt: skip


@both_doors
@pytest.mark.parametrize("case", CLAIMS)
def test_claims_are_read(door: Door, case: str) -> None:
    sent, known, rejected = CLAIMS[case]
    heard = accepted(door, sent)
    assert heard.known() == known
    assert sorted(heard.rejected) == sorted(rejected)


@both_doors
def test_the_order_of_all_sources(door: Door) -> None:
    """bind, then identity, then the app's fields, then headers, then the body, then baggage."""
    sent = claim(
        {"session_id": "body", "thread": "fields"},
        headers=[("x-session-id", "header"), ("baggage", "session.id=baggage")],
    )
    settings: dict[str, Any] = {
        "fields": {"session_id": "body:thread"},
        "identity": lambda _: {"session_id": "identity"},
    }
    assert accepted(door, sent, **settings).attribution.session_id == "identity"
    assert accepted(door, sent, fields=settings["fields"]).attribution.session_id == "fields"
    assert accepted(door, sent).attribution.session_id == "header"


async def _bound(**app_fields: Any) -> list[byline.Attribution]:
    heard = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        byline.bind(**app_fields)
        heard.append(byline.current())

    door = asgi.AttributionMiddleware(app, identity=lambda _: {"session_id": "identity", "tags": ["i"]})
    run = await run_asgi(door, Sent(headers=[("x-session-id", "header"), ("trace", "trace_id=w,k=1,l=1")]))
    assert run.error is None
    return heard


def test_bind_wins_over_identity() -> None:
    (heard,) = asyncio.run(_bound(session_id="bound", tags=["b"], metadata={"k": 2}))
    assert (heard.session_id, heard.trace_id) == ("bound", "w")
    assert heard.tags == ("b", "i")
    assert heard.metadata == {"k": 2, "l": "1"}


WEBSOCKETS: dict[str, tuple[Sent, dict[str, Any], list[str]]] = {
    "query": (Sent(query="session_id=s&user=u%20v", type="websocket"), {"session_id": "s", "user_id": "u v"}, []),
    "first of two": (Sent(query="session_id=s&session_id=t", type="websocket"), {"session_id": "s"}, []),
    "trace object": (Sent(query="trace=%7B%22trace_id%22%3A%22w%22%7D", type="websocket"), {"trace_id": "w"}, []),
    "trace id": (Sent(query="trace=w", type="websocket"), {"trace_id": "w"}, []),
    "headers first": (
        Sent(query="session_id=q&user=q", headers=[("x-session-id", "h")], type="websocket"),
        {"session_id": "h", "user_id": "q"},
        [],
    ),
    "query before baggage": (
        Sent(query="session_id=q", headers=[("baggage", "session.id=g")], type="websocket"),
        {"session_id": "q"},
        [],
    ),
    "bytes that are no text": (Sent(query="session_id=%ff", type="websocket"), {}, ["session_id: not printable"]),
    "newline": (Sent(query="session_id=a%0Ab", type="websocket"), {}, ["session_id: not printable"]),
}


@pytest.mark.parametrize("case", WEBSOCKETS)
def test_a_websocket_may_claim_in_its_query(case: str) -> None:
    """A browser can set no headers on a websocket's handshake."""
    sent, known, rejected = WEBSOCKETS[case]
    heard = accepted("asgi", sent)
    assert heard.known() == known
    assert sorted(heard.rejected) == sorted(rejected)


def test_a_dash_goes_before_an_underscore() -> None:
    """If the server distinguishes them, because proxies strip and set the spelling with dashes."""
    heard = accepted("asgi", Sent(headers=[("x_session_id", "forged"), ("x-session-id", "s")]))
    assert heard.attribution.session_id == "s"
