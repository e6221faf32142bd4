"""Merges the result of an LLM call into the copy of a span that was made, or ended, apart from the exchange."""

from __future__ import annotations

from byline.export.span_copy import SpanCopy
from byline.genai.attributes import COST, LLM_CALLS, RESPONSE_ID
from byline.genai.call_results import expects_second_span, results, strip_call, strip_usage


def merge_result(span_copy: SpanCopy) -> None:
    """Add response attributes that wait for the span; remove usage if another span of the call carries it."""
    if LLM_CALLS in span_copy.attributes:
        # A server span has the totals of its calls; a library may have written a single call on it as well.
        span_copy.attributes = strip_call(span_copy.attributes)
    state = span_copy.state
    if not span_copy.is_llm or state is None:
        return
    response_id = span_copy.attributes.get(RESPONSE_ID)
    if isinstance(response_id, str) and span_copy.is_leaf:
        results.claim(state, response_id)
    if state.result is not None:
        span_copy.attributes = {**state.result, **span_copy.attributes}
    if state.cost is not None:
        span_copy.attributes[COST] = state.cost
    scope = span_copy.scope
    span_copy.is_double = results.is_duplicate(state, span_copy.attributes.get(RESPONSE_ID)) or (
        scope is not None and expects_second_span(scope.name, span_copy.attributes)
    )
    if span_copy.is_double:
        span_copy.attributes = strip_usage(span_copy.attributes)
