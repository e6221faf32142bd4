"""One MCP session that requests of many users share; prints whose each call was for the server, as JSON.

``python -m tests.mcp.hops COUNT SERVER…``; each server is a transport and options, e.g. ``sse,public``:

- ``stateless``: the server has no sessions
- ``public``: the server believes signed attributions only
- ``bare``: there is no middleware around the server
- ``stranger``: ``propagate_to`` does not name the host of the server
- ``named``: ``propagate_to`` names the servers that this process starts
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import byline

KEY = "k" * 32
PROTOCOL = "streamable-http"


def make_server() -> tuple[Any, Callable[..., Any]]:
    """Return a server with one tool, and a function that makes its ASGI app."""
    if os.environ.get("SDK") == "fastmcp":
        import fastmcp

        server: Any = fastmcp.FastMCP("tests")
        made = lambda **options: server.http_app(**options)  # noqa: E731
    else:
        try:
            from mcp.server.mcpserver import MCPServer

            server = MCPServer("tests")
            made = lambda **options: (  # noqa: E731
                server.sse_app()
                if options.get("transport") == "sse"
                else server.streamable_http_app(stateless_http=options.get("stateless_http", False))
            )
        except ImportError:
            from mcp.server.fastmcp import FastMCP

            server = FastMCP("tests")

            def made(**options: Any) -> Any:
                server.settings.stateless_http = options.get("stateless_http", False)
                return server.sse_app() if options.get("transport") == "sse" else server.streamable_http_app()

    @server.tool()
    async def who() -> str:
        """Return whose call this is."""
        await asyncio.sleep(0)
        from opentelemetry import trace

        got = byline.current()
        trace_id = trace.get_current_span().get_span_context().trace_id
        return json.dumps([got.user_id, got.session_id, f"{trace_id:032x}"])

    return server, made


class Recorder:
    """Counts the requests in which an id was sent."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.ids = 0
        self.requests = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests += 1
        self.ids += b"x-byline" in dict(scope.get("headers", ()))

        async def look() -> Any:
            message = await receive()
            self.ids += b"x-byline" in message.get("body", b"")
            return message

        await self.app(scope, look, send)


@contextlib.contextmanager
def served(app: Any) -> Any:
    """Serve an app in a thread, and return its port."""
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    try:
        yield listening.getsockname()[1]
    finally:
        running.should_exit = True
        thread.join(30)


@contextlib.asynccontextmanager
async def session_with(transport: str, target: Any) -> AsyncIterator[Callable[[], Any]]:
    """Open a session, and return a function that calls the tool."""
    if os.environ.get("SDK") == "fastmcp":
        import fastmcp
        from fastmcp.client.transports import SSETransport, StdioTransport, StreamableHttpTransport

        made: Any = target
        if transport == "stdio":
            made = StdioTransport(sys.executable, ["-m", "tests.mcp.hops", "serve"], env=dict(os.environ))
        elif transport != "memory":
            made = (SSETransport if transport == "sse" else StreamableHttpTransport)(target)
        async with fastmcp.Client(made) as client:

            async def call() -> Any:
                return (await client.call_tool("who", {})).content

            yield call
        return
    from mcp.client.sse import sse_client
    from mcp.client.stdio import stdio_client

    from mcp import ClientSession, StdioServerParameters

    try:
        from mcp.client.streamable_http import streamable_http_client
    except ImportError:
        from mcp.client.streamable_http import streamablehttp_client as streamable_http_client

    async with contextlib.AsyncExitStack() as stack:
        if transport == "memory":
            from mcp.shared.memory import create_client_server_memory_streams

            (client_read, client_write), (server_read, server_write) = await stack.enter_async_context(
                create_client_server_memory_streams()
            )
            lowlevel = getattr(target, "_mcp_server", None) or target._lowlevel_server
            serving = asyncio.create_task(
                lowlevel.run(server_read, server_write, lowlevel.create_initialization_options())
            )
            stack.callback(serving.cancel)
            streams: Any = (client_read, client_write)
        elif transport == "stdio":
            parameters = StdioServerParameters(
                command=sys.executable, args=["-m", "tests.mcp.hops", "serve"], env=dict(os.environ)
            )
            streams = await stack.enter_async_context(stdio_client(parameters))
        else:
            connect: Any = sse_client if transport == "sse" else streamable_http_client
            streams = await stack.enter_async_context(connect(target))
        session = await stack.enter_async_context(ClientSession(*streams[:2]))
        await session.initialize()

        async def call_tool() -> Any:
            return (await session.call_tool("who", {})).content

        yield call_tool


async def run_calls(transport: str, target: Any, count: int) -> Counter[str]:
    """Call the tool for interleaved users, 16 at a time."""
    from opentelemetry import trace

    tracer = trace.get_tracer("tests")
    found: Counter[str] = Counter()
    limit = asyncio.Semaphore(16)

    async def one(number: int, call: Callable[[], Any]) -> None:
        user = None if number % 7 == 0 else f"user-{number % 97}"
        block = byline.bound(user_id=user, session_id=f"of {user}") if user else byline.unbound()
        async with limit:
            with block, tracer.start_as_current_span("request") as span:
                content = await call()
        trace_id = f"{span.get_span_context().trace_id:032x}"
        got = json.loads(content[0].text)
        # Without a user's session, the connection to the server is the session.
        session = got[1] if str(got[1]).startswith(("of ", "first")) else None
        right = [user, f"of {user}" if user else None]
        found["right" if [got[0], session] == right else "none" if got[0] is session is None else "wrong"] += 1
        found["in trace"] += got[2] == trace_id

    with byline.bound(user_id="first", session_id="first"), tracer.start_as_current_span("first"):
        async with session_with(transport, target) as call:
            await asyncio.gather(*(one(number, call) for number in range(count)))
    return found


def run(transport: str, options: list[str], count: int) -> Counter[str]:
    byline.instrument(destinations=[], propagate_to=["127.0.0.1", *(["stdio"] if "named" in options else [])])
    server, make_app = make_server()
    if transport in ("memory", "stdio"):
        return asyncio.run(run_calls(transport, server, count))
    from byline.asgi import AttributionMiddleware

    app = make_app(
        **({"transport": "sse"} if transport == "sse" else {}),
        **({"stateless_http": True} if "stateless" in options else {}),
    )
    if "bare" not in options:
        app = AttributionMiddleware(app, public="public" in options)
    app = Recorder(app)
    host = "localhost" if "stranger" in options else "127.0.0.1"
    with served(app) as port:
        url = f"http://{host}:{port}/{'sse' if transport == 'sse' else 'mcp'}"
        found = asyncio.run(run_calls(transport, url, count))
    assert app.requests > count
    found["ids sent"] = app.ids
    return found


def main(arguments: list[str]) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    trace.set_tracer_provider(TracerProvider())
    if arguments == ["serve"]:
        byline.instrument(destinations=[])
        make_server()[0].run()
        return
    for name in arguments[1:]:
        transport, *options = name.split(",")
        found = run(transport, options, int(arguments[0]))
        failed = [counter for counter in byline.stats() if counter.startswith(("errors.", "carry."))]
        print(json.dumps([name, dict(found), failed]), flush=True)
        byline.uninstrument()


if __name__ == "__main__":
    main(sys.argv[1:])
