"""Replays the LLM spans that real instrumentations have made, attribute by attribute.

``instrumentations.json`` was recorded from the instrumentations at work, with contents that begin with
`MARKER` wherever content was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, Status, StatusCode

MARKER: Final = "c0ntent-"
RECORDED: Final[list[dict[str, Any]]] = json.loads(
    Path(__file__).with_name("instrumentations.json").read_text(encoding="utf-8")
)
INSTRUMENTATIONS: Final = sorted({item["instrumentation"] for item in RECORDED})


def recorded(instrumentation: str, scenario: str | None = None) -> list[dict[str, Any]]:
    """Return the spans of an instrumentation."""
    return [
        item for item in RECORDED if item["instrumentation"] == instrumentation and scenario in (None, item["scenario"])
    ]


def replay(provider: TracerProvider, item: dict[str, Any], **more: Any) -> None:
    """Make a span again, with the attributes that it had at its start and those that came later."""
    tracer = provider.get_tracer(item["scope"])
    span = tracer.start_span(item["name"], kind=SpanKind[item["kind"]], attributes=item["start"])
    for key, value in {**item["end"], **more}.items():
        span.set_attribute(key, value)
    for event in item["events"]:
        span.add_event(event["name"], event["attrs"])
    if item["status"] == "ERROR":
        span.set_status(Status(StatusCode.ERROR, f"{MARKER}error: the provider said no"))
    span.end()
