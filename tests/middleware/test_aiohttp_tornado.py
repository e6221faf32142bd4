"""The middlewares of aiohttp.web and Tornado, which are neither ASGI nor WSGI, on their own servers."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import aiohttp
import pytest
import tornado.routing
import tornado.web
import tornado.websocket
from aiohttp import web
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from tornado.httpserver import HTTPServer
from tornado.wsgi import WSGIContainer

import byline
from byline import aiohttp_web, asgi, request_context
from byline import tornado as byline_tornado
from tests.servers import free_port

Finished = Callable[[], Sequence[ReadableSpan]]
Test = Callable[[aiohttp.ClientSession], Awaitable[Any]]

tracer = trace.get_tracer("tests.web")
BODY = {"user": "ada", "trace": {"trace_name": "Chat"}, "message": "Hello"}
HEADERS = {"x-session-id": "s-1"}


def call_model() -> None:
    tracer.start_span("chat m", attributes={"gen_ai.operation.name": "chat"}).end()


def aiohttp_app(**settings: Any) -> web.Application:
    async def chat(request: web.Request) -> web.Response:
        body = await request.json()
        await asyncio.sleep(0)
        call_model()
        return web.json_response(body)

    async def stream(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(body["message"].encode())
        call_model()
        await response.write(b" answer")
        return response

    async def generator(request: web.Request) -> web.Response:
        body = await request.json()

        async def chunks() -> AsyncIterator[bytes]:
            yield body["message"].encode()
            await asyncio.sleep(0)
            call_model()
            yield b" answer"

        return web.Response(body=chunks())

    async def fail(request: web.Request) -> web.Response:
        await request.read()
        call_model()
        raise ValueError("no answer")

    async def move(request: web.Request) -> web.Response:
        call_model()
        raise web.HTTPNotFound

    async def socket(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse()
        await response.prepare(request)
        async for message in response:
            call_model()
            await response.send_str(f"answer to {message.data}")
        return response

    app = web.Application(middlewares=[aiohttp_web.AttributionMiddleware(**settings)])
    for path, handler in (("stream", stream), ("generator", generator), ("fail", fail), ("move", move)):
        app.router.add_post(f"/{path}", handler)
    app.router.add_post("/chat", chat)
    app.router.add_post("/chat/{id}", chat)
    app.router.add_get("/socket", socket)
    return app


class Chat(tornado.web.RequestHandler):
    async def post(self, *_: Any) -> None:
        await asyncio.sleep(0)
        call_model()
        self.write(self.request.body)


class Stream(tornado.web.RequestHandler):
    async def post(self) -> None:
        self.write(b"Hello")
        await self.flush()
        call_model()
        self.write(b" answer")


@tornado.web.stream_request_body
class Upload(tornado.web.RequestHandler):
    def prepare(self) -> None:
        self.received = b""

    def data_received(self, chunk: bytes) -> None:
        self.received += chunk

    async def post(self) -> None:
        call_model()
        self.write(self.received)


class Fail(tornado.web.RequestHandler):
    def post(self) -> None:
        call_model()
        raise ValueError("no answer")

    def log_exception(self, *_: Any) -> None:
        pass


class Move(tornado.web.RequestHandler):
    def post(self) -> None:
        call_model()
        raise tornado.web.HTTPError(404)


class Socket(tornado.websocket.WebSocketHandler):
    async def on_message(self, message: str | bytes) -> None:
        call_model()
        await self.write_message(f"answer to {message!s}")


def tornado_app(**settings: Any) -> byline_tornado.AttributionMiddleware:
    handlers = [
        ("/chat", Chat),
        (r"/chat/(\d+)", Chat),
        ("/stream", Stream),
        ("/generator", Stream),
        ("/upload", Upload),
        ("/fail", Fail),
        ("/move", Move),
        ("/socket", Socket),
    ]
    return byline_tornado.AttributionMiddleware(tornado.web.Application(handlers), **settings)


FRAMEWORKS = pytest.mark.parametrize("make_app", [aiohttp_app, tornado_app])


async def serve(app: Any, test: Test) -> Any:
    """Serve the app on a free port while a client asks."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with aiohttp.ClientSession(url) as client:
        if isinstance(app, web.Application):
            runner = web.AppRunner(app)
            await runner.setup()
            await web.SockSite(runner, listener).start()
            try:
                return await test(client)
            finally:
                await runner.cleanup()
        server = HTTPServer(app)
        server.add_socket(listener)
        try:
            return await test(client)
        finally:
            server.stop()
            await server.close_all_connections()


def post(app: Any, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    """Return status, text and headers of the response to one request."""

    async def test(client: aiohttp.ClientSession) -> tuple[int, str, dict[str, str]]:
        async with client.post(path, json=BODY, headers={**HEADERS, **headers}) as response:
            return response.status, await response.text(), {k.lower(): v for k, v in response.headers.items()}

    result: tuple[int, str, dict[str, str]] = asyncio.run(serve(app, test))
    return result


def llm_and_server(finished: Finished) -> tuple[dict[str, Any], ReadableSpan]:
    (llm,) = (span for span in finished() if span.name == "chat m")
    (server,) = (span for span in finished() if span.kind is SpanKind.SERVER)
    assert llm.parent is not None
    assert server.context is not None
    assert llm.parent.span_id == server.context.span_id
    return dict(llm.attributes or {}), server


@FRAMEWORKS
@pytest.mark.parametrize("path", ["/chat", "/stream", "/generator"])
def test_the_call_has_the_attribution_of_the_request(make_app: Any, path: str, finished: Finished) -> None:
    """Header and body, which the handler reads as well; also within a streamed response."""
    status, text, _ = post(make_app(), path)
    assert status == 200
    assert "Hello" in text
    attributes, server = llm_and_server(finished)
    names = ("session.id", "user.id", "langfuse.trace.name")
    assert [attributes[name] for name in names] == ["s-1", "ada", "Chat"]
    assert (server.attributes or {})["session.id"] == "s-1"
    assert (server.attributes or {})["user.id"] == "ada"
    assert (server.attributes or {})["http.status_code"] == 200
    assert server.name.startswith(f"POST {path}")


def aiohttp_app_with_sub_app() -> web.Application:
    app = web.Application(middlewares=[aiohttp_web.AttributionMiddleware()])
    app.add_subapp("/sub/", aiohttp_app(trust=()))
    return app


def aiohttp_app_with_two() -> web.Application:
    app = aiohttp_app(trust=())
    app.middlewares.insert(0, aiohttp_web.AttributionMiddleware())
    return app


def tornado_app_with_two() -> byline_tornado.AttributionMiddleware:
    router = tornado.routing.RuleRouter([tornado.routing.Rule(tornado.routing.AnyMatches(), tornado_app(trust=()))])
    return byline_tornado.AttributionMiddleware(router)


@pytest.mark.parametrize(
    ("make_app", "path"),
    [(aiohttp_app_with_sub_app, "/sub/chat"), (aiohttp_app_with_two, "/chat"), (tornado_app_with_two, "/chat")],
)
def test_of_two_middlewares_the_outer_one_makes_the_request(make_app: Any, path: str, finished: Finished) -> None:
    """One context and one server span, as under ASGI."""
    assert post(make_app(), path)[0] == 200
    attributes, _ = llm_and_server(finished)
    assert (attributes["session.id"], attributes["user.id"]) == ("s-1", "ada")
    assert len(finished()) == 2


def test_tornado_decompresses_a_body_in_chunks(finished: Finished) -> None:
    """The Content-Length is that of the compressed body, which says nothing of the end."""

    @tornado.web.stream_request_body
    class Own(tornado.web.RequestHandler):
        def data_received(self, chunk: bytes) -> None:
            byline.current()

        def post(self) -> None:
            call_model()

    async def main() -> None:
        app = byline_tornado.AttributionMiddleware(tornado.web.Application([("/own", Own)]))
        server = HTTPServer(app, decompress_request=True)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        server.add_socket(listener)
        body = gzip.compress(json.dumps({"user": "ada", "message": "x" * 200_000}).encode())
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/own"
        async with aiohttp.ClientSession() as client, client.post(url, data=body, headers=headers) as response:
            assert response.status == 200
        server.stop()
        await server.close_all_connections()

    asyncio.run(main())
    assert llm_and_server(finished)[0]["user.id"] == "ada"


def test_tornado_shows_chunks_of_a_streamed_request(finished: Finished) -> None:
    status, text, _ = post(tornado_app(), "/upload")
    assert (status, "Hello" in text) == (200, True)
    assert llm_and_server(finished)[0]["user.id"] == "ada"


@FRAMEWORKS
@pytest.mark.parametrize(("path", "status"), [("/fail", 500), ("/move", 404)])
def test_errors_of_the_handler(
    make_app: Any, path: str, status: int, finished: Finished, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets the framework's response, and the server span its status."""
    assert post(make_app(), path)[0] == status
    attributes, server = llm_and_server(finished)
    assert attributes["session.id"] == "s-1"
    assert server.status.status_code is (StatusCode.ERROR if status == 500 else StatusCode.UNSET)
    assert (server.attributes or {}).get("http.status_code", 500) == status


@FRAMEWORKS
def test_requests_at_once_and_in_turn_on_a_connection(make_app: Any, finished: Finished) -> None:
    async def ask(client: aiohttp.ClientSession, number: int) -> None:
        body = {"user": f"u-{number}"}
        async with client.post("/chat", json=body, headers={"x-session-id": f"s-{number}"}) as response:
            assert await response.json(content_type=None) == body

    async def test(client: aiohttp.ClientSession) -> None:
        await asyncio.gather(*(ask(client, number) for number in range(8)))
        for number in range(8, 12):
            await ask(client, number)
        async with client.post("/chat", json={}) as response:
            assert await response.json(content_type=None) == {}

    asyncio.run(serve(make_app(), test))
    found = [span.attributes or {} for span in finished() if span.name == "chat m"]
    pairs = {each.get("session.id"): each.get("user.id") for each in found}
    assert pairs == {None: None} | {f"s-{number}": f"u-{number}" for number in range(12)}
    assert request_context.attached() is None


@FRAMEWORKS
def test_each_message_of_a_websocket_has_the_session_of_the_handshake(make_app: Any, finished: Finished) -> None:
    async def test(client: aiohttp.ClientSession) -> None:
        async with client.ws_connect("/socket?user=ada", headers=HEADERS) as connection:
            for number in range(2):
                await connection.send_str(str(number))
                assert await connection.receive_str() == f"answer to {number}"
        # The server has seen the end when it answers the next request.
        async with client.post("/move", json={}) as response:
            assert response.status == 404

    asyncio.run(serve(make_app(), test))
    found = [dict(span.attributes or {}) for span in finished() if span.name == "chat m"]
    assert [each.get("session.id") for each in found] == ["s-1", "s-1", None]
    servers = [span for span in finished() if span.kind is SpanKind.SERVER]
    assert {(span.attributes or {}).get("session.id") for span in servers} == {None, "s-1"}


@FRAMEWORKS
def test_responses_tell_the_session(make_app: Any, finished: Finished) -> None:
    _, _, headers = post(make_app(respond={"session", "trace"}), "/chat")
    assert headers["x-session-id"] == "s-1"
    server = llm_and_server(finished)[1]
    assert server.context is not None
    assert f"{server.context.trace_id:032x}" in headers["traceresponse"]


@FRAMEWORKS
def test_a_traceparent_is_joined(make_app: Any, finished: Finished) -> None:
    post(make_app(), "/chat", traceparent=f"00-{'1' * 32}-{'2' * 16}-01")
    server = llm_and_server(finished)[1]
    assert server.context is not None
    assert f"{server.context.trace_id:032x}" == "1" * 32


@FRAMEWORKS
def test_on_a_public_endpoint_a_traceparent_is_not_joined(make_app: Any, finished: Finished) -> None:
    post(make_app(public=True), "/chat", traceparent=f"00-{'1' * 32}-{'2' * 16}-01")
    attributes, server = llm_and_server(finished)
    assert "user.id" not in attributes
    assert server.context is not None
    assert f"{server.context.trace_id:032x}" != "1" * 32


def test_the_route_of_aiohttp_is_known(finished: Finished) -> None:
    post(aiohttp_app(), "/chat/7")
    assert llm_and_server(finished)[0]["byline.route"] == "/chat/{id}"


@pytest.mark.filterwarnings("ignore:It is recommended to use web.RequestKey")
def test_aiohttp_states_the_user(finished: Finished) -> None:
    """A middleware inside byline's has put the user into the request; the claimed one is ignored."""

    @web.middleware
    async def login(request: web.Request, handler: Any) -> Any:
        request["user"] = "bob"
        return await handler(request)

    app = aiohttp_app(identity=lambda scope: {"user_id": scope["aiohttp.request"].get("user")})
    app.middlewares.append(login)
    post(app, "/chat")
    assert llm_and_server(finished)[0]["user.id"] == "bob"


def test_tornado_states_the_user_in_prepare(finished: Finished) -> None:
    class Own(Chat):
        def prepare(self) -> None:
            byline.bind(user_id="bob")

    post(byline_tornado.AttributionMiddleware(tornado.web.Application([("/chat", Own)])), "/chat")
    assert llm_and_server(finished)[0]["user.id"] == "bob"


def test_a_wsgi_app_within_tornado(finished: Finished) -> None:
    """It answers while Tornado hands it the request."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        call_model()
        start_response("200 OK", [("content-type", "text/plain")])
        return [environ["wsgi.input"].read()]

    router = tornado.web.Application([(".*", tornado.web.FallbackHandler, {"fallback": WSGIContainer(app)})])
    status, text, _ = post(byline_tornado.AttributionMiddleware(router), "/chat")
    assert (status, "Hello" in text) == (200, True)
    assert llm_and_server(finished)[0]["session.id"] == "s-1"


def test_tornado_listens(finished: Finished) -> None:
    async def main() -> None:
        port = free_port()
        server = tornado_app().listen(port, "127.0.0.1", reuse_port=True, backlog=7, xheaders=True)
        assert server.xheaders
        async with aiohttp.ClientSession() as client, client.post(f"http://127.0.0.1:{port}/chat", json=BODY) as reply:
            assert reply.status == 200
        server.stop()
        await server.close_all_connections()

    asyncio.run(main())
    assert llm_and_server(finished)[0]["user.id"] == "ada"


def test_a_client_that_goes_away_ends_the_request(finished: Finished) -> None:
    """Tornado's handler runs on; the server span ends."""

    async def main() -> None:
        started, closed = asyncio.Event(), asyncio.Event()

        class Wait(tornado.web.RequestHandler):
            async def post(self) -> None:
                started.set()
                await closed.wait()
                call_model()

            def on_connection_close(self) -> None:
                closed.set()

        async def test(client: aiohttp.ClientSession) -> None:
            task = asyncio.create_task(client.post("/wait", json=BODY, headers=HEADERS))
            await started.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await client.close()
            await closed.wait()

        await serve(byline_tornado.AttributionMiddleware(tornado.web.Application([("/wait", Wait)])), test)

    asyncio.run(main())
    attributes, server = llm_and_server(finished)
    assert attributes["user.id"] == "ada"
    assert (server.attributes or {})["session.id"] == "s-1"


def test_a_handler_of_tornado_that_takes_the_stream(finished: Finished) -> None:
    """The request ends with the stream, although the handler sets no callback for its end."""

    class Own(tornado.web.RequestHandler):
        async def get(self) -> None:
            stream = self.detach()
            call_model()
            await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            stream.close()

    async def test(client: aiohttp.ClientSession) -> str:
        async with client.get("/own", headers=HEADERS) as response:
            return await response.text()

    app = byline_tornado.AttributionMiddleware(tornado.web.Application([("/own", Own)]))
    assert asyncio.run(serve(app, test)) == "ok"
    assert llm_and_server(finished)[0]["session.id"] == "s-1"


@pytest.mark.parametrize("app", [lambda environ, start_response: [], web.Application(), tornado.web.Application])
def test_another_app_in_the_middleware_of_tornado_is_an_error(app: Any) -> None:
    with pytest.raises(byline.SettingError, match=r"byline\.E120: .* pass a tornado\.web\.Application"):
        byline_tornado.AttributionMiddleware(app)


def test_the_class_in_the_middlewares_of_aiohttp_is_an_error_as_the_app_starts() -> None:
    """With each request, aiohttp would say something about arguments."""
    middleware: Any = aiohttp_web.AttributionMiddleware
    runner = web.AppRunner(web.Application(middlewares=[middleware]))
    with pytest.raises(byline.SettingError, match=r"byline\.E107: .*middlewares=\[AttributionMiddleware\(…\)\]"):
        asyncio.run(runner.setup())
    assert vars(aiohttp_web.AttributionMiddleware())["__middleware_version__"] == 1


def test_the_wrong_form_of_a_call_is_an_error() -> None:
    with pytest.raises(byline.SettingError, match=r"byline\.E107: .* takes no app, .* called with Application"):
        aiohttp_web.AttributionMiddleware(web.Application())  # type: ignore[call-arg]
    with pytest.raises(byline.SettingError, match=r"byline\.E107: .* takes the app, .* called with no app"):
        byline_tornado.AttributionMiddleware()  # type: ignore[call-arg]
    middleware: Any = asgi.AttributionMiddleware
    with pytest.raises(
        byline.SettingError, match=r"byline\.E107: .* add byline\.aiohttp_web\.AttributionMiddleware\(\)"
    ):
        middleware(web.Application(), lambda request: None)


@pytest.mark.parametrize("make_app", [aiohttp_app, tornado_app])
def test_a_wrong_setting_is_an_error_at_construction(make_app: Any) -> None:
    with pytest.raises(byline.SettingError, match=r"byline\.E011"):
        make_app(trust={"nothing"})


async def exchange(app: web.Application, request: str) -> bytes:
    """Return the start of the response to a request that no HTTP client would send."""

    async def test(client: aiohttp.ClientSession) -> bytes:
        base = client._base_url
        assert base is not None
        reader, writer = await asyncio.open_connection(base.host, base.port)
        writer.write(request.encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return answer

    answer: bytes = await serve(app, test)
    return answer


@pytest.mark.parametrize("host", ["a:b:c", "x:99999999", "[", "[::1", "user:pw@x", ""])
def test_a_host_header_that_is_no_host(host: str, finished: Finished, caplog: pytest.LogCaptureFixture) -> None:
    """A stranger's header neither fails the request of aiohttp nor costs the server span."""
    answer = asyncio.run(exchange(aiohttp_app(), f"POST /move HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    assert answer.startswith(b"HTTP/1.1 404 ")
    llm_and_server(finished)
    assert caplog.records == []


@pytest.mark.parametrize("upgrade", ["", "Connection: upgrade\r\nUpgrade: websocket\r\n"])
@pytest.mark.parametrize(("returned", "message"), [(None, "Missing return statement"), ({"a": 1}, "should return a ")])
def test_a_handler_of_aiohttp_that_returns_no_response(
    returned: Any, message: str, upgrade: str, finished: Finished, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has aiohttp's own message."""

    async def handle(_: web.Request) -> Any:
        return returned

    app = aiohttp_app()
    app.router.add_get("/none", handle)
    answer = asyncio.run(exchange(app, f"GET /none HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n"))
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert [record.name for record in caplog.records] == ["aiohttp.server"]
    assert message in caplog.text


def test_header_values_beyond_latin_1(finished: Finished) -> None:
    """The server of aiohttp sends header values as UTF-8."""

    async def download(_: web.Request) -> web.Response:
        return web.Response(headers={"content-disposition": 'attachment; filename="日本.pdf"'})

    app = aiohttp_app()
    app.router.add_get("/download", download)
    answer = asyncio.run(exchange(app, "GET /download HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert 'filename="日本.pdf"'.encode() in answer


def test_a_client_of_aiohttp_that_leaves_within_a_generator(
    finished: Finished, caplog: pytest.LogCaptureFixture
) -> None:
    """The generator is closed, the server span ends, and nothing is logged, as without the middleware."""

    async def main() -> None:
        closed = asyncio.Event()

        async def stream(_: web.Request) -> web.Response:
            async def chunks() -> AsyncIterator[bytes]:
                try:
                    while True:
                        yield b"x" * 65536
                        await asyncio.sleep(0)
                finally:
                    call_model()
                    closed.set()

            return web.Response(body=chunks())

        async def test(client: aiohttp.ClientSession) -> None:
            async with client.get("/endless", headers=HEADERS) as response:
                await response.content.readany()
                response.close()
            await closed.wait()

        app = aiohttp_app()
        app.router.add_get("/endless", stream)
        await serve(app, test)

    asyncio.run(main())
    assert llm_and_server(finished)[0]["session.id"] == "s-1"
    assert caplog.records == []
