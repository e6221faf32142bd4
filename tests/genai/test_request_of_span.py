"""Which request a span, a call and a server span belong to, if several requests run in one process or one task."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.util.genai.invocation import CLIENT_INFERENCE_CONTEXT_KEY

from byline.asgi import AttributionMiddleware
from byline.genai.record_result import genai_util_attributes
from tests.export.support import CHAT
from tests.support import Sent, claim, run_asgi, tracer

Finished = Callable[[], Sequence[ReadableSpan]]


async def answer(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


class Invocation:
    """The current invocation of OpenTelemetry's GenAI utilities, as far as byline looks at it."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}


def test_invocation_of_an_outer_request_is_not_that_of_an_inner_one(finished: Finished) -> None:
    """The inner request runs in the OpenTelemetry context of the outer one."""
    invocation, found = Invocation(), []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        found.append(genai_util_attributes())
        await answer(send)

    def in_thread(context: Any) -> None:
        otel_context.attach(context)
        found.append(genai_util_attributes())

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        with tracer.start_as_current_span("chat", attributes=CHAT):
            token = otel_context.attach(otel_context.set_value(CLIENT_INFERENCE_CONTEXT_KEY, invocation))
            found.append(genai_util_attributes())
            # A thread that OpenTelemetry's context alone was carried to is still within the invocation.
            arguments = (in_thread, otel_context.get_current())
            thread = threading.Thread(target=contextvars.Context().run, args=arguments)
            thread.start()
            thread.join()
            for app_span in (True, False):
                await run_asgi(AttributionMiddleware(inner, app_span=app_span), Sent())
            otel_context.detach(token)
        await answer(send)

    asyncio.run(run_asgi(AttributionMiddleware(outer), claim({})))
    assert found == [invocation.attributes, invocation.attributes, None, None]
