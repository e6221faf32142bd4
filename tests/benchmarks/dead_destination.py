"""Cost of a dead destination on the app's threads, beside a destination that accepts everything."""

from __future__ import annotations

import logging
from typing import Final
from unittest import mock

from opentelemetry.sdk.trace import TracerProvider

from byline import internal_metrics
from byline.export import OTLP
from byline.testing import Receiver
from tests.benchmarks.measure import Row, costs, repeated

_CHAT: Final = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o"}
_LOOPS: Final = 400
_ROUNDS: Final = 20


def rows() -> list[Row]:
    """Return the time that each destination adds to the end of a span."""
    # That it is said again and again belongs to the exporter's thread.
    for name in ("opentelemetry", "byline"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with Receiver() as gone:
        pass
    with Receiver() as receiver:
        plain, live, dead = (TracerProvider(shutdown_on_exit=False) for _ in range(3))
        with mock.patch.dict("os.environ", OTEL_BSP_MAX_QUEUE_SIZE=str(10 * _LOOPS * _ROUNDS)):
            # So long that nothing is refused, however fast the spans come.
            taking = OTLP(receiver.url, label="live")
            live.add_span_processor(taking.processor())
        refusing = OTLP(gone.url, label="dead")
        dead.add_span_processor(refusing.processor())
        tracers = {name: each.get_tracer("bench") for name, each in (("plain", plain), ("live", live), ("dead", dead))}

        def run(name: str, loops: int) -> None:
            start = tracers[name].start_span
            for _ in range(loops):
                start("chat", attributes=_CHAT).end()

        # Its queue is full before anything is measured.
        run("dead", 5000)
        taken = costs(
            {name: lambda loops, name=name: run(name, loops) for name in tracers},  # type: ignore[misc]
            loops=_LOOPS,
            rounds=_ROUNDS,
        )
        counts = internal_metrics.counter_values()
        assert counts["dead.spans.dropped.queue_full"] > repeated(_LOOPS) * repeated(_ROUNDS) / 2
        assert "live.spans.dropped.queue_full" not in counts
        for destination in (taking, refusing):
            destination.shutdown()
    return [
        Row(
            "a span for a dead destination",
            "one for a live destination",
            taken["live"] - taken["plain"],
            taken["dead"] - taken["plain"],
            1.1,
        )
    ]
