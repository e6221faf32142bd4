"""What grows with what: headers, body, claims, LLM spans, destinations and response, each at four sizes.

``python -m tests.benchmarks curves --svg FILE`` also draws them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final
from unittest import mock

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import byline
from byline.apis import find_parser
from byline.asgi import AttributionMiddleware
from byline.call_result import CallResult
from byline.genai.attribution_processor import request_attributes
from tests.benchmarks import by_hand, replies, span_processors
from tests.benchmarks.measure import Row, costs
from tests.benchmarks.span_processors import CHAT, Nowhere, SetAttributes, Silent

_BY_HAND: Final = "the same by hand"
_WITH_PROCESSORS: Final = "batch processors and set_attributes"
_COUNTS: Final = (1, 4, 16, 64)
_NUMBERS: Final = (1, 2, 4, 8)
_SIZES: Final = {"1 KB": 1000, "10 KB": 10_000, "100 KB": 100_000, "1 MB": 1_000_000}
#: Of one panel of the picture, and the colours of byline and of the reference.
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 330, 210, 46, 52, 170
_COLOURS: Final = ("#0b63ce", "#8a8f98")


def rows() -> list[Row]:
    """Return the microseconds that byline adds at each size, beside what would do the same."""
    with mock.patch.dict("os.environ", span_processors.PATIENCE):
        return [*_requests(), *_spans(), *_destinations(), *_replies()]


def _rows(
    curve: str,
    reference: str,
    makers: Mapping[str, Mapping[str, Callable[[int], None]]],
    loops: Sequence[int],
    units: int = 1,
) -> Iterator[Row]:
    """Measure ``plain``, ``ours`` and ``theirs`` at each size."""
    for (size, variants), count in zip(makers.items(), loops, strict=True):
        taken = costs(variants, loops=count)
        plain = taken.get("plain", 0.0)
        theirs, ours = (taken["theirs"] - plain) / units, (taken["ours"] - plain) / units
        yield Row(f"{curve}: {size}", reference, theirs, ours, None)


def _drive(app: Any, payload: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Callable[[int], None]:
    async def receive() -> Any:
        return {"type": "http.request", "body": payload, "more_body": False}

    async def send(message: Any) -> None:
        return None

    async def run(loops: int) -> None:
        for _ in range(loops):
            await app({**by_hand.scope("POST"), "headers": list(headers)}, receive, send)

    return lambda loops: asyncio.run(run(loops))


def _requests() -> Iterator[Row]:
    plain, hand, ours = TracerProvider(), TracerProvider(), TracerProvider()
    hand.add_span_processor(by_hand.HandProcessor())
    for provider in (plain, hand, ours):
        provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    byline.instrument(tracer_provider=ours, destinations=[], clients=())
    apps = {
        "plain": by_hand.with_otel(by_hand.reads, plain),
        "theirs": by_hand.with_otel(by_hand.HandMiddleware(by_hand.reads), hand),
        "ours": by_hand.with_otel(AttributionMiddleware(by_hand.reads), ours),
    }

    def variants(payload: bytes, headers: Sequence[tuple[bytes, bytes]]) -> dict[str, Callable[[int], None]]:
        return {name: _drive(app, payload, headers) for name, app in apps.items()}

    body, few = by_hand.body(1000), by_hand.HEADERS
    others = [(b"x-forwarded-%d" % number, b"value") for number in range(64)]
    claims = {
        "session_id": "s-1",
        "user": "u1",
        "trace": {"trace_name": "n", **{f"key{number}": "value" for number in range(48)}},
    }

    def claiming(count: int) -> bytes:
        shortened = {**claims, "trace": dict(list(claims["trace"].items())[: count - 2])}  # type: ignore[attr-defined]
        return json.dumps({"model": "gpt-4o", "messages": [], **shortened}).encode()

    try:
        sizes = {str(count): variants(body, [*few, *others][:count]) for count in (8, 16, 32, 64)}
        yield from _rows("headers of a request", _BY_HAND, sizes, (100,) * 4)
        sizes = {name: variants(by_hand.body(size), few) for name, size in _SIZES.items()}
        yield from _rows("body of a request", _BY_HAND, sizes, (100, 60, 20, 3))
        sizes = {str(count): variants(claiming(count), few) for count in (3, 6, 12, 24)}
        yield from _rows("claims of a request", _BY_HAND, sizes, (100,) * 4)
    finally:
        byline.uninstrument()
        for provider in (plain, hand, ours):
            provider.shutdown()


def _spans() -> Iterator[Row]:
    providers = _providers(1)
    sizes = {str(count): {name: _in_request(each, count) for name, each in providers.items()} for count in _COUNTS}
    yield from _rows("LLM spans of a request", _WITH_PROCESSORS, sizes, (60, 30, 10, 4))


def _destinations() -> Iterator[Row]:
    sizes = {}
    for count in _NUMBERS:
        sizes[str(count)] = {name: _in_request(each, 10) for name, each in _providers(count).items()}
    yield from _rows("destinations of an LLM span", _WITH_PROCESSORS, sizes, (20,) * 4, units=10)


def _providers(destinations: int) -> dict[str, TracerProvider]:
    """Return a provider that only makes spans, one with batch processors and one with destinations of byline."""
    plain, theirs = TracerProvider(shutdown_on_exit=False), TracerProvider(shutdown_on_exit=False)
    with span_processors.request(plain) as context:
        theirs.add_span_processor(SetAttributes(request_attributes(context)))
    for _ in range(destinations):
        theirs.add_span_processor(BatchSpanProcessor(Nowhere()))
    own = [Silent(span_processors.URL, spans="llm", label=f"{destinations}-{number}") for number in range(destinations)]
    return {"plain": plain, "theirs": theirs, "ours": span_processors.provider_with([each.processor() for each in own])}


def _in_request(provider: TracerProvider, spans: int) -> Callable[[int], None]:
    tracer = provider.get_tracer("bench")

    def run(loops: int) -> None:
        for _ in range(loops):
            with span_processors.request(provider):
                for _ in range(spans):
                    tracer.start_span("chat", attributes=CHAT).end()

    return run


def _replies() -> Iterator[Row]:
    parser = find_parser("/v1/chat/completions")
    assert parser is not None

    def ours(body: bytes) -> Callable[[int], None]:
        def run(loops: int) -> None:
            for _ in range(loops):
                result = CallResult()
                parser.parse_response(body, result, capture=False)
                assert result.input_tokens == 3

        return run

    def theirs(body: bytes) -> Callable[[int], None]:
        def run(loops: int) -> None:
            for _ in range(loops):
                json.loads(body)

        return run

    sizes = {}
    for name, size in _SIZES.items():
        body = replies.chat_reply({"message": {"role": "assistant", "content": "lorem ipsum dolor " * (size // 18)}})
        sizes[name] = {"ours": ours(body), "theirs": theirs(body)}
    yield from _rows("response of a model", "json.loads of it", sizes, (100, 50, 20, 5))


def draw(rows: Sequence[Row]) -> str:
    """Return the curves as SVG, one panel for each, with the value at each size."""
    curves: dict[str, list[tuple[str, Row]]] = {}
    for row in rows:
        name, _, size = row.name.rpartition(": ")
        curves.setdefault(name, []).append((size, row))
    panels = [_panel(name, points) for name, points in curves.items()]
    height = _HEIGHT * -(-len(panels) // 2)
    placed = [
        f'<g transform="translate({_WIDTH * (number % 2)} {_HEIGHT * (number // 2)})">{panel}</g>'
        for number, panel in enumerate(panels)
    ]
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * _WIDTH} {height}" font-family="sans-serif">',
            f'<rect width="{2 * _WIDTH}" height="{height}" fill="#fff"/>',
            *placed,
            "</svg>\n",
        )
    )


def _panel(name: str, points: Sequence[tuple[str, Row]]) -> str:
    lines = {
        "byline": [float(row.ours) for _, row in points],
        points[0][1].reference: [row.theirs for _, row in points],
    }
    top = max(max(values) for values in lines.values())
    step = (_WIDTH - 2 * _LEFT) / (len(points) - 1)
    drawn = [f'<text x="12" y="20" font-size="13" fill="#24292f">{escape(name)}</text>']
    drawn += [_text(_LEFT + step * number, _BOTTOM + 28, size, "#57606a") for number, (size, _) in enumerate(points)]
    drawn.append(f'<path d="M{_LEFT} {_BOTTOM}H{_WIDTH - _LEFT}" stroke="#d0d7de"/>')
    # The higher line of each size has its value above, the lower one below.
    for index, (label, values) in enumerate(lines.items()):
        colour = _COLOURS[index]
        others = [*lines.values()][1 - index]
        drawn.append(f'<text x="{12 + 60 * index}" y="37" font-size="11" fill="{colour}">{escape(label)}</text>')
        at = [(_LEFT + step * n, _BOTTOM - (_BOTTOM - _TOP - 12) * value / top) for n, value in enumerate(values)]
        path = " ".join(f"{x:.0f},{y:.0f}" for x, y in at)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (x, y), value, other in zip(at, values, others, strict=True):
            drawn.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="2.5" fill="{colour}"/>')
            drawn.append(_text(x, y - 6 if value >= other else y + 13, microseconds(value), colour))
    return "".join(drawn)


def _text(x: float, y: float, text: str, colour: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="10" text-anchor="middle" fill="{colour}">{escape(text)}</text>'


def microseconds(value: float) -> str:
    """Return a time with its unit, in two or three digits."""
    return f"{value / 1000:.1f} ms" if value >= 1000 else f"{value:.0f} µs" if value >= 10 else f"{value:.1f} µs"
