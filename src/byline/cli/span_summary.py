"""One-line texts about a received span: model, tokens, cost, session, user and error."""

from __future__ import annotations

from typing import Final

from byline.genai import attributes as names
from byline.genai.classify import OWN_SCOPE
from byline.testing import ReceivedSpan

_INPUT_TOKENS: Final = names.CALL_RESULT["input_tokens"]
_OUTPUT_TOKENS: Final = names.CALL_RESULT["output_tokens"]
_MODEL: Final = names.CALL_RESULT["response_model"]
_GATEWAY: Final = names.CALL_RESULT["gateway"]


def is_generation(span: ReceivedSpan) -> bool:
    """Return whether a span stands for a model call."""
    return names.OPERATION_NAME in span.attributes


def is_step(span: ReceivedSpan) -> bool:
    """Return whether byline's destination made the span for a step that the caller named."""
    return span.scope == OWN_SCOPE and span.attributes.get(names.STEP_NAME) == span.name and not is_generation(span)


def format_duration(span: ReceivedSpan) -> str:
    """Return the duration in milliseconds."""
    return f"{(span.end - span.start) / 1e6:.0f} ms"


def describe_call(span: ReceivedSpan) -> list[str]:
    """Return model and gateway, tokens, and cost, as far as the span has them."""
    attributes = span.attributes
    model = attributes.get(_MODEL) or attributes.get(names.REQUEST_MODEL, "unknown model")
    gateway = attributes.get(_GATEWAY)
    parts = [f"{model} via {gateway}" if gateway else str(model)]
    if _INPUT_TOKENS in attributes:
        parts.append(f"{attributes[_INPUT_TOKENS]} in + {attributes.get(_OUTPUT_TOKENS, 0)} out tokens")
    if names.COST in attributes:
        parts.append(f"${attributes[names.COST]:.6f}")
    return parts


def describe_caller(span: ReceivedSpan) -> list[str]:
    """Return session and user, as far as the span has them."""
    labels = (("session", names.SESSION_ID), ("user", names.USER_ID))
    return [f"{label} {span.attributes[name]}" for label, name in labels if name in span.attributes]


def describe_error(span: ReceivedSpan) -> list[str]:
    """Return the error; an empty list if the span did not fail."""
    if span.status != "ERROR":
        return []
    return [f"error {span.attributes.get(names.ERROR_TYPE) or span.status_message or 'unknown'}"]


def summarize_span(span: ReceivedSpan) -> str:
    """Return name, duration, call, caller and error in one line."""
    head = f"{span.name} {format_duration(span)}"
    return " · ".join([head, *describe_call(span), *describe_caller(span), *describe_error(span)])
