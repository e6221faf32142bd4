"""Joins the facts of a call to a span that was made, or ended, apart from the exchange."""

from __future__ import annotations

from byline.export.drain.draft import Draft
from byline.spans import carriers, late, stated
from byline.spans.attributes import COST, LLM_CALLS, RESPONSE_ID


def join(draft: Draft) -> None:
    """Add what waits for this span and is not there yet, and take usage off a second span of one call."""
    if LLM_CALLS in draft.attributes:
        # The app span has the sums of its calls; a library may have written one of them on it besides.
        draft.attributes = carriers.without_call(draft.attributes)
    if not draft.is_llm:
        return
    span_id = draft.context.span_id
    response_id = draft.attributes.get(RESPONSE_ID)
    facts = late.take_of(span_id)
    if facts is None and isinstance(response_id, str) and draft.is_leaf:
        facts = late.take(response_id)
        if facts is not None and not carriers.claim(response_id, span_id):
            facts = None
    if facts is not None:
        draft.attributes = {**facts, **draft.attributes}
    cost = stated.cost_of(span_id)
    if cost is not None:
        draft.attributes[COST] = cost
    draft.is_double = carriers.is_double(span_id, draft.attributes.get(RESPONSE_ID)) or (
        draft.scope is not None and late.comes_again(draft.scope.name, draft.attributes)
    )
    if draft.is_double:
        draft.attributes = carriers.without_usage(draft.attributes)
