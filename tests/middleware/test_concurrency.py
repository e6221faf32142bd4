"""Hundreds of requests of thirty users at once: no span carries the attribution of another request."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from flask import Flask, Response, request
from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import ReadableSpan
from starlette.middleware.base import BaseHTTPMiddleware

import byline
from byline import request_context
from byline.asgi import AttributionMiddleware
from byline.genai import attributes as names
from byline.wsgi import AttributionMiddleware as WsgiMiddleware
from tests.servers import uvicorn_server, wsgiref_server
from tests.support import claim, environ_of, run_asgi, run_wsgi, tracer

Finished = Callable[[], Sequence[ReadableSpan]]
REQUESTS, USERS = 300, 30


def call_model(number: int) -> None:
    """Make an LLM span that knows for which request it is, and count it."""
    attributes: Any = {"gen_ai.operation.name": "chat", "app.request": number}
    with tracer.start_as_current_span("chat", attributes=attributes):
        owner = request_context.current_context()
        if owner is not None:
            owner.totals.add(input_tokens=1)


def check(finished: Finished, calls: int, requests: int = REQUESTS) -> None:
    """Each LLM span and each server span has its own request's session, user and bound tag."""
    spans: list[dict[str, Any]] = [dict(span.attributes or {}) for span in finished()]
    llm = [attributes for attributes in spans if "app.request" in attributes]
    for attributes in llm:
        number = attributes["app.request"]
        assert attributes[names.SESSION_ID] == f"session-{number}"
        assert attributes[names.USER_ID] == f"user-{number % USERS}"
        assert attributes[names.TAGS] == (f"tag-{number}",)
    assert Counter(attributes["app.request"] for attributes in llm) == dict.fromkeys(range(requests), calls)
    apps = [attributes for attributes in spans if names.LLM_CALLS in attributes]
    assert len(apps) == requests
    for attributes in apps:
        number = int(attributes[names.SESSION_ID].removeprefix("session-"))
        assert attributes[names.USER_ID] == f"user-{number % USERS}"
        assert attributes[names.LLM_CALLS] == attributes[names.LLM_INPUT_TOKENS] == calls


def fastapi_app() -> FastAPI:
    app = FastAPI()

    @app.post("/sync")
    def sync(body: dict[str, Any]) -> str:
        number = body["number"]
        byline.bind(tags=[f"tag-{number}"])
        for _ in range(3):
            call_model(number)
        return "ok"

    @app.post("/async")
    async def asynchronous(body: dict[str, Any]) -> str:
        number = body["number"]
        byline.bind(tags=[f"tag-{number}"])

        async def step() -> None:
            await asyncio.sleep(0)
            call_model(number)

        await step()
        await asyncio.gather(step(), asyncio.to_thread(call_model, number))
        return "ok"

    @app.post("/stream")
    async def stream(body: dict[str, Any]) -> StreamingResponse:
        number = body["number"]
        byline.bind(tags=[f"tag-{number}"])

        async def chunks() -> AsyncIterator[str]:
            for chunk in "ok":
                await asyncio.sleep(0)
                call_model(number)
                yield chunk
            call_model(number)

        return StreamingResponse(chunks())

    async def passes(request: Request, call_next: Any) -> Any:
        await asyncio.sleep(0)
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=passes)
    app.add_middleware(AttributionMiddleware)
    return app


def body_of(number: int) -> dict[str, Any]:
    return {"number": number, "user": f"user-{number % USERS}"}


def headers_of(number: int) -> dict[str, str]:
    return {"x-session-id": f"session-{number}"}


def path_of(number: int) -> str:
    return ("/sync", "/async", "/stream")[number % 3]


def test_async_requests_of_one_loop(finished: Finished) -> None:
    app = fastapi_app()

    async def send(number: int) -> int | None:
        sent = claim(body_of(number), headers=list(headers_of(number).items()), path=path_of(number))
        run = await run_asgi(app, sent)
        assert request_context.current_context() is None
        return run.status

    async def run() -> list[int | None]:
        return await asyncio.gather(*(send(number) for number in range(REQUESTS)))

    assert asyncio.run(run()) == [200] * REQUESTS
    check(finished, 3)


def test_requests_over_keep_alive_connections_of_uvicorn(finished: Finished) -> None:
    """Each connection carries many requests, one after another in the same server task."""

    async def drive(host: str, port: int) -> list[int]:
        limits = httpx2.Limits(max_connections=20, max_keepalive_connections=20)
        async with httpx2.AsyncClient(base_url=f"http://{host}:{port}", limits=limits, timeout=60) as client:

            async def send(number: int) -> int:
                answer = await client.post(path_of(number), json=body_of(number), headers=headers_of(number))
                return answer.status_code

            return await asyncio.gather(*(send(number) for number in range(REQUESTS)))

    with uvicorn_server(fastapi_app()) as (host, port):
        assert asyncio.run(drive(host, port)) == [200] * REQUESTS
    check(finished, 3)


def wsgi_app() -> Any:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        body = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        number = body["number"]
        byline.bind(tags=[f"tag-{number}"])
        call_model(number)
        start_response("200 OK", [])
        yield b"o"
        call_model(number)
        carried = otel_context.get_current()

        def work() -> None:
            otel_context.attach(carried)
            attributes: Any = {"gen_ai.operation.name": "chat", "app.request": number}
            tracer.start_span("chat", attributes=attributes).end()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(20)
        owner = request_context.current_context()
        assert owner is not None
        owner.totals.add(input_tokens=1)
        yield b"k"

    return WsgiMiddleware(app)


def test_requests_of_32_threads(finished: Finished) -> None:
    app = wsgi_app()

    def send(number: int) -> bytes:
        run = run_wsgi(app, claim(body_of(number), headers=list(headers_of(number).items())))
        assert request_context.current_context() is None
        return run.body

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(send, range(REQUESTS))) == [b"ok"] * REQUESTS
    check(finished, 3)


def test_bodies_that_take_turns_on_one_thread(finished: Finished) -> None:
    """As under a server that reads many answers in one loop."""
    app = wsgi_app()
    requests = 50
    open_answers: list[Any] = []
    for number in range(requests):
        sent = claim(body_of(number), headers=list(headers_of(number).items()))
        open_answers.append(app(environ_of(sent), lambda *_: None))
    for _ in range(2):
        for answer in open_answers:
            next(answer)
            assert request_context.current_context() is None
    for answer in reversed(open_answers):
        assert list(answer) == []
        answer.close()
    check(finished, 3, requests)


def test_requests_to_a_threaded_server(finished: Finished) -> None:
    """A thread a request, over loopback."""
    flask = Flask("app")

    @flask.post("/")
    def chat() -> Response:
        number = request.get_json()["number"]
        byline.bind(tags=[f"tag-{number}"])
        call_model(number)

        def chunks() -> Iterator[str]:
            for chunk in "ok":
                call_model(number)
                yield chunk

        return Response(chunks())

    flask.wsgi_app = WsgiMiddleware(flask.wsgi_app)  # type: ignore[method-assign]
    requests = 300
    with wsgiref_server(flask) as (host, port), httpx2.Client(base_url=f"http://{host}:{port}", timeout=60) as client:

        def send(number: int) -> str:
            return client.post("/", json=body_of(number), headers=headers_of(number)).text

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(send, range(requests))) == ["ok"] * requests
    check(finished, 3, requests)


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_jobs_that_are_bound_at_once(kind: str, finished: Finished) -> None:
    def bind(number: int) -> Any:
        return byline.bound(session_id=f"session-{number}", user_id=f"user-{number % USERS}", tags=[f"tag-{number}"])

    async def job(number: int) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            call_model(number)

    async def run() -> None:
        await asyncio.gather(*(bind(number)(job)(number) for number in range(200)))

    def in_thread(number: int) -> None:
        for _ in range(3):
            call_model(number)

    if kind == "coroutine":
        asyncio.run(run())
    else:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda number: bind(number)(in_thread)(number), range(200)))
    spans: list[dict[str, Any]] = [dict(span.attributes or {}) for span in finished()]
    assert Counter(attributes["app.request"] for attributes in spans) == dict.fromkeys(range(200), 3)
    for attributes in spans:
        number = attributes["app.request"]
        assert (attributes[names.SESSION_ID], attributes[names.TAGS]) == (f"session-{number}", (f"tag-{number}",))
