"""A process that makes spans for destinations which fail; run by the fault matrix, and ended by signals.

Run as ``python -m tests.export.faulty_app SPOOL COUNT HOW URL…``. It prints ``ready`` when the spans are made, with a
spool when they are safe there. With ``wait`` it waits for a signal then; SIGTERM ends it as an orderly end of the
interpreter does. At the end it prints its counters as JSON. Destinations are labelled by number.
"""

from __future__ import annotations

import atexit
import json
import signal
import sys
import threading
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

import byline
from byline import internal_metrics, runtime
from byline.export import OTLP, worker
from tests.export.faults import HOST_WITHOUT_ADDRESS, make_impatient


def stop(*_: Any) -> None:
    raise SystemExit(0)


def main(spool: str, count: int, how: str, urls: list[str]) -> None:
    make_impatient(setattr)
    # A response that comes too late on a busy machine would be a lost one.
    runtime._SHUTDOWN_TIMEOUT = 60.0  # type: ignore[misc]
    worker.SHUTDOWN_TIMEOUT = 60.0  # type: ignore[misc]
    signal.signal(signal.SIGTERM, stop)
    # Before byline's own, so that it runs after that.
    atexit.register(lambda: print(json.dumps(internal_metrics.counter_values()), flush=True))
    destinations = [
        OTLP(url, spool=spool, label=f"fault-{number}", allow_http=[HOST_WITHOUT_ADDRESS])
        for number, url in enumerate(urls)
    ]
    provider = TracerProvider(shutdown_on_exit=False)
    byline.instrument(tracer_provider=provider, destinations=destinations, clients=())
    tracer = provider.get_tracer("app")
    for number in range(count):
        tracer.start_span(f"chat {number}").end()
    if spool:
        provider.force_flush()
    print("ready", flush=True)
    if how == "wait":
        threading.Event().wait(120)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:])
