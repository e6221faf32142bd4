"""The name of a trace that nobody names: method and route, in each framework."""

from __future__ import annotations

from typing import Any

import falcon
import falcon.asgi
import litestar
import pytest
from flask import Blueprint, Flask
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from werkzeug.test import Client

import byline.asgi
import byline.wsgi
from byline.inbound.request import AsgiRequest, WsgiRequest, path_template
from byline.request_context import current_context


def name() -> str:
    context = current_context()
    assert context is not None
    return context.route_name()


async def view(_request: Any) -> PlainTextResponse:
    return PlainTextResponse(name())


def asked(app: Any, path: str) -> str:
    answer = TestClient(byline.asgi.AttributionMiddleware(app)).post(path, json={})
    assert answer.status_code in (200, 201)
    return answer.text


@pytest.mark.newest  # the oldest Starlette does not put the route into the scope
@pytest.mark.parametrize(
    ("routes", "path", "expected"),
    [
        ([Route("/chat/{id}", view, methods=["POST"])], "/chat/7", "POST /chat/{id}"),
        ([Mount("/api", routes=[Route("/chat/{id}", view, methods=["POST"])])], "/api/chat/7", "POST /api/chat/{id}"),
        (
            [Mount("/of/{tenant}", routes=[Route("/chat", view, methods=["POST"])])],
            "/of/t-17/chat",
            "POST /of/{tenant}/chat",
        ),
        (
            [Mount("/of/{tenant}", routes=[Mount("/of", routes=[Route("/{chat}", view, methods=["POST"])])])],
            "/of/acme/of/of",
            "POST /of/{tenant}/of/{chat}",
        ),
        ([Route("/", view, methods=["POST"])], "/", "POST /"),
    ],
)
def test_starlette(routes: list[Any], path: str, expected: str) -> None:
    """Mounts count, without the values of their parameters."""
    assert asked(Starlette(routes=routes), path) == expected


@pytest.mark.filterwarnings("ignore:.*inferred style")
def test_litestar() -> None:
    """The template is in the scope."""

    @litestar.post("/api/chat/{chat_id:int}", media_type=litestar.MediaType.TEXT)
    async def chat(chat_id: int) -> str:
        return name()

    assert asked(litestar.Litestar([chat]), "/api/chat/7") == "POST /api/chat/{chat_id}"


def test_flask() -> None:
    """Blueprints count."""
    app, blueprint = Flask("example"), Blueprint("api", "api", url_prefix="/api")
    blueprint.post("/chat/<int:chat_id>")(lambda chat_id: name())
    app.register_blueprint(blueprint)
    answer = Client(byline.wsgi.AttributionMiddleware(app)).post("/api/chat/7")
    assert answer.text == "POST /api/chat/<int:chat_id>"


class Chat:
    """A resource of Falcon's, which tells its template to nobody."""

    def on_post(self, req: Any, resp: Any, **_given: Any) -> None:
        resp.text = name()


class AsyncChat:
    """The same of an async app."""

    async def on_post(self, req: Any, resp: Any, **_given: Any) -> None:
        resp.text = name()


def test_a_framework_that_tells_no_route() -> None:
    """Segments of the path that look like ids are replaced."""
    app = falcon.App()
    app.add_route("/v1/users/{user}/chat/{chat}", Chat())
    answer = Client(byline.wsgi.AttributionMiddleware(app)).post("/v1/users/u-1/chat/0190b8b6")
    assert answer.text == "POST /v1/users/{id}/chat/{id}"
    async_app = falcon.asgi.App()
    async_app.add_route("/v1/chat/{chat}", AsyncChat())
    assert asked(async_app, "/v1/chat/7") == "POST /v1/chat/{id}"


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        # As the instrumentations of Falcon, Django and Litestar state it.
        ("/v1/chat/{chat}", "POST /v1/chat/{chat}"),
        ("chat/<int:id>", "POST /chat/<int:id>"),
        ("^chat/(?P<id>[0-9]+)$", "POST ^chat/(?P<id>[0-9]+)$"),
        ("POST /v1/chat/7", "POST /v1/chat/{id}"),
        (7, "POST /v1/chat/{id}"),
    ],
)
def test_the_route_on_the_server_span(stated: Any, expected: str) -> None:
    """An instrumentation of the framework may know what the framework does not tell."""
    app = falcon.App()
    app.add_route("/v1/chat/{chat}", Chat())
    wrapped = byline.wsgi.AttributionMiddleware(app)
    attributes = {"http.route": stated, "http.request.method": "POST"}
    with trace.get_tracer("app").start_as_current_span("POST", kind=SpanKind.SERVER, attributes=attributes):
        assert Client(wrapped).post("/v1/chat/7").text == expected


def test_django() -> None:
    """Byline's own middleware of Django knows the route that Django has resolved."""

    class Match:
        route = "chat/<int:id>"

    class DjangoRequest:
        resolver_match = Match()

    raw: dict[str, Any] = {"byline.django_request": DjangoRequest(), "path": "/chat/7"}
    assert AsgiRequest(raw).route() == "/chat/<int:id>"
    assert WsgiRequest(raw).route() == "/chat/<int:id>"
    DjangoRequest.resolver_match = None  # type: ignore[assignment]
    assert WsgiRequest(raw).route() is None


def test_bottle() -> None:
    """The rule is in the environ."""

    class Rule:
        rule = "/chat/<id:int>"

    assert WsgiRequest({"bottle.route": Rule()}).route() == "/chat/<id:int>"


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/chat", "/chat"),
        ("/api/v1.2/chat-completions/", "/api/v1.2/chat-completions/"),
        ("/chat/0190b8b6-1f1e-7c3a-9d52-2f1b3a4c5d6e", "/chat/{id}"),
        ("/users/ada@example.com", "/users/{id}"),
        ("/users/J\u00fcrgen", "/users/{id}"),
        (f"/share/{'x' * 41}", "/share/{id}"),
        ("/a" * 9, ""),
        ("", ""),
    ],
)
def test_a_path_without_its_ids(path: str, template: str) -> None:
    """What looks like an id is not part of a name."""
    assert path_template(path) == template


def test_a_path_that_is_no_name() -> None:
    """The method alone is left."""

    def answer(req: Any, resp: Any, **_given: Any) -> None:
        resp.text = name()

    app = falcon.App()
    app.add_sink(answer)
    assert Client(byline.wsgi.AttributionMiddleware(app)).post("/a" * 9).text == "POST"
