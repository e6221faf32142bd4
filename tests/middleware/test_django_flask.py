"""Django's and Flask's own ways: ``settings.MIDDLEWARE`` and an extension, with the logged-in user."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import django
import flask
import pytest
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import override_settings
from django.urls import path
from django.utils.functional import SimpleLazyObject
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

import byline
from byline import asgi, request_context, wsgi
from byline.flask import Byline
from tests.support import Sent, run_asgi, run_wsgi

Finished = Callable[[], Sequence[ReadableSpan]]

tracer = trace.get_tracer("tests.django")
MIDDLEWARE = "byline.django.AttributionMiddleware"
SENT = Sent(b'{"user": "mallory", "conversation": {"id": "c-1"}}', headers=[("x-session-id", "s-1")], path="/chat")


class User:
    is_authenticated = True
    pk = 7

    def get_id(self) -> str:
        return "7"


def login(get_response: Any) -> Any:
    """As Django's authentication does: the user is loaded when somebody asks."""

    def middleware(request: HttpRequest) -> Any:
        if "x-anonymous" not in request.headers:
            request.user = SimpleLazyObject(User)
        return get_response(request)

    return middleware


def call_model() -> None:
    tracer.start_span("chat m", attributes={"gen_ai.operation.name": "chat"}).end()


SEEN: list[str | None] = []


def chat(request: HttpRequest) -> HttpResponse:
    assert request.body
    SEEN[:] = [request.headers.get("traceparent")]
    call_model()
    return HttpResponse("ok")


def fail(request: HttpRequest) -> HttpResponse:
    call_model()
    raise ValueError


def stream(request: HttpRequest) -> StreamingHttpResponse:
    assert request.body

    def chunks() -> Iterator[bytes]:
        yield b"a"
        call_model()
        yield b"b"

    return StreamingHttpResponse(chunks())


async def async_chat(request: HttpRequest) -> HttpResponse:
    assert request.body
    await asyncio.sleep(0)
    call_model()
    return HttpResponse("ok")


async def async_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.sleep(0)
        call_model()
        yield b"b"

    return StreamingHttpResponse(chunks())


urlpatterns = [
    path("chat", chat),
    path("fail", fail),
    path("stream", stream),
    path("async/chat", async_chat),
    path("async/stream", async_stream),
]


@pytest.fixture(autouse=True)
def django_settings() -> Iterator[None]:
    if not settings.configured:
        settings.configure(SECRET_KEY="tests", ALLOWED_HOSTS=["*"])
        django.setup()
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[MIDDLEWARE, f"{__name__}.login"]):
        yield


def run(protocol: str, sent: Sent) -> Any:
    result: Any = asyncio.run(run_asgi(ASGIHandler(), sent)) if protocol == "asgi" else run_wsgi(WSGIHandler(), sent)
    assert request_context.attached() is None
    return result


def llm_and_server(finished: Finished) -> tuple[dict[str, Any], ReadableSpan]:
    (llm,) = (span for span in finished() if span.name == "chat m")
    (server,) = (span for span in finished() if span.kind is SpanKind.SERVER)
    assert llm.parent is not None
    assert server.context is not None
    assert llm.parent.span_id == server.context.span_id
    return dict(llm.attributes or {}), server


@pytest.mark.parametrize(
    ("protocol", "where"), [("wsgi", "/chat"), ("wsgi", "/stream"), ("asgi", "/chat"), ("asgi", "/stream")]
)
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume synchronous iterators:Warning")
def test_the_logged_in_user_is_the_user(protocol: str, where: str, finished: Finished) -> None:
    sent = Sent(SENT.body, headers=SENT.headers, path=where)
    run(protocol, sent)
    attributes, server = llm_and_server(finished)
    assert (attributes["session.id"], attributes["user.id"]) == ("s-1", "7")
    assert (server.attributes or {})["user.id"] == "7"
    assert (server.attributes or {})["http.status_code"] == 200


@pytest.mark.parametrize("where", ["/async/chat", "/async/stream"])
def test_async_views(where: str, finished: Finished) -> None:
    """There a user that is not loaded yet is unknown, and claimed users are ignored."""
    run("asgi", Sent(SENT.body, headers=SENT.headers, path=where))
    attributes, _ = llm_and_server(finished)
    assert attributes["session.id"] == "s-1"
    assert "user.id" not in attributes


def test_an_anonymous_request_has_no_user(finished: Finished) -> None:
    run("wsgi", Sent(SENT.body, headers=[*SENT.headers, ("x-anonymous", "1")], path="/chat"))
    assert "user.id" not in llm_and_server(finished)[0]


def test_an_error_ends_the_request(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    run("wsgi", Sent(SENT.body, headers=SENT.headers, path="/fail"))
    attributes, server = llm_and_server(finished)
    assert attributes["session.id"] == "s-1"
    assert (server.attributes or {})["http.status_code"] == 500


@pytest.mark.parametrize("protocol", ["asgi", "wsgi"])
@pytest.mark.parametrize("options", [{"public": True}, {"trust": {"session"}}, {}])
@pytest.mark.parametrize("flags", ["01", "00"])
def test_a_public_endpoint_joins_no_trace_of_a_stranger(
    protocol: str, options: dict[str, Any], flags: str, finished: Finished
) -> None:
    """And an unsampled traceparent hides nothing. The view reads the headers as they were sent."""
    stranger = "11112222333344445555666677778888"
    parent = f"00-{stranger}-aaaaaaaaaaaaaaaa-{flags}"
    with override_settings(BYLINE=options):
        run(protocol, Sent(SENT.body, headers=[*SENT.headers, ("traceparent", parent)], path="/chat"))
    joins = not options
    if joins and flags == "00":
        assert not finished()
        return
    _, server = llm_and_server(finished)
    assert server.context is not None
    assert (f"{server.context.trace_id:032x}" == stranger) is joins
    assert (server.parent is not None) is joins
    links = [f"{link.context.trace_id:032x}" for link in server.links]
    assert links == ([] if joins else [stranger])
    assert SEEN.pop() == parent


def test_arguments_are_in_the_settings(finished: Finished) -> None:
    with override_settings(BYLINE={"fields": {"session_id": "body:conversation.id"}, "identity": None}):
        run("wsgi", SENT)
    attributes, _ = llm_and_server(finished)
    assert (attributes["session.id"], attributes["user.id"]) == ("c-1", "mallory")


def test_a_wrong_argument_is_an_error_at_start() -> None:
    with override_settings(BYLINE={"trust": {"nothing"}}), pytest.raises(byline.SettingError, match=r"byline\.E011"):
        WSGIHandler()


def test_the_environment_sets_what_the_settings_leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYLINE_AFTER_RESPONSE", "-1")
    with pytest.raises(byline.SettingError, match=r"byline\.E010"):
        WSGIHandler()


@pytest.mark.parametrize(
    ("handler", "name"), [(WSGIHandler, "byline.wsgi"), (ASGIHandler, "byline.asgi"), (WSGIHandler, "byline.asgi")]
)
def test_the_other_classes_in_the_settings_are_an_error(handler: Any, name: str) -> None:
    with (
        override_settings(MIDDLEWARE=[f"{name}.AttributionMiddleware"]),
        pytest.raises(byline.SettingError, match=r'byline\.E141: .* put "byline\.django\.AttributionMiddleware"'),
    ):
        handler()


@pytest.mark.parametrize("protocol", ["asgi", "wsgi"])
def test_within_another_middleware_nothing_is_doubled(protocol: str, finished: Finished) -> None:
    if protocol == "asgi":
        asyncio.run(run_asgi(asgi.AttributionMiddleware(ASGIHandler()), SENT))
    else:
        run_wsgi(wsgi.AttributionMiddleware(WSGIHandler()), SENT)
    llm_and_server(finished)


# Flask


def make_flask(**settings: Any) -> flask.Flask:
    app = flask.Flask(__name__)

    @app.post("/chat")
    def chat() -> str:
        assert flask.request.get_data()
        call_model()
        return "ok"

    @app.post("/stream")
    def stream() -> flask.Response:
        def chunks() -> Iterator[bytes]:
            yield b"a"
            call_model()

        flask.g.tenant = "acme"
        return flask.Response(chunks())

    Byline(app, **settings)
    return app


class LoginManager:
    """What Flask-Login does when somebody asks for its user."""

    def _load_user(self) -> None:
        flask.g._login_user = User()


def with_login(app: flask.Flask) -> None:
    app.login_manager = LoginManager()  # type: ignore[attr-defined]


@pytest.mark.parametrize("where", ["/chat", "/stream"])
def test_the_user_of_flask_login(where: str, finished: Finished) -> None:
    extension = Byline()
    app = make_flask_without(where)
    with_login(app)
    extension.init_app(app)
    run_wsgi(app, Sent(SENT.body, headers=SENT.headers, path=where))
    attributes, _ = llm_and_server(finished)
    assert (attributes["session.id"], attributes["user.id"]) == ("s-1", "7")


def make_flask_without(where: str) -> flask.Flask:
    app = make_flask()
    app.wsgi_app = app.wsgi_app.app  # type: ignore[attr-defined, method-assign]
    return app


def test_an_identity_from_g_is_known_in_a_stream(finished: Finished) -> None:
    app = make_flask(identity=lambda: {"organization_id": flask.g.get("tenant")})
    run_wsgi(app, Sent(SENT.body, headers=SENT.headers, path="/stream"))
    attributes, _ = llm_and_server(finished)
    assert attributes["byline.organization.id"] == "acme"
    assert "user.id" not in attributes


def test_without_a_login_claimed_users_count(finished: Finished) -> None:
    run_wsgi(make_flask(), SENT)
    assert llm_and_server(finished)[0]["user.id"] == "mallory"
