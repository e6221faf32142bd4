"""``respond`` and `byline.trace_ids`: the client and the server code learn the ids of session and traces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import django
import flask
import pytest
from django.conf import settings as django_settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path
from opentelemetry.instrumentation import propagators
from opentelemetry.sdk.trace import ReadableSpan
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import byline
from byline import asgi, auto_middleware, wsgi
from byline.attribution import to_trace_id
from byline.export import OTLP, Langfuse
from byline.flask import Byline
from byline.instrument import DestinationTrace, TraceIds
from byline.settings import SettingError
from byline.testing import Receiver
from tests.support import Door, Sent, both_doors, call_model, claim, run_asgi, run_wsgi

Finished = Callable[[], Sequence[ReadableSpan]]
BOTH = {"session", "trace"}
JOINING = ("traceparent", "00-11112222333344445555666677778888-aaaaaaaaaaaaaaaa-01")


def respond(
    door: Door,
    sent: Sent,
    headers: Sequence[tuple[str, str]] = (),
    *,
    reads: bool = True,
    inside: Callable[[], Any] = lambda: None,
    **settings: Any,
) -> list[tuple[str, str]]:
    """Return the response headers of an app that reads the body and sends these headers."""

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        while reads and (await receive()).get("more_body"):
            pass
        inside()
        raw = [(name.encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        await send({"type": "http.response.body", "body": b"ok"})

    def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
        if reads:
            environ["wsgi.input"].read()
        inside()
        start_response("200 OK", list(headers))
        return [b"ok"]

    if door == "asgi":
        run = asyncio.run(run_asgi(asgi.AttributionMiddleware(asgi_app, **settings), sent))
        assert (run.error, run.body) == (None, b"ok")
        return [(name.decode(), value.decode()) for name, value in run.sent[0]["headers"]]
    answer = run_wsgi(wsgi.AttributionMiddleware(wsgi_app, **settings), sent)
    assert (answer.error, answer.body) == (None, b"ok")
    return answer.headers or []


@both_doors
def test_a_response_tells_session_and_traces(door: Door, finished: Finished) -> None:
    sent = claim({"trace": {"trace_id": "workflow_12345"}}, headers=[("x-session-id", "s-1")])
    headers = respond(door, sent, [("Content-Type", "text/plain")], respond=BOTH)
    (span,) = finished()
    context = span.get_span_context()
    assert context is not None
    assert headers == [
        ("Content-Type", "text/plain"),
        ("access-control-expose-headers", "x-session-id, traceresponse, x-trace-id"),
        ("x-session-id", "s-1"),
        ("traceresponse", f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"),
        ("x-trace-id", f"{to_trace_id('workflow_12345'):032x}"),
    ]


@both_doors
def test_nothing_is_added_by_default(door: Door) -> None:
    sent = claim(headers=[("x-session-id", "s-1"), JOINING])
    assert respond(door, sent, [("a", "b")]) == [("a", "b")]
    assert respond(door, sent, [("a", "b")], respond=()) == [("a", "b")]


@both_doors
def test_only_what_is_named_is_added(door: Door) -> None:
    sent = claim(headers=[("x-session-id", "s-1")])
    assert [name for name, _ in respond(door, sent, respond={"session"})] == [
        "access-control-expose-headers",
        "x-session-id",
    ]
    assert [name for name, _ in respond(door, sent, respond=["trace"])] == [
        "access-control-expose-headers",
        "traceresponse",
        "x-trace-id",
    ]


@both_doors
def test_headers_of_the_app_stay_and_the_readable_ones_are_appended(door: Door) -> None:
    sent = claim(headers=[("x-session-id", "s-1")])
    own = [("X-Session-Id", "own"), ("Access-Control-Expose-Headers", "X-Team"), ("traceresponse", "own")]
    headers = respond(door, sent, own, respond=BOTH)
    assert headers[:3] == [own[0], ("Access-Control-Expose-Headers", "X-Team, x-trace-id"), own[2]]
    assert [name for name, _ in headers[3:]] == ["x-trace-id"]
    everything = [*own, ("x-trace-id", "own")]
    assert respond(door, sent, everything, respond=BOTH) == everything


@both_doors
@pytest.mark.parametrize("session", ["söss", "日本"])
def test_a_session_that_no_header_can_carry_is_left_out(door: Door, session: str) -> None:
    assert respond(door, claim({"session_id": session}), respond={"session"}) == []


@both_doors
def test_what_is_not_known_yet_is_left_out(door: Door) -> None:
    sent = claim({"trace": {"trace_id": "w"}}, headers=[("x-session-id", "s-1")])
    headers = respond(door, sent, respond=BOTH, reads=False)
    assert [name for name, _ in headers] == ["access-control-expose-headers", "traceresponse"]


@both_doors
@pytest.mark.parametrize(("value", "is_shared"), [("public, max-age=60", 1), ("S-MaxAge=1", 1), ("private", 0)])
def test_a_response_that_a_cache_gives_to_others_tells_nothing(door: Door, value: str, is_shared: int) -> None:
    sent = claim(headers=[("x-session-id", "s-1")])
    headers = respond(door, sent, [("Cache-Control", value)], respond=BOTH)
    assert len(headers) == (1 if is_shared else 5)


@both_doors
def test_the_value_of_a_cookie_is_never_told(door: Door) -> None:
    """Scripts may read the response's headers, but not an HttpOnly cookie."""
    sent = Sent(headers=[("cookie", "a=b; sessionid=secret-1")])
    settings: dict[str, Any] = {"fields": {"session_id": ["cookie:sessionid", "header:x-chat"]}, "respond": {"session"}}
    assert respond(door, sent, **settings) == []
    sent = Sent(headers=[("cookie", "a=b"), ("x-chat", "c-1")])
    assert ("x-session-id", "c-1") in respond(door, sent, **settings)


@both_doors
def test_a_public_endpoint_tells_accepted_sessions_as_the_client_named_them(door: Door) -> None:
    """The id at the destinations has a digest, which would change with each turn if the client sent it back."""
    sent = claim(headers=[("x-session-id", "chat:1")])
    assert respond(door, sent, public=True, respond={"session"}) == []
    settings: dict[str, Any] = {"public": True, "identity": lambda _: {"user_id": "ada"}, "respond": {"session"}}
    assert ("x-session-id", "chat:1") in respond(door, sent, **settings)
    # Too long for an id with a digest, of which nothing but the digest is left.
    assert respond(door, claim(headers=[("x-session-id", "c" * 190)]), **settings) == []
    bound = respond(door, sent, inside=lambda: byline.bind(session_id="a" * 32), **settings)
    assert ("x-session-id", "a" * 32) in bound


@both_doors
def test_a_trace_that_a_stranger_has_chosen_is_not_told(door: Door, finished: Finished) -> None:
    headers = dict(respond(door, claim(headers=[JOINING, ("trace", "w")]), public=True, respond={"trace"}))
    (span,) = finished()
    context = span.get_span_context()
    assert context is not None
    assert headers["x-trace-id"] == f"{context.trace_id:032x}" != JOINING[1][3:35]
    assert headers["traceresponse"].startswith(f"00-{context.trace_id:032x}-")


@both_doors
@pytest.mark.usefixtures("unsampled")
def test_a_request_that_is_not_sampled_says_so(door: Door) -> None:
    headers = dict(respond(door, claim(), respond={"trace"}))
    assert int(headers["traceresponse"][-2:], 16) & 1 == 0
    assert headers["x-trace-id"] == headers["traceresponse"][3:35]


@pytest.fixture
def _otel_propagator() -> Iterator[None]:
    propagators.set_global_response_propagator(propagators.TraceResponsePropagator())  # type: ignore[no-untyped-call]
    yield
    propagators.set_global_response_propagator(None)  # type: ignore[no-untyped-call]


@pytest.mark.usefixtures("_otel_propagator")
def test_opentelemetry_writes_traceresponse_itself_if_asked_to() -> None:
    headers = respond("asgi", claim(), respond={"trace"})
    assert [name for name, _ in headers].count("traceresponse") == 1


@both_doors
@pytest.mark.parametrize("wrong", ["session", {"user"}, 1, {"session", None}])
def test_a_wrong_value_is_refused(door: Door, wrong: Any) -> None:
    with pytest.raises(SettingError, match=r"byline\.E146: respond=.* To fix this, pass a set of"):
        respond(door, claim(), respond=wrong)


@both_doors
def test_the_environment_sets_it_and_a_wrong_value_takes_nothing_along(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BYLINE_RESPOND", "session")
    sent = claim(headers=[("x-session-id", "s-1")])
    assert ("x-session-id", "s-1") in respond(door, sent)
    assert respond(door, sent, respond=()) == []
    monkeypatch.setenv("BYLINE_RESPOND", "everything")
    app = auto_middleware.wrap(lambda environ, start_response: [], "wsgi")
    assert isinstance(app, wsgi.AttributionMiddleware)


@both_doors
def test_the_middleware_of_the_code_decides_inside_one_of_zero_code(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BYLINE_RESPOND", "session")
    sent = Sent(method="GET", headers=[("x-session-id", "s-1")])

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return []

    def headers(**settings: Any) -> dict[Any, Any]:
        if door == "asgi":
            inner = asgi.AttributionMiddleware(asgi_app, **settings)
            hidden = auto_middleware.wrap(lambda scope, receive, send: inner(scope, receive, send), door)
            return dict(asyncio.run(run_asgi(hidden, sent)).sent[0]["headers"])
        inside = wsgi.AttributionMiddleware(wsgi_app, **settings)
        return dict(run_wsgi(auto_middleware.wrap(lambda *args: inside(*args), door), sent).headers or [])

    assert headers(respond=()) == {}
    assert len(headers()) == 2
    own = {name if isinstance(name, str) else name.decode() for name in headers(respond={"trace"})}
    assert own == {"access-control-expose-headers", "traceresponse", "x-trace-id"}


def test_asgi_headers_that_can_be_read_once_and_messages_without_headers() -> None:
    starts: list[dict[str, Any]] = [{"headers": iter([(b"a", b"b")])}, {}]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, **starts.pop(0)})
        await send({"type": "http.response.body"})

    middleware = asgi.AttributionMiddleware(app, respond={"session"})
    sent = [Sent(method="GET"), Sent(method="GET", headers=[("x-session-id", "s-1")])]
    first, second = (asyncio.run(run_asgi(middleware, each)).sent[0]["headers"] for each in sent)
    assert first == [(b"a", b"b")]
    assert second == [(b"access-control-expose-headers", b"x-session-id"), (b"x-session-id", b"s-1")]


def test_cors_of_starlette_inside_the_middleware() -> None:
    async def home(request: Any) -> PlainTextResponse:
        return PlainTextResponse("ok")

    cors = Middleware(CORSMiddleware, allow_origins=["https://a.example"], expose_headers=["x-team"])
    app = Starlette(routes=[Route("/", home)], middleware=[cors])
    app.add_middleware(asgi.AttributionMiddleware, respond={"session"})
    sent = Sent(method="GET", path="/", headers=[("origin", "https://a.example"), ("x-session-id", "s-1")])
    run = asyncio.run(run_asgi(app, sent))
    assert dict(run.sent[0]["headers"])[b"access-control-expose-headers"] == b"x-team, x-session-id"


def test_flask() -> None:
    app = flask.Flask("respond")
    app.add_url_rule("/chat", view_func=lambda: "ok", methods=["POST"])
    Byline(app, respond={"session"})
    run = run_wsgi(app, Sent(headers=[("x-session-id", "s-1")], content_type=None))
    assert ("x-session-id", "s-1") in (run.headers or [])


def view(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok", headers={"Access-Control-Expose-Headers": "X-Team"})


async def async_view(request: HttpRequest) -> HttpResponse:
    return view(request)


urlpatterns = [path("chat", view), path("async", async_view)]


@both_doors
@pytest.mark.parametrize("where", ["/chat", "/async"])
@pytest.mark.parametrize("is_automatic", [False, True])
def test_django(door: Door, where: str, is_automatic: bool) -> None:
    """Also inside a middleware that zero code has added."""
    if not django_settings.configured:
        django_settings.configure()
        django.setup()
    sent = Sent(headers=[("x-session-id", "s-1")], content_type=None, path=where)
    with override_settings(
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=["byline.django.AttributionMiddleware"],
        BYLINE={"identity": None, "respond": BOTH},
    ):
        handler: Any = WSGIHandler() if door == "wsgi" else ASGIHandler()
        app = auto_middleware.wrap(handler, door) if is_automatic else handler
        if door == "wsgi":
            headers = {name.lower(): value for name, value in run_wsgi(app, sent).headers or []}
        else:
            raw = asyncio.run(run_asgi(app, sent)).sent[0]["headers"]
            headers = {name.decode().lower(): value.decode() for name, value in raw}
    assert headers["x-session-id"] == "s-1"
    assert headers["traceresponse"][3:35] == headers["x-trace-id"]
    assert headers["access-control-expose-headers"] == "X-Team, x-session-id, traceresponse, x-trace-id"


# trace_ids()


@pytest.fixture
def receivers() -> Iterator[tuple[Receiver, Receiver, Receiver]]:
    with Receiver() as langfuse, Receiver() as otlp, Receiver() as calls:
        by_call = OTLP(calls.url, spans="llm", traces="call", label="calls")
        whole = [Langfuse("pk-lf-1", "sk-lf-1", langfuse.url), OTLP(otlp.url)]
        byline.instrument(destinations=[*whole, by_call], clients=())
        yield langfuse, otlp, calls
        byline.uninstrument()


@both_doors
@pytest.mark.parametrize("trust", [{"session", "trace"}, {"session"}])
@pytest.mark.parametrize("named", [{}, {"trace": {"trace_id": "workflow_12345"}}])
@pytest.mark.parametrize("app_span", ["auto", False])
def test_trace_ids_are_those_of_the_exported_spans(
    door: Door, trust: Any, named: Any, app_span: Any, receivers: tuple[Receiver, ...], finished: Finished
) -> None:
    seen: list[Any] = []

    def inside() -> None:
        call_model()
        seen.append(byline.trace_ids())

    sent = claim(named, headers=[JOINING])
    headers = dict(respond(door, sent, inside=inside, trust=trust, app_span=app_span, respond={"trace"}))
    assert byline.flush()
    (ids,) = seen
    langfuse, otlp, calls = receivers
    (span,) = langfuse.spans
    if not ids:
        # Without a span around the call nobody can know the trace of the next one.
        assert (app_span, named if "trace" in trust else {}) == (False, {})
        assert ids == TraceIds(None, {})
        return
    assert set(ids.destinations) == (
        {"langfuse", "otlp", "calls"} if "trace" in trust and named else {"langfuse", "otlp"}
    )
    assert ids.destinations["langfuse"] == DestinationTrace(span.trace_id, f"{langfuse.url}/trace/{span.trace_id}")
    assert {DestinationTrace(each.trace_id, None) for each in otlp.spans} == {ids.destinations["otlp"]}
    assert headers["x-trace-id"] == span.trace_id
    if "calls" in ids.destinations:
        assert {each.trace_id for each in calls.spans} == {ids.destinations["calls"].trace_id}
    if app_span == "auto":
        assert {f"{each.context.trace_id:032x}" for each in finished() if each.context} == {ids.app_trace_id}


def test_an_app_may_return_trace_ids_as_json(receivers: tuple[Receiver, ...]) -> None:
    app = flask.Flask("respond")
    with app.app_context(), byline.bound(trace_id="a" * 32):
        shown = flask.jsonify(byline.trace_ids()).get_json()
    url = f"{receivers[0].url}/trace/{'a' * 32}"
    destinations = {label: {"trace_id": "a" * 32, "url": None} for label in ("otlp", "calls")}
    destinations["langfuse"] = {"trace_id": "a" * 32, "url": url}
    assert shown == {"app_trace_id": None, "destinations": destinations}


def test_trace_ids_outside_a_request(receivers: Any) -> None:
    with byline.bound(trace_id="w"):
        assert byline.trace_ids()
        with byline.unbound():
            assert byline.trace_ids() == TraceIds(None, {})
    assert not byline.trace_ids()
    assert byline.trace_ids().destinations == {}


def test_a_url_has_no_credentials() -> None:
    destination = Langfuse("pk-lf-1", "sk-lf-1", "https://svc:hunter2pass@langfuse.example/base/")
    assert destination.trace_url("a" * 32) == f"https://langfuse.example/base/trace/{'a' * 32}"
