"""A variant is measured only if the receiver got the spans that it promises; the receiver counts them rightly."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import SpanKind

from tests.benchmarks import end_to_end
from tests.benchmarks.served import PROMPT, SESSION, GatewayAndReceivers
from tests.benchmarks.variants import VARIANTS

_PORT = 4318


async def _send(app: Any, path: str, body: bytes) -> bytes:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "path": path, "headers": [], "server": ("127.0.0.1", _PORT)}, receive, send)
    return b"".join(message.get("body", b"") for message in sent)


def _count(path: str, body: bytes) -> Any:
    app = GatewayAndReceivers()
    asyncio.run(_send(app, path, body))
    found = json.loads(asyncio.run(_send(app, f"/seen/{_PORT}", b"")))
    # Each question begins anew.
    assert json.loads(asyncio.run(_send(app, f"/seen/{_PORT}", b""))) == {}
    return found


def test_otlp_spans_are_counted_by_kind() -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("app")
    model = {"gen_ai.request.model": "gpt-4o"}
    spans: list[Any] = [
        tracer.start_span("POST /chat", kind=SpanKind.SERVER, attributes={"session.id": SESSION}),
        tracer.start_span("chat", attributes=model),
        tracer.start_span("chat", attributes={**model, "session.id": SESSION}),
        tracer.start_span("chat", attributes={**model, "session.id": SESSION, "gen_ai.input.messages": PROMPT}),
        tracer.start_span("SELECT", attributes={"session.id": SESSION}),
    ]
    ended: list[ReadableSpan] = []
    for span in spans:
        span.end()
        ended.append(span)
    body = encode_spans(ended).SerializeToString()
    assert _count("/v1/traces", body) == {
        "posts": 1,
        "bytes": len(body),
        "spans": 5,
        "server": 1,
        "llm": 3,
        "session": 2,
        "content": 1,
    }


def test_a_run_of_langsmith_is_counted_once() -> None:
    def part(name: str, value: str) -> bytes:
        return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()

    run = "0198-a1"
    body = b"".join(
        (
            part(f"post.{run}", "{}"),
            part(f"post.{run}.inputs", PROMPT),
            part(f"post.{run}.extra", SESSION),
            part(f"patch.{run}", SESSION),
            b"--b--\r\n",
        )
    )
    found = _count("/runs/multipart", body)
    assert found == {"posts": 1, "bytes": len(body), "spans": 1, "llm": 1, "session": 1, "content": 1}


def test_summary_has_the_ratios_of_each_round() -> None:
    def rounds(*rates: float) -> list[dict[str, float]]:
        return [{"requests/s": rate, "p99": 1000 / rate} for rate in rates]

    # The machine has slowed down to a tenth in the last round.
    found = end_to_end.summarize({"opentelemetry": rounds(100, 200, 10), "byline-llm": rounds(50, 150, 9)})
    ours = found["byline-llm"]
    assert (ours["requests/s"], ours["ratio"], ours["ratio lower"], ours["ratio upper"]) == (50, 0.75, 0.625, 0.825)


@pytest.mark.newest
@pytest.mark.integration
def test_a_variant_that_sends_other_spans_than_it_promises_is_not_measured() -> None:
    (ours,) = [each for each in VARIANTS if each.name == "byline-llm"]
    measured = end_to_end.measure("uvicorn", [ours._replace(sends=ours.sends - {"session"})], rounds=0, seconds=0)
    assert measured.rounds == {"/plain": {}, "/chat": {}}
    assert measured.failed == {"byline-llm": "sent ['llm', 'session']"}
