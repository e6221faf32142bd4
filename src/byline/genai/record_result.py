"""Writes the result of an LLM call onto its span, or keeps the result until the span is found."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import Span

from byline.call_result import CallResult
from byline.genai import attributes as names
from byline.genai.attributes import AttributeValue, call_attributes
from byline.genai.attribution_processor import reapply
from byline.genai.call_results import keep_result, results
from byline.genai.fast_attributes import remove_attributes, set_attributes
from byline.genai.span_correlation import is_of_current_request
from byline.genai.span_state import current_request, state_of
from byline.request_context import RequestContext

_GENAI_UTIL: Final = "opentelemetry.util.genai.invocation"
_CONTEXT_KEYS: Final = ("CLIENT_INFERENCE_CONTEXT_KEY", "CLIENT_EMBEDDING_CONTEXT_KEY")
_ERROR_ATTRIBUTES: Final = (names.ERROR_TYPE, names.ERROR_MESSAGE)


def genai_util_attributes() -> MutableMapping[str, AttributeValue] | None:
    """Return the attributes of the current invocation of OpenTelemetry's GenAI utilities, ``None`` if there is none.

    The utilities set these attributes on the span of the invocation as that ends. Source: ``InferenceData`` and
    ``EmbeddingData`` of ``opentelemetry.util.genai.invocation``.
    """
    module = sys.modules.get(_GENAI_UTIL)
    if module is None:
        return None
    span = trace.get_current_span()
    if state_of(span) is not None and current_request() is not None and not is_of_current_request(span):
        # A request that the app sends to itself runs within the invocation of the outer request.
        return None
    for name in _CONTEXT_KEYS:
        key = getattr(module, name, None)
        data = None if key is None else otel_context.get_value(key)
        attributes = getattr(data, "attributes", None)
        if isinstance(attributes, dict):
            return attributes
    return None


def record_result(
    result: CallResult,
    *,
    span: Span | None,
    context: RequestContext | None,
    request_key: int,
    invocation: MutableMapping[str, Any] | None,
    is_fallback_span: bool,
    call: object = None,
) -> dict[str, AttributeValue]:
    """Write a result onto its span or its invocation; else keep the result for a span that comes later.

    Returns the attributes of the result. A cost that is added to them later reaches the exported span.

    Args:
        result: The result of the call as far as it is known.
        span: The LLM span of the call, ``None`` if there is none yet.
        context: The request that made the call.
        request_key: The key of that request, 0 outside requests.
        invocation: The attributes of the GenAI utilities' invocation, see `genai_util_attributes`.
        is_fallback_span: Whether byline made the span.
        call: Stands for the call, whose result may be recorded more than once.
    """
    attributes = call_attributes(result)
    if invocation is not None:
        if result.error_type is None:
            for key in _ERROR_ATTRIBUTES:
                invocation.pop(key, None)
        invocation.update(attributes)
    if span is not None and span.is_recording():
        state = state_of(span)
        if state is not None:
            if result.error_type is not None:
                state.attempt_failed = True
            elif state.attempt_failed:
                # The error of an earlier attempt is not the outcome of the call.
                state.attempt_failed = False
                remove_attributes(span, _ERROR_ATTRIBUTES)
            if result.cost is not None:
                state.cost = result.cost
            # The span may end before the response does.
            state.recorded = attributes
            results.assign(state, result.response_id)
            if is_fallback_span:
                state.own_result = attributes
        set_attributes(span, attributes, may_cut=True)
        if context is not None:
            reapply(span, context, is_own=is_fallback_span)
            name = context.attribution().generation_name
            if name is not None and span.name != name:
                span.update_name(name)
    elif not is_fallback_span and (invocation is None or span is not None):
        keep_result(attributes, span=span, request_key=request_key, response_id=result.response_id, call=call)
    return attributes
