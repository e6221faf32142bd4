"""The server span: never two, never none, with the request's attribution and totals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import copy_context
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, WebSocket
from flask import Flask
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as ContribAsgi
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as ContribWsgi
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient

import byline
from byline import asgi, request_context, wsgi
from byline.genai import attributes as names
from byline.genai import server_span
from byline.genai.attribution_processor import AttributionSpanProcessor
from tests.support import Sent, claim, environ_of, run_asgi, run_wsgi, scope_of, tracer

Finished = Callable[[], Sequence[ReadableSpan]]
A = asgi.AttributionMiddleware
W = wsgi.AttributionMiddleware

SENT = claim(
    {"session_id": "s", "user": "bad\n", "trace": {"trace_name": "T", "k": 1}}, headers=[("x-session-id", "h")]
)


def count() -> None:
    """Make an LLM call as the client hooks would count it: before its span ends."""
    with tracer.start_as_current_span("chat gpt-4o", attributes={"gen_ai.operation.name": "chat"}):
        owner = request_context.current_context()
        if owner is not None:
            owner.totals.add(input_tokens=10, output_tokens=5, cost=0.25)


async def chat(request: Request) -> Response:
    await request.json()
    count()
    return JSONResponse("ok")


async def raw(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        count()
        await send({"type": "websocket.close", "code": 1000})
        return
    await receive()
    count()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b'"ok"'})


async def talk(websocket: WebSocket) -> None:
    await websocket.accept()
    count()
    await websocket.close()


def starlette(*middleware: Any, **settings: Any) -> Starlette:
    app = Starlette(routes=[Route("/chat", chat, methods=["POST"]), WebSocketRoute("/chat", talk)])
    for cls in middleware:
        app.add_middleware(cls, **(settings if cls is A else {}))
    return app


def fastapi(*middleware: Any, **settings: Any) -> FastAPI:
    app = FastAPI()
    app.websocket("/chat")(talk)

    @app.post("/chat")
    def answer(body: dict[str, Any]) -> str:
        count()
        return "ok"

    for cls in middleware:
        app.add_middleware(cls, **(settings if cls is A else {}))
    return app


def instrumented(app: FastAPI) -> FastAPI:
    FastAPIInstrumentor.instrument_app(app)
    return app


#: The order of the app, the middleware and the instrumentation that makes the server span.
ASGI_APPS: dict[str, Callable[[], Any]] = {
    "raw": lambda: A(raw),
    "Starlette": lambda: starlette(A),
    "around Starlette": lambda: A(starlette()),
    "FastAPI": lambda: fastapi(A),
    "around FastAPI": lambda: A(fastapi()),
    "contrib outside": lambda: ContribAsgi(A(raw)),
    "contrib inside": lambda: A(ContribAsgi(raw)),
    "contrib added before to Starlette": lambda: starlette(ContribAsgi, A),
    "contrib added after to Starlette": lambda: starlette(A, ContribAsgi),
    "contrib added to Starlette, around it": lambda: A(starlette(ContribAsgi)),
    "contrib added to FastAPI": lambda: fastapi(A, ContribAsgi),
    "contrib added to FastAPI, around it": lambda: A(fastapi(ContribAsgi)),
    "Starlette's added before": lambda: starlette(starlettes(), A),
    "Starlette's added after": lambda: starlette(A, starlettes()),
    "Starlette's around": lambda: starlettes()(starlette(A)),
    "FastAPIInstrumentor": lambda: instrumented(fastapi(A)),
    "around FastAPIInstrumentor": lambda: A(instrumented(fastapi())),
    "twice": lambda: A(starlette(A)),
    "mounted, both with the door": lambda: Starlette(
        routes=[Mount("/v1", routes=[Mount("/", starlette(A))]), Mount("/", starlette(A))],
        middleware=[Middleware(A)],
    ),
    "FastAPI mounted in Starlette": lambda: A(Starlette(routes=[Mount("/", fastapi(A))])),
    "FastAPI mounted in FastAPI": lambda: mounted(fastapi(A), fastapi(A)),
}


every_asgi_app = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.newest if "Starlette's" in name else ()) for name in ASGI_APPS]
)


def starlettes() -> Any:
    """Starlette's own middleware, which it has since 1.7."""
    from starlette.middleware.opentelemetry import OpenTelemetryMiddleware

    return OpenTelemetryMiddleware


def mounted(outer: FastAPI, inner: FastAPI) -> FastAPI:
    outer.router.routes.clear()
    outer.mount("/", inner)
    return outer


def send(app: Any, sent: Sent = SENT) -> int | None:
    run = asyncio.run(run_asgi(app, sent))
    if run.error is not None:
        raise run.error
    return run.status


def split(spans: Sequence[ReadableSpan]) -> tuple[list[ReadableSpan], list[ReadableSpan]]:
    """Return the server spans and the LLM spans."""
    return (
        [span for span in spans if span.kind is SpanKind.SERVER],
        [span for span in spans if "gen_ai.operation.name" in (span.attributes or {})],
    )


def check_signed(spans: Sequence[ReadableSpan], session: str = "h") -> ReadableSpan:
    """One server span, with the request's byline and totals; the LLM span is in its trace."""
    servers, (llm,) = split(spans)
    assert [span.name for span in servers] == [servers[0].name]
    attributes = dict(servers[0].attributes or {})
    assert attributes[names.SESSION_ID] == attributes[names.CONVERSATION_ID] == session
    assert attributes[names.LLM_CALLS] == 1
    assert (attributes[names.LLM_INPUT_TOKENS], attributes[names.LLM_OUTPUT_TOKENS]) == (10, 5)
    assert (attributes[names.LLM_COST], attributes[names.LLM_ERRORS]) == (0.25, 0)
    assert llm.context is not None
    assert servers[0].context is not None
    assert llm.context.trace_id == servers[0].context.trace_id
    assert (llm.attributes or {})[names.SESSION_ID] == session
    return servers[0]


@every_asgi_app
def test_an_asgi_request_has_one_server_span(name: str, finished: Finished, exporter: InMemorySpanExporter) -> None:
    app = ASGI_APPS[name]()
    for _ in range(2):
        assert send(app) == 200
        span = check_signed(finished())
        attributes = dict(span.attributes or {})
        assert attributes[names.TRACE_NAME] == "T"
        assert attributes[names.METADATA + "k"] == 1
        assert attributes[names.REJECTED] == ("user_id: not printable",)
        assert "bad" not in json.dumps(attributes, default=str)
        exporter.clear()


WEBSOCKET = Sent(query="session_id=h", type="websocket", content_type=None)


@every_asgi_app
def test_a_websocket_has_one_server_span(name: str, finished: Finished) -> None:
    send(ASGI_APPS[name](), WEBSOCKET)
    check_signed(finished())


WSGI_BODY = b'"ok"'


def plain(environ: Any, start_response: Any) -> Iterable[bytes]:
    environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    count()
    start_response("200 OK", [])
    return [WSGI_BODY]


def streamed(environ: Any, start_response: Any) -> Iterator[bytes]:
    environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response("200 OK", [])
    yield WSGI_BODY[:1]
    count()
    yield WSGI_BODY[1:]


def flask(instrument: str = "") -> Any:
    app = Flask("app")

    @app.post("/chat")
    def answer() -> str:
        from flask import request

        request.get_json()
        count()
        return WSGI_BODY.decode()

    instrumentor: Any = FlaskInstrumentor()
    if instrument == "before":
        instrumentor.instrument_app(app)
    app.wsgi_app = W(app.wsgi_app)  # type: ignore[method-assign]
    if instrument == "after":
        instrumentor.instrument_app(app)
    return app


WSGI_APPS: dict[str, Callable[[], Any]] = {
    "raw": lambda: W(plain),
    "streamed": lambda: W(streamed),
    "Flask": lambda: flask(),
    "around Flask": lambda: W(flask()),
    "FlaskInstrumentor before": lambda: flask("before"),
    "FlaskInstrumentor after": lambda: flask("after"),
    "contrib outside": lambda: ContribWsgi(W(plain)),
    "contrib outside, streamed": lambda: ContribWsgi(W(streamed)),
    "contrib inside": lambda: W(ContribWsgi(plain)),
    "contrib inside, streamed": lambda: W(ContribWsgi(streamed)),
    "twice": lambda: W(W(plain)),
}


@pytest.mark.parametrize("name", WSGI_APPS)
def test_a_wsgi_request_has_one_server_span(name: str, finished: Finished, exporter: InMemorySpanExporter) -> None:
    app = WSGI_APPS[name]()
    for _ in range(2):
        run = copy_context().run(run_wsgi, app, SENT)
        assert (run.status, run.body, run.error) == ("200 OK", WSGI_BODY, None)
        span = check_signed(finished())
        assert (span.attributes or {})[names.REJECTED] == ("user_id: not printable",)
        exporter.clear()


@pytest.mark.parametrize("app", [A(raw, app_span=False), A(starlette(), app_span=False)])
def test_no_server_span_with_app_span_false(app: Any, finished: Finished) -> None:
    assert send(app) == 200
    servers, (llm,) = split(finished())
    assert servers == []
    assert (llm.attributes or {})[names.SESSION_ID] == "h"


def test_no_server_span_with_app_span_false_of_wsgi(finished: Finished) -> None:
    assert run_wsgi(W(plain, app_span=False), SENT).body == WSGI_BODY
    servers, (llm,) = split(finished())
    assert servers == []
    assert (llm.attributes or {})[names.SESSION_ID] == "h"


@pytest.mark.newest
def test_server_span_with_app_span_true_beside_an_inner_tracer(finished: Finished) -> None:
    """``True`` asks for it, for example if an inner tracer is switched off."""
    assert send(A(fastapi(), app_span=True)) == 200
    servers, _ = split(finished())
    assert {span.instrumentation_scope.name for span in servers if span.instrumentation_scope} == {
        "opentelemetry.instrumentation.asgi",
        "fastapi",
    }


def test_existing_server_span_is_attributed_with_app_span_false(finished: Finished) -> None:
    assert send(ContribAsgi(A(raw, app_span=False))) == 200
    check_signed(finished())


@pytest.mark.usefixtures("unsampled")
@every_asgi_app
def test_a_request_that_is_sampled_away_has_no_span(name: str, finished: Finished) -> None:
    """The sampler has decided once for the request; a second span would undo the decision."""
    assert send(ASGI_APPS[name]()) == 200
    assert finished() == ()


@pytest.mark.usefixtures("unsampled")
@pytest.mark.parametrize("name", WSGI_APPS)
def test_a_wsgi_request_that_is_sampled_away_has_no_span(name: str, finished: Finished) -> None:
    assert copy_context().run(run_wsgi, WSGI_APPS[name](), SENT).body == WSGI_BODY
    assert finished() == ()


def test_a_server_span_that_is_sampled_away_outside_stays_the_only_one(finished: Finished) -> None:
    """Its child would be recorded by a sampler that does not ask the parent."""
    dropped = trace.NonRecordingSpan(
        trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(trace.TraceFlags.DEFAULT))
    )
    with trace.use_span(dropped):
        assert send(A(raw)) == 200
        run_wsgi(W(plain), SENT)
    assert split(finished())[0] == []


def test_a_request_started_within_a_span_that_has_ended_still_has_a_span(finished: Finished) -> None:
    """As when a server was started within a span of its own: its context is in every request."""
    with tracer.start_as_current_span("startup"):
        startup = copy_context()
    startup.run(send, A(raw))
    startup.run(run_wsgi, W(plain), SENT)
    made, _ = split(finished())
    assert [span.instrumentation_scope.name for span in made if span.instrumentation_scope] == [
        "opentelemetry.instrumentation.asgi",
        "opentelemetry.instrumentation.wsgi",
    ]
    assert [span.parent for span in made] == [None, None]


@pytest.mark.usefixtures("no_provider")
@pytest.mark.parametrize("app", [A(raw), A(fastapi()), fastapi(A), starlette(A)])
def test_without_a_provider_the_claims_are_there_and_no_spans(app: Any) -> None:
    """And nothing is set up on anybody's behalf."""
    assert send(app) == 200
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


@pytest.mark.usefixtures("no_provider")
def test_wsgi_without_a_provider() -> None:
    heard = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        heard.append(byline.current().session_id)
        start_response("200 OK", [])
        return []

    assert run_wsgi(W(app), SENT).status == "200 OK"
    assert heard == ["h"]
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("name", ["raw", "FastAPI", "around FastAPI", "contrib inside", "FastAPIInstrumentor"])
def test_traceparent_joins_as_opentelemetry_does(name: str, finished: Finished) -> None:
    """A caller's ``trace`` header names the trace at destinations, and never replaces W3C trace context."""
    send(ASGI_APPS[name](), claim({}, headers=[("traceparent", PARENT), ("x-session-id", "h"), ("trace", "mine")]))
    span = check_signed(finished())
    check_joined(span)
    assert (span.attributes or {})[names.TRACE_ID] == "mine"


@pytest.mark.parametrize("name", ["raw", "Flask", "FlaskInstrumentor after", "contrib inside"])
def test_traceparent_joins_in_wsgi(name: str, finished: Finished) -> None:
    run_wsgi(WSGI_APPS[name](), claim({}, headers=[("traceparent", PARENT), ("x-session-id", "h")]))
    check_joined(check_signed(finished()))


def check_joined(span: ReadableSpan) -> None:
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}" == PARENT[3:35]
    assert f"{span.parent.span_id:016x}" == PARENT[36:52]
    assert span.parent.is_remote


@pytest.mark.parametrize("sampled", ["00", "01"])
def test_the_callers_sampling_decision_holds(sampled: str, finished: Finished) -> None:
    send(A(raw), claim({}, headers=[("traceparent", PARENT[:-2] + sampled)]))
    assert len(split(finished())[0]) == int(sampled)


@pytest.mark.parametrize("parent", ["", "garbage", "00-0-0-01", PARENT + "-extra", "00-" + "0" * 32 + PARENT[35:]])
def test_a_broken_traceparent_starts_a_new_trace(parent: str, finished: Finished) -> None:
    send(A(raw), claim({}, headers=[("traceparent", parent), ("x-session-id", "h")]))
    assert check_signed(finished()).parent is None


def test_attributes_of_the_app_on_its_server_span_stay(finished: Finished) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        trace.get_current_span().set_attributes({names.SESSION_ID: "the app's", names.USER_ID: "the app's"})
        await raw(scope, receive, send)

    send(A(app))
    (span,), _ = split(finished())
    attributes = span.attributes or {}
    assert (attributes[names.SESSION_ID], attributes[names.USER_ID]) == ("the app's", "the app's")
    assert attributes[names.CONVERSATION_ID] == "h"


def test_bound_values_are_on_the_server_span(finished: Finished) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        byline.bind(user_id="ada", tags=["beta"])
        await raw(scope, receive, send)

    send(A(app))
    attributes = check_signed(finished()).attributes or {}
    assert (attributes[names.USER_ID], attributes[names.TAGS]) == ("ada", ("beta",))


def test_a_request_without_calls_has_no_totals(finished: Finished) -> None:
    app = Starlette(routes=[Route("/", lambda _: Response("ok"))])
    app.add_middleware(A)
    TestClient(app).get("/", headers={"x-session-id": "h"})
    (span,), _ = split(finished())
    assert (span.attributes or {})[names.SESSION_ID] == "h"
    assert not [key for key in span.attributes or {} if key.startswith("byline.llm")]


@pytest.mark.parametrize("make", [lambda app: A(app), lambda app: ContribAsgi(A(app)), lambda app: A(ContribAsgi(app))])
def test_totals_of_a_streamed_answer(make: Callable[[Any], Any], finished: Finished) -> None:
    """Calls that are made while the body streams count."""

    async def stream(request: Request) -> Response:
        async def body() -> Any:
            yield b"a"
            count()
            yield b"b"

        return StreamingResponse(body())

    app = make(Starlette(routes=[Route("/chat", stream, methods=["POST"])]))
    run = asyncio.run(run_asgi(app, SENT))
    assert run.body == b"ab"
    check_signed(finished())


@pytest.mark.parametrize("make", [lambda: starlette(A), lambda: A(fastapi()), lambda: fastapi(A)])
def test_an_app_that_fails_is_still_signed(make: Callable[[], Any], finished: Finished) -> None:
    """The error passes through as it is, and stands on the span as ever."""
    app = make()

    async def fail(request: Request) -> Response:
        count()
        raise LookupError("no such thing")

    inner: Any = app.app if isinstance(app, A) else app
    inner.router.routes.insert(0, Route("/chat", fail, methods=["POST"]))
    run = asyncio.run(run_asgi(app, SENT))
    assert repr(run.error) == "LookupError('no such thing')"
    assert run.status == 500
    span = check_signed(finished())
    assert span.status.status_code is trace.StatusCode.ERROR


def test_app_that_fails_before_its_response(finished: Finished) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        count()
        raise LookupError

    assert isinstance(asyncio.run(run_asgi(A(app), SENT)).error, LookupError)
    span = check_signed(finished())
    assert span.status.status_code is trace.StatusCode.ERROR


def inner_call(inner: Any) -> Starlette:
    """Return an app with a handler that calls another app in its own process."""

    async def outer(request: Request) -> Response:
        await request.json()
        transport = httpx2.ASGITransport(inner)
        async with httpx2.AsyncClient(transport=transport, base_url="http://inner") as client:
            headers = {"x-session-id": "inner", "trace": "trace_name=inner"}
            answer = await client.post("/chat", json={"user": "inner"}, headers=headers)
        count()
        return JSONResponse(answer.json())

    return Starlette(routes=[Route("/chat", outer, methods=["POST"])])


@pytest.mark.parametrize("inner", [lambda: A(raw), lambda: fastapi(A), lambda: A(fastapi()), lambda: starlette(A)])
@pytest.mark.parametrize("outer", [lambda app: A(app), lambda app: ContribAsgi(A(app))])
def test_an_app_called_in_process_has_a_record_of_its_own(
    inner: Callable[[], Any], outer: Callable[[Any], Any], finished: Finished
) -> None:
    """Neither its attribution nor its totals reach the caller's span."""
    assert send(outer(inner_call(inner()))) == 200
    spans = finished()
    llm = [span for span in spans if "gen_ai.operation.name" in (span.attributes or {})]
    assert [(span.attributes or {})[names.SESSION_ID] for span in llm] == ["inner", "h"]
    apps = {
        (span.attributes or {})[names.SESSION_ID]: dict(span.attributes or {})
        for span in spans
        if names.LLM_CALLS in (span.attributes or {})
    }
    assert set(apps) == {"h", "inner"}
    assert apps["h"][names.TRACE_NAME] == "T"
    assert names.USER_ID not in apps["h"]
    assert apps["inner"][names.USER_ID] == "inner"
    assert [app[names.LLM_CALLS] for app in apps.values()] == [1, 1]


def test_a_test_client_within_a_handler(finished: Finished) -> None:
    """It runs the inner app in a thread of its own."""
    inner = TestClient(starlette(A))

    def outer(request: Request) -> Response:
        answer = inner.post("/chat", json={}, headers={"x-session-id": "inner"})
        count()
        return JSONResponse(answer.json())

    assert send(A(Starlette(routes=[Route("/chat", outer, methods=["POST"])]))) == 200
    llm = [span for span in finished() if "gen_ai.operation.name" in (span.attributes or {})]
    assert [(span.attributes or {})[names.SESSION_ID] for span in llm] == ["inner", "h"]


def test_a_wsgi_app_called_in_process_has_a_record_of_its_own(finished: Finished) -> None:
    inner = W(plain)

    def outer(environ: Any, start_response: Any) -> Iterable[bytes]:
        environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        answer = run_wsgi(inner, claim({"user": "inner"}, headers=[("x-session-id", "inner")]))
        count()
        start_response("200 OK", [])
        return [answer.body]

    assert run_wsgi(W(outer), SENT).body == WSGI_BODY
    llm = [span for span in finished() if "gen_ai.operation.name" in (span.attributes or {})]
    assert [(span.attributes or {})[names.SESSION_ID] for span in llm] == ["inner", "h"]
    (span,) = [span for span in finished() if span.kind is SpanKind.SERVER]
    assert (span.attributes or {})[names.SESSION_ID] == "h"
    assert (span.attributes or {})[names.LLM_CALLS] == 1


def test_failure_of_opentelemetrys_middleware_loses_only_the_span(
    finished: Finished,
    exporter: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
    production: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise LookupError

    app = A(raw)
    assert send(app) == 200
    exporter.clear()
    monkeypatch.setattr("opentelemetry.instrumentation.asgi.collect_request_attributes", fail)
    monkeypatch.setattr("opentelemetry.instrumentation.wsgi.collect_request_attributes", fail)
    assert send(app) == 200
    assert run_wsgi(W(plain), SENT).body == WSGI_BODY
    servers, llm = split(finished())
    assert servers == []
    assert [(span.attributes or {})[names.SESSION_ID] for span in llm] == ["h", "h"]
    assert "byline.E091" in production.text


def test_requests_that_opentelemetry_leaves_out(finished: Finished) -> None:
    """A span around them is not theirs, and stays as it is."""
    with tracer.start_as_current_span("around"):
        token = otel_context.attach(otel_context.set_value("suppress_http_instrumentation", True))
        send(A(raw))
        otel_context.detach(token)
    around = next(span for span in finished() if span.name == "around")
    assert not around.attributes
    assert split(finished())[0] == []


@pytest.mark.parametrize("kind", [SpanKind.INTERNAL, SpanKind.CLIENT])
def test_span_of_another_kind_is_not_the_server_span(kind: SpanKind, finished: Finished) -> None:
    with tracer.start_as_current_span("around", kind=kind):
        send(A(raw))
        send(A(raw, app_span=False))
        run_wsgi(W(plain, app_span=False), SENT)
    around = next(span for span in finished() if span.name == "around")
    assert not around.attributes


class Closed:
    """An app behind a proxy that answers only within a request, as Flask's ``current_app`` does."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("working outside of a request")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await raw(scope, receive, send)


def test_an_app_that_cannot_be_looked_into(finished: Finished) -> None:
    send(A(Closed()))
    check_signed(finished())


def test_apps_that_contain_themselves_are_looked_into_once() -> None:
    class Loop:
        app: Any

    loop = Loop()
    loop.app = loop
    assert not server_span.ServerSpanDetector(loop).will_create({"type": "http"})


def test_wsgi_middleware_names_the_missing_extra(
    monkeypatch: pytest.MonkeyPatch, finished: Finished, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the extra there is no server span; ``app_span=True`` is an error with advice."""
    monkeypatch.setattr("byline.genai.wsgi_server_span.OpenTelemetryMiddleware", None)
    for _ in range(2):
        assert run_wsgi(W(plain), SENT).body == WSGI_BODY
    assert [entry.getMessage()[:11] for entry in caplog.records] == ["byline.E017"]
    assert split(finished())[0] == []
    with pytest.raises(byline.SettingError, match=r"byline.E017.*install .*\[wsgi\]"):
        W(plain, app_span=True)


def test_environ_is_unchanged_by_the_server_span() -> None:
    before = environ_of(SENT)
    seen: list[dict[str, Any]] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(dict(environ))
        start_response("200 OK", [])
        return []

    run_wsgi(W(app), SENT, before)
    assert set(seen[0]) - set(environ_of(SENT)) == {"byline.request_context"}
    assert set(before) == set(environ_of(SENT))


@pytest.mark.usefixtures("stamp_all")
@pytest.mark.parametrize(
    "make",
    [
        lambda: fastapi(A),
        pytest.param(lambda: starlette(A, starlettes()), marks=pytest.mark.newest),
        lambda: A(raw),
    ],
)
def test_a_request_that_starts_in_the_context_of_another_one(make: Callable[[], Any], finished: Finished) -> None:
    """As a server starts the next one of a connection: nothing of the first is on its spans."""
    app = make()
    following: list[asyncio.Task[Any]] = []
    second = claim({}, headers=[("x-session-id", "2"), ("traceparent", PARENT)])

    async def run() -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": b"{}"}

        async def send(message: Any) -> None:
            # The first request's context is in force here, its record and its span with it.
            if message["type"] == "http.response.body" and not following:
                following.append(asyncio.create_task(run_asgi(app, second)))

        await app(scope_of(claim({}, headers=[("x-session-id", "1"), ("x-request-id", "first")])), receive, send)
        await following[0]

    asyncio.run(run())
    servers, llm = split(finished())
    assert [(span.attributes or {})[names.SESSION_ID] for span in servers] == ["1", "2"]
    assert [(span.attributes or {})[names.SESSION_ID] for span in llm] == ["1", "2"]
    assert names.REQUEST_ID not in (servers[1].attributes or {})
    check_joined(servers[1])


def test_value_replaces_an_earlier_one_that_the_limit_of_the_span_would_cut() -> None:
    provider = TracerProvider(shutdown_on_exit=False, span_limits=SpanLimits(max_span_attribute_length=20))
    span: Any = provider.get_tracer("app").start_span("POST /chat", kind=SpanKind.SERVER)
    with byline.bound(session_id="s" * 40):
        context = request_context.current_context()
        assert context is not None
        context.server_span = span
        server_span.set_request_attributes(context)
        assert "session.id" not in span.attributes
        byline.bind(session_id="later")
        server_span.set_request_attributes(context)
    assert span.attributes["session.id"] == "later"


async def ask_xai(scope: Any, receive: Any, send: Any) -> None:
    """Make two calls as xAI's SDK does over gRPC, of which the second fails, and one of another SDK over gRPC."""
    await receive()
    call = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "grok-4"}
    counts = {"gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 50}
    reasoning = {"gen_ai.usage.reasoning_tokens": 30, "gen_ai.usage.total_tokens": 180}
    cost = {"gen_ai.usage.cost_in_usd_ticks": 12_000_000}
    xai = trace.get_tracer("xai_sdk.aio.chat")
    with xai.start_as_current_span("invoke_agent", attributes={"gen_ai.operation.name": "invoke_agent", **counts}):
        with xai.start_as_current_span("chat.sample grok-4", attributes={**call, **counts, **reasoning, **cost}):
            pass
        failed = xai.start_span("chat.sample grok-4", attributes={**call, "gen_ai.usage.input_tokens": "many"})
        failed.set_status(trace.StatusCode.ERROR)
        failed.end()
    trace.get_tracer("another_sdk").start_span("chat", attributes={**call, **counts}).end()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("place", [A, lambda app: ContribAsgi(A(app)), lambda app: A(ContribAsgi(app))])
def test_totals_have_the_calls_of_xais_sdk(place: Callable[[Any], Any], finished: Finished) -> None:
    """Their spans state what they have used; byline sees no HTTP request of them."""
    asyncio.run(run_asgi(place(ask_xai), SENT))
    (server,) = [span for span in finished() if span.kind is SpanKind.SERVER]
    totals = {key: value for key, value in (server.attributes or {}).items() if key.startswith("byline.llm.")}
    assert totals == {
        "byline.llm.calls": 2,
        "byline.llm.input_tokens": 100,
        "byline.llm.output_tokens": 80,
        "byline.llm.cost": 0.0012,
        "byline.llm.errors": 1,
    }


def test_two_processors_count_a_call_of_xais_sdk_once() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    for _ in range(2):
        provider.add_span_processor(AttributionSpanProcessor())
    tracer = provider.get_tracer("xai_sdk.aio.chat")
    with byline.bound(session_id="s-1"):
        tracer.start_span("chat grok-4", attributes={"gen_ai.operation.name": "chat"}).end()
        context = request_context.current_context()
        assert context is not None
        assert context.totals.calls == 1
