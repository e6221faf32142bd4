"""Joins the facts of a call to a span that was made, or ended, apart from the exchange."""

from __future__ import annotations

from byline.export.span_copy import SpanCopy
from byline.genai import cost_overrides, pending_results, usage_ownership
from byline.genai.attributes import COST, LLM_CALLS, RESPONSE_ID


def merge_pending(draft: SpanCopy) -> None:
    """Add what waits for this span and is not there yet, and take usage off a second span of one call."""
    if LLM_CALLS in draft.attributes:
        # The app span has the sums of its calls; a library may have written one of them on it besides.
        draft.attributes = usage_ownership.strip_call(draft.attributes)
    if not draft.is_llm:
        return
    span_id = draft.context.span_id
    response_id = draft.attributes.get(RESPONSE_ID)
    facts = pending_results.by_span_id(span_id)
    if facts is None and isinstance(response_id, str) and draft.is_leaf:
        facts = pending_results.by_response_id(response_id)
        if facts is not None and not usage_ownership.try_claim(response_id, span_id):
            facts = None
    if facts is not None:
        draft.attributes = {**facts, **draft.attributes}
    cost = cost_overrides.get_cost(span_id)
    if cost is not None:
        draft.attributes[COST] = cost
    draft.is_double = usage_ownership.is_duplicate(span_id, draft.attributes.get(RESPONSE_ID)) or (
        draft.scope is not None and pending_results.expects_second_span(draft.scope.name, draft.attributes)
    )
    if draft.is_double:
        draft.attributes = usage_ownership.strip_usage(draft.attributes)
