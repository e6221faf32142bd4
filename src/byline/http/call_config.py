"""What `byline.instrument` said of calls, as it is in force."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.trace import Tracer

from byline.gateways import GatewayRegistry
from byline.gateways.base import Gateway
from byline.http.fallback_span import LLMSpans


class CallConfig:
    """What holds for all calls.

    Args:
        tracer: Makes byline's own LLM spans.
        gateways: The gateways that the app named.
        llm_spans: Whether to make LLM spans.
        capture_content: Whether prompts and completions go onto them.
    """

    def __init__(self, tracer: Tracer, gateways: Sequence[Gateway], llm_spans: LLMSpans, capture_content: bool) -> None:
        self.tracer = tracer
        self.known = GatewayRegistry(gateways)
        self.llm_spans: LLMSpans = llm_spans
        self.capture_content = capture_content


#: The rules in force, ``None`` while byline is not instrumented.
current: CallConfig | None = None


def set_current(new: CallConfig | None) -> None:
    """Put rules in force, or none."""
    global current
    current = new
