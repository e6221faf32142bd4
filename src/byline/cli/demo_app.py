"""The demo's apps, an OpenAI-compatible chat API with FastAPI and with Flask, and the servers that run them."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import flask
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from openai import AsyncOpenAI, OpenAI

from byline import asgi, wsgi


def make_fastapi(base_url: str) -> Any:
    """Return a FastAPI app with the middleware, which calls the gateway at a base URL."""
    client = AsyncOpenAI(base_url=base_url, api_key="demo")
    app = FastAPI()
    app.add_middleware(asgi.AttributionMiddleware)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        answer: Any = await client.chat.completions.create(
            model=body["model"], messages=body["messages"], stream=bool(body.get("stream"))
        )
        if not body.get("stream"):
            return JSONResponse(answer.model_dump(mode="json"))

        async def stream_events() -> AsyncIterator[str]:
            async for chunk in answer:
                yield f"data: {chunk.model_dump_json()}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(stream_events(), media_type="text/event-stream")

    return app


def make_flask(base_url: str) -> Any:
    """Return a Flask app with the middleware, which calls the gateway at a base URL."""
    client = OpenAI(base_url=base_url, api_key="demo")
    app: Any = flask.Flask("demo")
    app.wsgi_app = wsgi.AttributionMiddleware(app.wsgi_app)

    @app.post("/v1/chat/completions")  # type: ignore[untyped-decorator]
    def chat() -> Any:
        body = flask.request.get_json()
        answer: Any = client.chat.completions.create(
            model=body["model"], messages=body["messages"], stream=bool(body.get("stream"))
        )
        if not body.get("stream"):
            return flask.jsonify(answer.model_dump(mode="json"))

        def stream_events() -> Iterator[str]:
            for chunk in answer:
                yield f"data: {chunk.model_dump_json()}\n\n"
            yield "data: [DONE]\n\n"

        return flask.Response(stream_events(), mimetype="text/event-stream")

    return app


@contextmanager
def serve_asgi(app: Any) -> Iterator[str]:
    """Run an ASGI app with uvicorn on a free port of 127.0.0.1 and yield its base URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
    # Connections made before uvicorn accepts wait in the socket's backlog, so nothing polls for readiness.
    listener.listen()

    def run_server() -> None:
        try:
            server.run(sockets=[listener])
        finally:
            # If uvicorn could not start, clients in the backlog would wait for ever.
            listener.close()

    thread = threading.Thread(target=run_server, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


class _ThreadedServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind without the reverse DNS lookup of ``HTTPServer.server_bind``."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's signature
        """Print no access log."""


@contextmanager
def serve_wsgi(app: Any) -> Iterator[str]:
    """Run a WSGI app on a free port of 127.0.0.1, one thread per request, and yield its base URL."""
    server = make_server("127.0.0.1", 0, app, server_class=_ThreadedServer, handler_class=_SilentHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
