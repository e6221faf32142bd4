"""Says in a few words what a span tells: model, tokens, cost, and who asked."""

from __future__ import annotations

from typing import Final

from byline.genai import attributes as names
from byline.genai.classify import OWN_SCOPE
from byline.testing import ReceivedSpan

_INPUT: Final = names.CALL_RESULT["input_tokens"]
_OUTPUT: Final = names.CALL_RESULT["output_tokens"]
_MODEL: Final = names.CALL_RESULT["response_model"]
_GATEWAY: Final = names.CALL_RESULT["gateway"]


def is_generation(span: ReceivedSpan) -> bool:
    """Whether a span tells of a model call."""
    return names.OPERATION_NAME in span.attributes


def is_step(span: ReceivedSpan) -> bool:
    """Whether a span is the step that a caller named, which the drain has put around its model calls."""
    return span.scope == OWN_SCOPE and span.attributes.get(names.STEP_NAME) == span.name and not is_generation(span)


def milliseconds(span: ReceivedSpan) -> str:
    """Say how long it took."""
    return f"{(span.end - span.start) / 1e6:.0f} ms"


def facts(span: ReceivedSpan) -> list[str]:
    """Say what is known of the call: model and gateway, tokens, cost."""
    attributes = span.attributes
    model = attributes.get(_MODEL) or attributes.get(names.REQUEST_MODEL, "unknown model")
    gateway = attributes.get(_GATEWAY)
    said = [f"{model} via {gateway}" if gateway else str(model)]
    if _INPUT in attributes:
        said.append(f"{attributes[_INPUT]} in + {attributes.get(_OUTPUT, 0)} out tokens")
    if names.COST in attributes:
        said.append(f"${attributes[names.COST]:.6f}")
    return said


def who(span: ReceivedSpan) -> list[str]:
    """Say who asked, in which session."""
    labels = (("session", names.SESSION_ID), ("user", names.USER_ID))
    return [f"{label} {span.attributes[name]}" for label, name in labels if name in span.attributes]


def error(span: ReceivedSpan) -> str | None:
    """Say what went wrong, ``None`` where nothing did."""
    if span.status != "ERROR":
        return None
    return f"error {span.attributes.get(names.ERROR_TYPE) or span.status_message or 'unknown'}"


def sentence(span: ReceivedSpan) -> str:
    """Say all of it in one line."""
    failed = error(span)
    return " · ".join([f"{span.name} {milliseconds(span)}", *facts(span), *who(span), *([failed] if failed else [])])
