"""The public names as users write them; two type checkers read this file, and `tests.test_public` runs it.

mypy is one of them (with all tests), ``pyright`` the other (in CI).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from litestar import Litestar
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from starlette.applications import Starlette
from starlette.middleware import Middleware
from typing_extensions import assert_type

import byline
from byline import asgi, wsgi
from byline.destinations import OTLP, Destination, Langfuse
from byline.gateways import Gateway, LiteLLM, OpenRouter
from byline.testing import Receiver, assert_signed, capture_spans, find_llm_span


def identity(scope: Mapping[str, Any]) -> dict[str, str] | None:
    user = scope.get("user")
    return None if user is None else {"user_id": str(user)}


def asgi_apps() -> list[Any]:
    app = Starlette(middleware=[Middleware(asgi.AttributionMiddleware, identity=identity, trust={"session"})])
    other = Starlette()
    other.add_middleware(asgi.AttributionMiddleware, fields={"session_id": ["body:chat.id", "header:X-Chat"]})
    # Frameworks have types of their own for the three arguments of an app.
    litestar = asgi.AttributionMiddleware(Litestar())
    wrapped = asgi.AttributionMiddleware(other, public=True, body_limit=0, app_span=False, after_response=None)
    return [app, litestar, wrapped]


def wsgi_app() -> wsgi.AttributionMiddleware:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b""]

    return wsgi.AttributionMiddleware(app, trust=lambda environ: environ.get("REMOTE_ADDR") == "10.0.0.1")


def destinations(url: str) -> list[Destination]:
    return [
        Langfuse("pk-lf-1", "sk-lf-1", url, privacy=True, sampling=0.5, spans="all"),
        OTLP(url, headers={"x-team": "a"}, spans=lambda span: span.name != "noise", conventions=["openinference"]),
    ]


def setup(url: str) -> None:
    gateways: list[Gateway] = [OpenRouter(), LiteLLM("http://litellm.internal:4000", broadcasts=True)]
    byline.instrument(
        tracer_provider=TracerProvider(), destinations=destinations(url), gateways=gateways, capture_content=True
    )
    try:
        byline.instrument(stamp="all", llm_spans=False, clients={"httpx"})
    except byline.SettingError as error:
        print(error.id, error.problem, error.advice)
    assert_type(byline.flush(timeout=1.0), bool)
    assert_type(byline.stats(), dict[str, int])
    assert_type(byline.trace_ids().app_trace_id, str | None)
    print([(label, trace.trace_id, trace.url) for label, trace in byline.trace_ids().destinations.items()])
    byline.uninstrument()


@byline.bound(session_id="s-1")
def job(number: int) -> str:
    byline.bind(user_id="ada", tags=["a"], metadata={"n": number})
    return byline.current().session_id or ""


@byline.bound(user_id="ada")
async def async_job(number: int) -> int:
    return number


@byline.unbound()
def numbers() -> Iterator[int]:
    yield 1


def functions() -> None:
    assert_type(job(1), str)
    assert_type(asyncio.run(async_job(1)), int)
    assert_type(list(numbers()), list[int])
    assert_type(byline.carry(job)(1), str)
    attribution = byline.current()
    assert_type(attribution, byline.Attribution)
    assert_type(attribution.session_id, str | None)
    with byline.bound(session_id="s-1", user_id="ada"):
        headers: dict[str, str] = {}
        byline.inject(headers)
        assert_type(byline.extract(headers), byline.Attribution)
        with byline.carried(headers):
            pass


def tests() -> None:
    with capture_spans(TracerProvider()) as spans:
        assert_type(spans, list[ReadableSpan])
    if spans:
        assert_signed(find_llm_span(spans, session_id="s-1"), user_id=None)
    with Receiver() as receiver:
        print(receiver.url, [span.attributes for span in receiver.wait_for(0)])
