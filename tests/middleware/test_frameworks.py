"""The same two classes serve every framework that speaks ASGI or WSGI."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import anyio
import django
import falcon
import httpx2
import litestar
import pytest
import quart
from aiohttp import web
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.test import override_settings
from django.urls import path
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from byline import asgi, wsgi
from byline.settings import SettingError

Finished = Callable[[], Sequence[ReadableSpan]]

tracer = trace.get_tracer("tests.frameworks")
BODY = {"session_id": "s-1", "user": "ada"}


def call_model() -> None:
    tracer.start_span("chat gpt-4o", attributes={"gen_ai.operation.name": "chat"}).end()


def django_chat(request: HttpRequest, conversation: str) -> JsonResponse:
    json.loads(request.body)
    call_model()
    return JsonResponse({"conversation": conversation})


def django_stream(request: HttpRequest) -> StreamingHttpResponse:
    def steps() -> Iterator[bytes]:
        yield b"a"
        call_model()
        yield b"b"

    return StreamingHttpResponse(steps())


urlpatterns = [path("chat/<str:conversation>", django_chat), path("stream", django_stream)]


@pytest.fixture(scope="module", autouse=True)
def django_settings() -> Iterator[None]:
    # Django can be configured once in a process; another module may have done it.
    if not settings.configured:
        settings.configure(SECRET_KEY="tests", ALLOWED_HOSTS=["*"])
        django.setup()
    with override_settings(ROOT_URLCONF=__name__):
        yield


def send_wsgi(app: Any, method: str, url: str, **request: Any) -> httpx2.Response:
    with httpx2.Client(transport=httpx2.WSGITransport(app), base_url="http://app") as client:
        return client.request(method, url, **request)


def send_asgi(app: Any, method: str, url: str, **request: Any) -> httpx2.Response:
    async def send() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://app") as client:
            return await client.request(method, url, **request)

    return anyio.run(send)


def check(spans: Sequence[ReadableSpan], **expected: str) -> None:
    """One LLM span and one server span, both with the byline."""
    assert sorted(span.kind.name for span in spans) == ["INTERNAL", "SERVER"]
    for span in spans:
        assert {key: (span.attributes or {}).get(key) for key in expected} == expected
    llm, server = sorted(spans, key=lambda span: span.kind is SpanKind.SERVER)
    assert llm.parent is not None
    assert llm.parent == server.context


def test_django_wsgi_reads_the_body_and_the_path(finished: Finished) -> None:
    """The template form of ``path:`` needs no router's help."""
    app = wsgi.AttributionMiddleware(get_wsgi_application(), fields={"session_id": "path:/chat/{session_id}"})
    assert send_wsgi(app, "POST", "/chat/abc", json=BODY).json() == {"conversation": "abc"}
    check(finished(), **{"session.id": "abc", "user.id": "ada"})


def test_django_wsgi_streams(finished: Finished) -> None:
    """A model called while the body streams is signed like any other."""
    app = wsgi.AttributionMiddleware(get_wsgi_application())
    assert send_wsgi(app, "GET", "/stream", headers={"x-session-id": "s-2"}).text == "ab"
    check(finished(), **{"session.id": "s-2"})


def test_django_asgi_keeps_the_byline_in_sync_views(finished: Finished) -> None:
    """Django runs a sync view in a thread of its own."""
    app = asgi.AttributionMiddleware(get_asgi_application())
    assert send_asgi(app, "POST", "/chat/abc", json=BODY).json() == {"conversation": "abc"}
    check(finished(), **{"session.id": "s-1", "user.id": "ada"})


def test_litestar_inside_and_outside(finished: Finished) -> None:
    """As one of its middlewares, and around the whole app."""

    @litestar.post("/chat")
    async def chat(request: litestar.Request[Any, Any, Any]) -> Any:
        body = await request.json()
        call_model()
        return body

    # Litestar spells ASGI's types in its own way.
    door: Any = asgi.AttributionMiddleware
    inside = litestar.Litestar([chat], middleware=[door])
    outside = door(litestar.Litestar([chat]))
    seen = 0
    for app in (inside, outside):
        assert send_asgi(app, "POST", "/chat", json=BODY).json() == BODY
        check(finished()[seen:], **{"session.id": "s-1", "user.id": "ada"})
        seen = len(finished())


def test_quart(finished: Finished) -> None:
    """Quart's inner app is wrapped as Flask's is."""
    app: Any = quart.Quart("chat")

    @app.post("/chat")
    async def chat() -> Any:
        # Quart reads the body in a task beside this one: it is there only once it has been asked for.
        found = await quart.request.get_json()
        call_model()
        return found

    app.asgi_app = asgi.AttributionMiddleware(app.asgi_app)
    assert send_asgi(app, "POST", "/chat", json=BODY).json() == BODY
    check(finished(), **{"session.id": "s-1", "user.id": "ada"})


def test_falcon(finished: Finished) -> None:
    """Falcon reads its media from the teed input."""

    class Chat:
        def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
            response.media = request.get_media()
            call_model()

    app = falcon.App()
    app.add_route("/chat", Chat())
    assert send_wsgi(wsgi.AttributionMiddleware(app), "POST", "/chat", json=BODY).json() == BODY
    check(finished(), **{"session.id": "s-1", "user.id": "ada"})


@pytest.mark.parametrize("middleware", [asgi.AttributionMiddleware, wsgi.AttributionMiddleware])
def test_an_app_of_neither_protocol_is_an_error(middleware: Callable[[Any], Any]) -> None:
    """aiohttp.web answers by its own server only."""
    with pytest.raises(SettingError, match=r"byline\.E161: .* an app of aiohttp\.web, which is neither ASGI nor WSGI"):
        middleware(web.Application())
