"""Joins the facts of a call to a span that was made after the exchange was over."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from byline.export.draft import Draft
from byline.spans import late
from byline.spans.attributes import RESPONSE_ID

_MAX: Final = 4096


class Joining:
    """Joins late facts by response id, for one destination, and each call's once.

    An agent's span, or a second instrumentation's, may repeat the id of a reply; cost and tokens must
    not be counted with each of them.
    """

    def __init__(self) -> None:
        self._joined: OrderedDict[str, int] = OrderedDict()

    def join(self, draft: Draft) -> None:
        """Add what waits for this span and is not there yet."""
        response_id = draft.attributes.get(RESPONSE_ID)
        if not isinstance(response_id, str) or not draft.is_leaf:
            return
        facts = late.take(response_id)
        if facts is None:
            return
        owner = self._joined.setdefault(response_id, draft.context.span_id)
        if owner != draft.context.span_id:
            return
        while len(self._joined) > _MAX:
            self._joined.popitem(last=False)
        draft.attributes = {**facts, **draft.attributes}
