"""Spans, batches and senders for the tests of delivery."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from byline import internal_metrics
from byline.export.delivery.batch import Batch, encode_batches
from byline.export.delivery.batch_sender import BatchSender

_TRACER = TracerProvider(shutdown_on_exit=False).get_tracer("app")


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_spans(*names: str, size: int = 0) -> list[ReadableSpan]:
    """Return ended spans, each with a text of so many characters that do not compress."""
    spans = []
    for name in names:
        span: Any = _TRACER.start_span(name, attributes={"text": os.urandom(size // 2).hex()} if size else None)
        span.end()
        spans.append(span)
    return spans


def make_batch(count: int = 1, size: int = 0) -> Batch:
    """Return a batch of spans."""
    (batch,) = encode_batches(make_spans(*(f"span {number}" for number in range(count)), size=size))
    assert isinstance(batch, Batch)
    return batch


def counted(name: str = "x") -> dict[str, int]:
    """Return the counters of a destination's spans."""
    prefix = f"{name}.spans."
    values = internal_metrics.counter_values()
    return {key.removeprefix(prefix): count for key, count in values.items() if key.startswith(prefix)}


def no_delay(failures: int) -> float:
    """Retry almost at once."""
    return 0.001


@contextmanager
def sending(url: str, spool: Path | Literal[""] | None = None, **options: Any) -> Iterator[BatchSender]:
    """Give a sender that retries almost at once, and close it at the end without another attempt."""
    options = {"headers": {}, "delay": no_delay, "spool": spool or None, **options}
    sender = BatchSender("x", endpoint=f"{url}/v1/traces", **options)
    try:
        yield sender
    finally:
        sender.close(0.0)
