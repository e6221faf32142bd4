"""Puts the facts of a call where they belong: onto its LLM span, or where a late one finds them."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import Span

from byline.call_result import CallResult
from byline.genai import attributes as names
from byline.genai import cost_overrides, pending_results, usage_ownership
from byline.genai.attributes import AttributeValue, call_attributes
from byline.genai.attribution_processor import reapply
from byline.genai.fast_attributes import remove_attributes
from byline.request_context import RequestContext

_UTILITIES: Final = "opentelemetry.util.genai.invocation"
_INVOCATION_KEYS: Final = ("CLIENT_INFERENCE_CONTEXT_KEY", "CLIENT_EMBEDDING_CONTEXT_KEY")
_FAILED: Final = "_byline_failed"
_ERROR: Final = (names.ERROR_TYPE, names.ERROR_MESSAGE)


def genai_util_attributes() -> MutableMapping[str, AttributeValue] | None:
    """Return the attributes of the GenAI utilities' invocation under way, which become its span's as it ends.

    Source: ``InferenceData`` and ``EmbeddingData`` of ``opentelemetry.util.genai.invocation``.
    """
    module = sys.modules.get(_UTILITIES)
    if module is None:
        return None
    for name in _INVOCATION_KEYS:
        key = getattr(module, name, None)
        data = None if key is None else otel_context.get_value(key)
        attributes = getattr(data, "attributes", None)
        if isinstance(attributes, dict):
            return attributes
    return None


def record_result(
    facts: CallResult,
    span: Span | None,
    owner: RequestContext | None,
    running: MutableMapping[str, Any] | None,
    *,
    own: bool,
) -> None:
    """Put facts onto a span that records; onto an invocation under way; else keep them for a late span."""
    attributes = call_attributes(facts)
    if running is not None:
        if facts.error_type is None:
            for key in _ERROR:
                running.pop(key, None)
        running.update(attributes)
    if span is not None and span.is_recording():
        if facts.error_type is not None:
            span.__dict__[_FAILED] = True
        elif span.__dict__.pop(_FAILED, False):
            # An attempt that failed before this one has told of an error which is none any more.
            remove_attributes(span, _ERROR)
        span.set_attributes(attributes)
        cost_overrides.set_cost(span, facts.cost)
        usage_ownership.assign(span, facts.response_id)
        if owner is not None:
            reapply(span, owner)
            name = owner.attribution().generation_name
            if name is not None and span.name != name:
                span.update_name(name)
    elif not own and (running is None or span is not None):
        # The results alone, never whose request they are of: caches of gateways give equal ids to equal replies.
        pending_results.add(attributes, response_id=facts.response_id, span=span)
