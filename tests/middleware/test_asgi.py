"""The ASGI middleware: the attribution reaches all work of a request, and nothing else."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from fastapi import BackgroundTasks, Depends, FastAPI
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

import byline
from byline import request_context
from byline.asgi import AttributionMiddleware
from byline.genai import attributes as names
from tests.support import Sent, call_model, claim, run_asgi, scope_of, tracer

Finished = Callable[[], Sequence[ReadableSpan]]
apps_own = contextvars.ContextVar("apps_own", default=0)
HEADERS = {"x-session-id": "s", "trace": "w"}
BODY = {"user": "ada"}


def starlette(handler: Any, *middleware: Middleware) -> Starlette:
    return Starlette(routes=[Route("/", handler, methods=["POST"])], middleware=[*middleware])


def post(app: Any) -> Any:
    with TestClient(app) as client:
        return client.post("/", json=BODY, headers=HEADERS)


def signed(finished: Finished, times: int = 1) -> None:
    """All LLM spans carry the whole byline, from the header and from the body."""
    spans = [span for span in finished() if "gen_ai.operation.name" in (span.attributes or {})]
    assert len(spans) == times
    for span in spans:
        attributes = span.attributes or {}
        assert (attributes[names.SESSION_ID], attributes[names.TRACE_ID]) == ("s", "w")
        assert attributes[names.USER_ID] == "ada"


async def in_handler(request: Request) -> Response:
    await request.json()
    call_model()
    return Response("ok")


async def stream_async(request: Request) -> Response:
    await request.json()

    async def body() -> AsyncIterator[bytes]:
        yield b"o"
        await asyncio.sleep(0)
        call_model()
        yield b"k"

    return StreamingResponse(body())


async def stream_sync(request: Request) -> Response:
    await request.json()

    def body() -> Iterator[bytes]:
        yield b"o"
        call_model()
        yield b"k"

    return StreamingResponse(body())


async def background_sync(request: Request) -> Response:
    await request.json()
    return Response("ok", background=BackgroundTask(call_model))


async def background_async(request: Request) -> Response:
    await request.json()

    async def later() -> None:
        await asyncio.sleep(0)
        call_model()

    return Response("ok", background=BackgroundTask(later))


async def to_thread(request: Request) -> Response:
    await request.json()
    await asyncio.to_thread(call_model)
    return Response("ok")


async def anyio_thread(request: Request) -> Response:
    await request.json()
    await anyio.to_thread.run_sync(call_model)
    return Response("ok")


async def in_tasks(request: Request) -> Response:
    async def work() -> None:
        await asyncio.sleep(0)
        call_model()

    await request.json()
    await asyncio.gather(work(), asyncio.create_task(work()))
    async with anyio.create_task_group() as group:
        group.start_soon(work)
    return Response("ok")


async def task_that_outlives_the_request(request: Request) -> Response:
    async def work() -> None:
        await asyncio.sleep(0.01)
        call_model()

    await request.json()
    request.app.state.task = asyncio.create_task(work())
    return Response("ok", background=BackgroundTask(lambda: None))


HANDLERS = {
    handler.__name__: handler
    for handler in (
        in_handler,
        stream_async,
        stream_sync,
        background_sync,
        background_async,
        to_thread,
        anyio_thread,
    )
}
DOOR = Middleware(AttributionMiddleware)


async def passes(request: Request, call_next: Any) -> Any:
    return await call_next(request)


async def reads_first(request: Request, call_next: Any) -> Any:
    await request.body()
    byline.current()
    return await call_next(request)


STACKS: dict[str, list[Middleware]] = {
    "alone": [DOOR],
    "BaseHTTPMiddleware inside": [DOOR, Middleware(BaseHTTPMiddleware, dispatch=passes)],
    "BaseHTTPMiddleware outside": [Middleware(BaseHTTPMiddleware, dispatch=passes), DOOR],
    "two inside, two outside": [
        *[Middleware(BaseHTTPMiddleware, dispatch=passes)] * 2,
        DOOR,
        *[Middleware(BaseHTTPMiddleware, dispatch=passes)] * 2,
    ],
    "one inside that reads the body": [DOOR, Middleware(BaseHTTPMiddleware, dispatch=reads_first)],
    "one outside that reads the body": [Middleware(BaseHTTPMiddleware, dispatch=reads_first), DOOR],
    "gzip outside": [Middleware(GZipMiddleware, minimum_size=1), DOOR],
    "gzip inside": [DOOR, Middleware(GZipMiddleware, minimum_size=1)],
}


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("handler", HANDLERS)
def test_the_byline_reaches_the_model_call(handler: str, stack: str, finished: Finished) -> None:
    answer = post(starlette(HANDLERS[handler], *STACKS[stack]))
    assert (answer.status_code, answer.text) == (200, "ok")
    signed(finished)


def test_the_byline_reaches_tasks_and_task_groups(finished: Finished) -> None:
    assert post(starlette(in_tasks, DOOR)).text == "ok"
    signed(finished, 3)


def test_the_byline_reaches_a_task_that_outlives_the_request(finished: Finished) -> None:
    app = starlette(task_that_outlives_the_request, DOOR)

    async def run() -> None:
        result = await run_asgi(app, claim(BODY, path="/", headers=list(HEADERS.items())))
        assert result.body == b"ok"
        await app.state.task

    asyncio.run(run())
    signed(finished)


def test_fastapi_works_with_every_kind_of_handler(finished: Finished) -> None:
    """Sync and async handlers, dependencies of both kinds with and without a yield, background tasks."""
    app = FastAPI()
    app.add_middleware(AttributionMiddleware)

    def sync_dependency(body: dict[str, Any]) -> Iterator[None]:
        call_model()
        yield
        call_model()

    async def async_dependency(body: dict[str, Any]) -> AsyncIterator[None]:
        call_model()
        yield
        call_model()

    @app.post("/", dependencies=[Depends(sync_dependency), Depends(async_dependency)])
    def chat(body: dict[str, Any], tasks: BackgroundTasks) -> str:
        tasks.add_task(call_model)
        call_model()
        return "ok"

    assert post(app).json() == "ok"
    signed(finished, 6)


def test_a_websocket_keeps_its_byline_from_the_first_message_to_the_last(finished: Finished) -> None:
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            call_model()
            await websocket.send_text(text.upper())

    app = Starlette(routes=[WebSocketRoute("/", talk)])
    app.add_middleware(AttributionMiddleware)
    with TestClient(app).websocket_connect("/?session_id=s&trace=w&user=ada") as websocket:
        for text in "abc":
            websocket.send_text(text)
            assert websocket.receive_text() == text.upper()
    signed(finished, 3)


def test_a_websockets_messages_are_no_claims(finished: Finished) -> None:
    """They are the app's own protocol."""

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json(await websocket.receive_json())
        call_model()
        await websocket.close()

    app = Starlette(routes=[WebSocketRoute("/", talk)])
    app.add_middleware(AttributionMiddleware)
    with TestClient(app).websocket_connect("/") as websocket:
        websocket.send_json({"session_id": "s"})
        assert websocket.receive_json() == {"session_id": "s"}
    (span,) = [span for span in finished() if "gen_ai.operation.name" in (span.attributes or {})]
    assert names.SESSION_ID not in (span.attributes or {})


def test_unknown_scopes_pass_untouched() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, receive, send))
        assert request_context.current_context() is None

    async def receive() -> Any: ...

    async def send(message: Any) -> None: ...

    door = AttributionMiddleware(app)
    for kind in ("mcp", "custom"):
        scope: dict[str, Any] = {"type": kind}
        asyncio.run(door(scope, receive, send))
        assert seen.pop() == ({"type": kind}, receive, send)


def test_send_and_receive_are_not_wrapped_without_need() -> None:
    """A GET has no body to record, and without a server span there is nothing to add."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((receive, send))

    async def receive() -> Any: ...

    async def send(message: Any) -> None: ...

    door = AttributionMiddleware(app, app_span=False)
    asyncio.run(door(scope_of(Sent(method="GET")), receive, send))
    assert seen == [(receive, send)]


def test_trailers_and_extensions_pass_as_they_are(finished: Finished) -> None:
    messages = [
        {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b"), (b"a", b"c")], "trailers": True},
        {"type": "http.response.body", "body": b"x", "more_body": True},
        {"type": "http.response.body", "body": b"", "more_body": False},
        {"type": "http.response.trailers", "headers": [(b"t", b"v")], "more_trailers": False},
        {"type": "http.response.debug", "info": {}},
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        call_model()
        for message in messages:
            await send(message)

    run = asyncio.run(run_asgi(AttributionMiddleware(app), claim(BODY, headers=list(HEADERS.items()))))
    assert run.error is None
    assert all(sent is message for sent, message in zip(run.sent, messages, strict=True))


def test_a_file_is_sent_by_the_server(tmp_path: Any) -> None:
    """``http.response.pathsend`` reaches a server that offers it."""
    path = tmp_path / "file"
    path.write_bytes(b"content")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert "http.response.pathsend" in scope["extensions"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": str(path)})

    scope = scope_of(claim(BODY, path="/")) | {"extensions": {"http.response.pathsend": {}}}
    run = asyncio.run(run_asgi(AttributionMiddleware(app), claim(BODY, path="/"), scope))
    assert run.error is None
    assert run.sent[-1] == {"type": "http.response.pathsend", "path": str(path)}


def test_nothing_is_left_in_the_context_of_the_server(finished: Finished) -> None:
    """Requests of one task, one after another, with and without claims, also after a failure."""
    heard = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.append(byline.current().session_id)
        apps_own.set(1)
        if scope["path"] == "/fail":
            raise LookupError

    door = AttributionMiddleware(app)

    async def run() -> None:
        for path, headers in (
            ("/a", [("x-session-id", "1")]),
            ("/fail", [("x-session-id", "2")]),
            ("/b", []),
        ):
            await run_asgi(door, Sent(path=path, headers=headers))
            assert request_context.current_context() is None
            assert not trace.get_current_span().get_span_context().is_valid
            call_model()

    asyncio.run(run())
    assert heard == ["1", "2", None]
    outside = [span for span in finished() if span.name == "chat gpt-4o"]
    assert [dict(span.attributes or {}) for span in outside] == [{"gen_ai.operation.name": "chat"}] * 3


def test_a_request_that_is_cancelled_leaves_nothing_behind() -> None:
    entered = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        entered.append(byline.current().session_id)
        await asyncio.sleep(60)

    async def run() -> None:
        task = asyncio.create_task(run_asgi(AttributionMiddleware(app), Sent(headers=[("x-session-id", "s")])))
        while not entered:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert request_context.current_context() is None

    asyncio.run(run())
    assert entered == ["s"]


@pytest.mark.parametrize("error", [LookupError("a"), asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(3)])
def test_errors_pass_as_they_are(error: BaseException) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    async def run() -> BaseException | None:
        try:
            await AttributionMiddleware(app)(scope_of(Sent()), None, None)  # type: ignore[arg-type]
        except BaseException as caught:
            return caught
        return None

    assert asyncio.run(run()) is error


def test_trio_works() -> None:
    """Nothing here is made for one event loop."""
    heard = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await anyio.to_thread.run_sync(lambda: heard.append(byline.current()))

    async def receive() -> Any:
        await anyio.sleep(0)
        return {"type": "http.request", "body": b'{"user": "ada"}'}

    async def send(message: Any) -> None: ...

    anyio.run(AttributionMiddleware(app), scope_of(claim(BODY)), receive, send, backend="trio")
    assert heard == [byline.Attribution(user_id="ada")]


async def raw_threads(request: Request) -> Response:
    """Lose the ContextVar; the app carries OpenTelemetry's context over, as its instrumentation does."""
    await request.json()
    carried = otel_context.get_current()

    def work() -> None:
        assert request_context.current_context() is None
        token = otel_context.attach(carried)
        try:
            with tracer.start_as_current_span("step"):
                call_model()
        finally:
            otel_context.detach(token)

    thread = threading.Thread(target=work)
    thread.start()
    await asyncio.to_thread(thread.join, 10)
    with ThreadPoolExecutor(1) as pool:
        await asyncio.get_running_loop().run_in_executor(pool, work)
    return Response("ok")


def test_raw_threads_that_carry_opentelemetrys_context_keep_the_byline(finished: Finished) -> None:
    """The parent span leads back to the request, also over spans in between."""
    assert post(starlette(raw_threads, DOOR)).text == "ok"
    signed(finished, 2)


def test_raw_threads_without_any_context_have_no_byline(finished: Finished) -> None:
    """Their user is unknown, and a guess would be another user's."""

    async def handler(request: Request) -> Response:
        await request.json()
        thread = threading.Thread(target=call_model)
        thread.start()
        await asyncio.to_thread(thread.join, 10)
        return Response("ok")

    assert post(starlette(handler, DOOR)).text == "ok"
    (span,) = [span for span in finished() if "gen_ai.operation.name" in (span.attributes or {})]
    assert dict(span.attributes or {}) == {"gen_ai.operation.name": "chat"}


def test_bind_in_a_thread_of_the_pool_reaches_the_handler() -> None:
    """Children share the record, whichever way the value travels."""

    async def handler(request: Request) -> Response:
        await asyncio.to_thread(byline.bind, user_id="bound")
        return JSONResponse(byline.current().user_id)

    assert post(starlette(handler, DOOR, Middleware(BaseHTTPMiddleware, dispatch=passes))).json() == "bound"


def test_bound_within_a_request_ends_with_its_block(finished: Finished) -> None:
    async def handler(request: Request) -> Response:
        await request.json()
        with byline.bound(session_id="step", tags=["inner"]):
            call_model("inner")
        call_model("outer")
        return Response("ok")

    assert post(starlette(handler, DOOR)).text == "ok"
    inner, outer = (dict(span.attributes or {}) for span in finished() if span.name in ("inner", "outer"))
    assert (inner[names.SESSION_ID], inner[names.USER_ID], inner[names.TAGS]) == ("step", "ada", ("inner",))
    assert (outer[names.SESSION_ID], names.TAGS in outer) == ("s", False)


def test_driver_that_changes_the_context_within_a_request_sees_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """Each step of the app runs in another copy of the context, as in a generator of a framework."""

    class Step:
        def __await__(self) -> Generator[None, None, None]:
            yield

    async def receive() -> Any:
        await Step()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async def send(_: Any) -> None: ...

    with byline.bound(session_id="outer"):
        running: Any = AttributionMiddleware(app, app_span=False)(scope_of(Sent()), receive, send)
        contextvars.copy_context().run(running.send, None)
        with pytest.raises(StopIteration):
            contextvars.copy_context().run(running.send, None)
    assert caplog.records == []


def test_receive_and_send_are_coroutine_functions_for_the_app(finished: Finished) -> None:
    """Asgiref, and with it the synchronous consumers of Channels, warns of others. Warnings are errors here."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        receive_in_thread, send_in_thread = async_to_sync(receive), async_to_sync(send)

        def consume() -> None:
            receive_in_thread()
            send_in_thread({"type": "http.response.start", "status": 200, "headers": []})
            send_in_thread({"type": "http.response.body", "body": b"ok"})

        await sync_to_async(consume)()

    for middleware in (AttributionMiddleware(app), AttributionMiddleware(app, respond={"session"})):
        sent = claim(HEADERS)
        asyncio.run(run_asgi(middleware, sent))
    assert [span.status.is_ok for span in finished()] == [True, True]


def test_the_app_of_a_middleware_can_be_replaced() -> None:
    """As tools do that put another layer below an existing one."""
    called: list[str] = []

    def app_named(name: str) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            called.append(name)

        return app

    middleware = AttributionMiddleware(app_named("first"), app_span=True)
    asyncio.run(run_asgi(middleware, claim()))
    middleware.app = app_named("second")
    asyncio.run(run_asgi(middleware, claim()))
    assert called == ["first", "second"]
