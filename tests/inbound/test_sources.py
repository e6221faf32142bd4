"""``fields``: the app's own API can carry a claim anywhere."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from flask import Flask
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

import byline
from byline import asgi, wsgi
from tests.support import Door, Sent, accepted, both_doors, claim

CHAT = {"conversation": {"id": "c-1", "n": 7, "none": None}, "labels": ["a", "b"], "extra": {"k": 1}, "text": "x"}

#: name: fields, request, accepted attribution, dropped claims
SOURCES: dict[str, tuple[dict[str, Any], Sent, dict[str, Any], list[str]]] = {
    "body": ({"session_id": "body:conversation.id"}, claim(CHAT), {"session_id": "c-1"}, []),
    "number in the body": ({"session_id": "body:conversation.n"}, claim(CHAT), {"session_id": "7"}, []),
    "null in the body": ({"session_id": "body:conversation.none"}, claim(CHAT), {}, []),
    "nothing there": ({"session_id": "body:a.b.c"}, claim(CHAT), {}, []),
    "through a text": ({"session_id": "body:text.id"}, claim(CHAT), {}, []),
    "object where an id should be": (
        {"session_id": "body:conversation"},
        claim(CHAT),
        {},
        ["session_id: not text"],
    ),
    "tags and metadata in the body": (
        {"tags": "body:labels", "metadata": "body:extra"},
        claim(CHAT),
        {"tags": ("a", "b"), "metadata": {"k": 1}},
        [],
    ),
    "below what cannot be decoded": (
        {"session_id": "body:conversation.id"},
        Sent(b'{"conversation": {"id": "\xff"}}'),
        {},
        ["session_id: not text"],
    ),
    "header": ({"user_id": "header:X-User"}, claim(headers=[("x-USER", "u")]), {"user_id": "u"}, []),
    "underscored header": ({"user_id": "header:X_User"}, claim(headers=[("X_User", "u")]), {"user_id": "u"}, []),
    "two headers": (
        {"user_id": "header:X-User"},
        claim(headers=[("x-user", "u"), ("x-user", "v")]),
        {},
        ["user_id: repeated"],
    ),
    "tags in a header": ({"tags": "header:x-tags"}, claim(headers=[("x-tags", "a, b")]), {"tags": ("a", "b")}, []),
    "tags in a header as JSON": (
        {"tags": "header:x-tags"},
        claim(headers=[("x-tags", '["a", "b,c"]')]),
        {"tags": ("a", "b,c")},
        [],
    ),
    "metadata in a header": (
        {"metadata": "header:x-meta"},
        claim(headers=[("x-meta", '{"k": 1, "l": [2]}')]),
        {"metadata": {"k": 1, "l": "[2]"}},
        [],
    ),
    "metadata that is none": (
        {"metadata": "header:x-meta"},
        claim(headers=[("x-meta", "nothing")]),
        {},
        ["metadata: not an object"],
    ),
    "query": ({"session_id": "query:thread"}, claim(query="x=1&thread=q%20r"), {"session_id": "q r"}, []),
    "query bytes that are no text": (
        {"session_id": "query:thread"},
        claim(query="thread=%ff"),
        {},
        ["session_id: not printable"],
    ),
    "cookie": (
        {"session_id": "cookie:sid"},
        claim(headers=[("cookie", 'a=1; sid="c-1"; b=2')]),
        {"session_id": "c-1"},
        [],
    ),
    "no cookie": ({"session_id": "cookie:sid"}, claim(), {}, []),
    "path template": (
        {"session_id": "path:/chat/{session_id}/messages"},
        claim(path="/chat/c-1/messages"),
        {"session_id": "c-1"},
        [],
    ),
    "path template with a star": (
        {"session_id": "path:/*/chat/{id}"},
        claim(path="/v1/chat/c 1/"),
        {"session_id": "c 1"},
        [],
    ),
    "another path": ({"session_id": "path:/chat/{id}/messages"}, claim(path="/chat/c-1/other"), {}, []),
    "a deeper path": ({"session_id": "path:/chat/{id}"}, claim(path="/chat/c-1/messages"), {}, []),
    "the first place that has it": (
        {"session_id": ["header:x-thread", "query:thread", "body:conversation.id"]},
        claim(CHAT, query="thread=q"),
        {"session_id": "q"},
        [],
    ),
    "the next place where one is bad": (
        {"session_id": ["query:thread", "body:conversation.id"]},
        claim(CHAT, query=f"thread={'q' * 300}"),
        {"session_id": "c-1"},
        ["session_id: too long"],
    ),
}


@both_doors
@pytest.mark.parametrize("case", SOURCES)
def test_fields_are_read(door: Door, case: str) -> None:
    fields, sent, known, rejected = SOURCES[case]
    heard = accepted(door, sent, fields=fields)
    assert heard.known() == known
    assert sorted(heard.rejected) == sorted(rejected)


ID = uuid.UUID("6f9619ff-8b86-d011-b42d-00cf4fc964ff")


def test_a_parameter_of_starlettes_router() -> None:
    """The router runs further inside, in mounts too, and turns parameters into other types."""

    def chat(request: Request) -> Response:
        return JSONResponse([byline.current().session_id, byline.current().user_id])

    route = Route("/chat/{chat_id:uuid}", chat)
    app = Starlette(routes=[Mount("/users/{user_id:int}", routes=[route])])
    app.add_middleware(asgi.AttributionMiddleware, fields={"session_id": "path:chat_id", "user_id": "path:user_id"})
    assert TestClient(app).get(f"/users/7/chat/{ID}").json() == [str(ID), "7"]


def test_a_parameter_that_is_asked_for_before_the_router_has_matched() -> None:
    """Late values are read late: an early question does not fix the answer."""
    early = []

    def chat(request: Request) -> Response:
        return JSONResponse([byline.current().session_id])

    starlette = Starlette(routes=[Route("/chat/{chat_id}", chat)])

    async def asks(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            early.append(byline.current().session_id)
        await starlette(scope, receive, send)

    app = asgi.AttributionMiddleware(asks, fields={"session_id": "path:chat_id"})
    assert TestClient(app).get("/chat/c-1", headers={"x-session-id": "header"}).json() == ["c-1"]
    assert early == ["header"]


def test_a_parameter_of_flasks_router() -> None:
    app = Flask("app")

    @app.post("/users/<int:user_id>/chat/<uuid:chat_id>")
    def chat(user_id: int, chat_id: uuid.UUID) -> list[str | None]:
        return [byline.current().session_id, byline.current().user_id]

    fields = {"session_id": "path:chat_id", "user_id": "path:user_id"}
    app.wsgi_app = wsgi.AttributionMiddleware(app.wsgi_app, fields=fields)  # type: ignore[method-assign]
    assert app.test_client().post(f"/users/7/chat/{ID}").json == [str(ID), "7"]


def test_a_parameter_of_a_wsgi_router() -> None:
    """The environ key that WSGI routers share."""
    heard = accepted("wsgi", claim(), {"wsgiorg.routing_args": ((), {"id": "r-1"})}, fields={"session_id": "path:id"})
    assert heard.attribution.session_id == "r-1"


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no kind": ({"fields": {"session_id": "conversation.id"}}, "byline.E012", "body:a.b"),
    "unknown kind": ({"fields": {"session_id": "form:x"}}, "byline.E012", "cookie:name"),
    "no name": ({"fields": {"session_id": "body: "}}, "byline.E012", "body:a.b"),
    "no text": ({"fields": {"session_id": 5}}, "byline.E012", "body:a.b"),
    "one of several": ({"fields": {"session_id": ["body:a", "b"]}}, "byline.E012", "body:a.b"),
    "template without braces": ({"fields": {"session_id": "path:/chat/id"}}, "byline.E012", "{session_id}"),
    "template with two": ({"fields": {"session_id": "path:/{a}/{b}"}}, "byline.E012", "{session_id}"),
    "unknown field": ({"fields": {"sesion_id": "body:x"}}, "byline.E013", "session_id"),
    "fields as a list": ({"fields": ["session_id"]}, "byline.E013", "body:conversation.id"),
    "unknown trust group": ({"trust": {"sessions"}}, "byline.E011", "session, trace, user"),
    "trust as text": ({"trust": "session"}, "byline.E011", "a set of"),
    "public as text": ({"public": "yes"}, "byline.E110", "True or False"),
    "trust as a number": ({"trust": 1}, "byline.E011", "an empty set"),
    "negative body limit": ({"body_limit": -1}, "byline.E014", "0 to read no bodies"),
    "body limit as text": ({"body_limit": "1MB"}, "byline.E014", "number of bytes"),
    "body limit as a switch": ({"body_limit": True}, "byline.E014", "number of bytes"),
    "identity as text": ({"identity": "user"}, "byline.E015", "plain function"),
    "app span as text": ({"app_span": "on"}, "byline.E016", '"auto", True or False'),
}


async def _asynchronous(_: Any) -> bool:
    return True


class _AsynchronousCall:
    async def __call__(self, _: Any) -> bool:
        return True


WRONG |= {
    "coroutine function as identity": ({"identity": _asynchronous}, "byline.E015", "not a coroutine function"),
    "asynchronous object as identity": ({"identity": _AsynchronousCall()}, "byline.E015", "not a coroutine function"),
    "coroutine function as trust": ({"trust": _asynchronous}, "byline.E011", "plain function"),
}


@both_doors
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_fails_at_construction(door: Door, case: str) -> None:
    """With a stable id, the problem and the advice."""
    settings, identifier, advice = WRONG[case]
    make: Any = asgi.AttributionMiddleware if door == "asgi" else wsgi.AttributionMiddleware
    with pytest.raises(byline.SettingError) as caught:
        make(lambda *request: None, **settings)
    assert caught.value.id == identifier
    assert advice in caught.value.advice
    assert str(caught.value) == f"{identifier}: {caught.value.problem}. To fix this, {caught.value.advice}."


def test_a_body_limit_of_zero_reads_no_bodies() -> None:
    sent = claim({"session_id": "s"}, headers=[("trace", "w")])
    for door in ("asgi", "wsgi"):
        heard = accepted(door, sent, body_limit=0)
        assert heard.known() == {"trace_id": "w"}
        assert heard.rejected == []
