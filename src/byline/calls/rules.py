"""What `byline.instrument` said of calls, as it is in force."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.trace import Tracer

from byline.calls.own import LLMSpans
from byline.gateways.gateway import Gateway
from byline.gateways.known import Known


class Rules:
    """What holds for all calls.

    Args:
        tracer: Makes byline's own LLM spans.
        gateways: The gateways that the app named.
        llm_spans: Whether to make LLM spans.
        capture_content: Whether prompts and completions go onto them.
    """

    def __init__(self, tracer: Tracer, gateways: Sequence[Gateway], llm_spans: LLMSpans, capture_content: bool) -> None:
        self.tracer = tracer
        self.known = Known(gateways)
        self.llm_spans: LLMSpans = llm_spans
        self.capture_content = capture_content


#: The rules in force, ``None`` while byline is not instrumented.
in_force: Rules | None = None


def put_in_force(new: Rules | None) -> None:
    """Put rules in force, or none."""
    global in_force
    in_force = new
