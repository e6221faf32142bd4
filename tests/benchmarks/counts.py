"""Counts the bytecodes of byline that a request, a span and a chunk execute: ``python -m tests.benchmarks.counts``.

Times differ from machine to machine and from minute to minute; these counts do not. ``counts.json`` has them for each
Python version, and a test fails if one grows by more than 5 %. ``--record`` writes the counts of this Python version.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final
from unittest import mock

import httpx
from opentelemetry.sdk.trace import TracerProvider

import byline
from byline import http
from byline.asgi import AttributionMiddleware
from byline.inbound.body import BodyBuffer
from byline.inbound.reader import ClaimReader
from byline.inbound.request import AsgiRequest
from byline.instrument import runtimes
from tests.benchmarks import by_hand, client_hooks, span_processors

RECORDED: Final = Path(__file__).with_name("counts.json")
#: How much a count may grow.
TOLERANCE: Final = 0.05
_PACKAGE: Final = f"{Path(byline.__file__).parent}{os.sep}"
_REPEAT: Final = 20
_READER: Final = ClaimReader()

Scenario = Callable[[], object]


class _Counter:
    """Counts the bytecodes that byline's functions execute on this thread."""

    def __init__(self) -> None:
        self.executed = 0
        self._is_counted: dict[CodeType, bool] = {}

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        counted = self._is_counted.get(frame.f_code)
        if counted is None:
            counted = self._is_counted[frame.f_code] = frame.f_code.co_filename.startswith(_PACKAGE)
        if not counted:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._on_opcode

    def _on_opcode(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.executed += event == "opcode"
        return self._on_opcode


def count(scenario: Scenario, units: int = 1) -> float:
    """Return the bytecodes of one pass through a scenario, in parts of its units."""
    for _ in range(5):
        scenario()
    counter = _Counter()
    earlier = sys.gettrace()
    try:
        # CPython 3.12 reports no bytecodes before the second call.
        for _ in range(2):
            sys.settrace(counter.trace)
            scenario()
        counter.executed = 0
        for _ in range(_REPEAT):
            scenario()
    finally:
        sys.settrace(earlier)
    return round(counter.executed / _REPEAT / units, 2)


@contextmanager
def _scenarios() -> Iterator[dict[str, tuple[Scenario, int]]]:
    with mock.patch.dict(os.environ, span_processors.PATIENCE):
        provider = TracerProvider(shutdown_on_exit=False)
        url = span_processors.URL
        destinations = [span_processors.Silent(url, label=f"counts-{number}", spans="llm") for number in range(2)]
        byline.instrument(tracer_provider=provider, destinations=destinations[:1], clients=())
        runtime = runtimes.find(provider)
        assert runtime is not None
        two = span_processors.provider_with([each.processor() for each in destinations])
        none = span_processors.provider_with([])
        client_hooks.install(none)
        try:
            yield {
                "GET without server span": (_requests(AttributionMiddleware(by_hand.reads, app_span=False), "GET"), 1),
                "POST without server span": (
                    _requests(AttributionMiddleware(by_hand.reads, app_span=False), "POST"),
                    1,
                ),
                "POST with recording server span": (
                    _requests(by_hand.with_otel(AttributionMiddleware(by_hand.reads), provider), "POST"),
                    1,
                ),
                "POST with recording server span and LLM span": (
                    _requests(
                        by_hand.with_otel(AttributionMiddleware(by_hand.calls_model(provider)), provider), "POST"
                    ),
                    1,
                ),
                "claims that the careful reader reads": (_careful, 1),
                "LLM span, no destination": (_spans(none, span_processors.CHAT), 10),
                "LLM span, one destination": (_spans(provider, span_processors.CHAT), 10),
                "LLM span, two destinations": (_spans(two, span_processors.CHAT), 10),
                "other span, one destination": (_spans(provider, span_processors.QUERY), 10),
                "LLM span, prepared for the export too": (span_processors.exporting(provider, destinations[0], 10), 10),
                "outgoing request that is no LLM call": (_outgoing(), 1),
                "LLM call by httpx within an LLM span": (_calls(none), 10),
                "LLM call by httpx with byline's own span": (_own_calls(none), 10),
                "chunk of a stream": (_stream(5000), 5000),
            }
        finally:
            byline.uninstrument()
            http.uninstall()


def _requests(app: Any, method: str) -> Scenario:
    payload = by_hand.body(1000)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": payload, "more_body": False}

    async def send(message: Any) -> None:
        return None

    def request() -> None:
        asyncio.run(app(by_hand.scope(method), receive, send))

    return request


def _careful() -> object:
    scope = by_hand.scope("POST")
    body = BodyBuffer(1 << 24)
    body.append(by_hand.body(1000), last=True)
    return _READER.read(AsgiRequest(scope), scope, body)


def _spans(provider: TracerProvider, attributes: dict[str, str]) -> Scenario:
    tracer = provider.get_tracer("bench")

    def spans() -> None:
        with span_processors.request(provider):
            for _ in range(10):
                tracer.start_span("span", attributes=attributes).end()

    return spans


def _outgoing() -> Scenario:
    client = httpx.Client(transport=client_hooks.Transport())
    return lambda: client.post("http://orders.internal/v1/orders", content=b"{}")


def _calls(provider: TracerProvider) -> Scenario:
    client, tracer = client_hooks.calling_client(), provider.get_tracer("bench")

    def calls() -> None:
        with span_processors.request(provider):
            for _ in range(10):
                with tracer.start_as_current_span("chat", attributes=span_processors.CHAT):
                    client.post(client_hooks.LLM_URL, json=client_hooks.REQUEST)

    return calls


def _own_calls(provider: TracerProvider) -> Scenario:
    client = client_hooks.calling_client()

    def calls() -> None:
        with span_processors.request(provider):
            for _ in range(10):
                client.post(client_hooks.LLM_URL, json=client_hooks.REQUEST)

    return calls


def _stream(chunks: int) -> Scenario:
    client = client_hooks.streaming_client(chunks)

    def read() -> None:
        with client.stream("POST", client_hooks.LLM_URL, json=client_hooks.STREAMED) as response:
            for _ in response.iter_raw():
                pass

    return read


def version() -> str:
    """Return the minor version of this Python, which has bytecodes of its own."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def recorded() -> dict[str, float] | None:
    """Return the recorded counts of this Python version, ``None`` if there are none."""
    found: dict[str, dict[str, float]] = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    return found.get(version()) if platform.python_implementation() == "CPython" else None


def measure() -> dict[str, float]:
    """Return the counts of all scenarios."""
    with _scenarios() as scenarios:
        return {name: count(scenario, units) for name, (scenario, units) in scenarios.items()}


def exceeded(counts: dict[str, float], bounds: dict[str, float]) -> list[str]:
    """Return a line for each count that has grown by more than the tolerance, or that is not recorded."""
    lines = []
    for name, value in counts.items():
        bound = bounds.get(name)
        if bound is None:
            lines.append(f"{name}: {value} is not recorded")
        elif value > bound * (1 + TOLERANCE):
            lines.append(f"{name}: {value} bytecodes, {bound} recorded: {value / bound - 1:+.0%}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the counts beside the recorded ones."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.counts", description=__doc__)
    parser.add_argument("--record", action="store_true", help="write the counts of this Python version")
    given = parser.parse_args(arguments)
    counts, before = measure(), recorded() or {}
    print(f"{'bytecodes of byline, Python ' + version():<55}{'recorded':>12}{'now':>12}")
    for name, value in counts.items():
        print(f"{name:<55}{before.get(name, '-')!s:>12}{value:>12}")
    if given.record:
        found = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
        found[version()] = counts
        RECORDED.write_text(json.dumps(dict(sorted(found.items())), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
