"""A destination's choice: which spans it exports, and what it has promised to those that are gone already.

A parent that was promised may never come: a span is let go without being ended, as by a stream that nobody
reads to its end, or the process ends before it. What hangs below it must not hang below nothing.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from byline import errors
from byline.attribution import EMPTY
from byline.export import propagate
from byline.export.span_copy import SpanCopy, make_span_context
from byline.export.span_tree import SpanNode
from byline.genai import classify

Pick = Callable[[ReadableSpan], bool]
Keep = Callable[[SpanCopy], bool]

_MAX: Final = 10_000
_numbers: Final = itertools.count()


class ExportDecisions:
    """What one destination takes.

    Args:
        picks: Which finished spans it takes.
        unsampled: Whether it takes LLM spans that the app's sampler lets record, not export.
        keeps: Which of these it keeps, or ``None`` for all: filters and sampling.
    """

    def __init__(self, *, picks: Pick, unsampled: bool, keeps: Keep | None) -> None:
        self._picks = picks
        self._unsampled = unsampled
        self._keeps = keeps
        self._promised: OrderedDict[int, tuple[SpanNode, SpanCopy]] = OrderedDict()
        #: Stands for the destination among those that hear of a span.
        self.bit = 1 << next(_numbers)

    def picks(self, span: ReadableSpan, own: SpanNode | None, *, sampled: bool) -> bool:
        """Whether a span is taken, as it is by now or by what hangs below it already."""
        verdict = None if own is None else own.verdicts.get(self.bit)
        if verdict is not None:
            return verdict
        return self._picks(span) and (sampled or (self._unsampled and classify.is_llm_span(span)))

    def keeps(self, draft: SpanCopy) -> bool:
        """Whether a span that has come is exported."""
        self._promised.pop(draft.context.span_id, None)
        own = draft.kin
        if self._keeps is None or (own is not None and own.verdicts.get(self.bit)) or self._keeps(draft):
            return True
        self.lose(own)
        return False

    def lose(self, own: SpanNode | None) -> None:
        """Take note that a span is not exported, for good."""
        if own is not None:
            own.verdicts[self.bit] = False

    def promises(self, above: SpanNode) -> bool:
        """Whether a span is exported, or will be, so that another one may hang below it."""
        verdict = above.verdicts.get(self.bit)
        if verdict is not None:
            return verdict
        span = above.span
        if span is None or not above.heard & self.bit:
            return False
        try:
            context = span.get_span_context()
            if context is None or not self.picks(span, above, sampled=context.trace_flags.sampled):
                return False
            draft = _glance(span, above) if above.ended is None or self._keeps is not None else None
            if draft is not None and self._keeps is not None and not self._keeps(draft):
                return False
        except Exception:
            errors.report_internal_error("export")
            return False
        above.verdicts[self.bit] = True
        if draft is not None and above.ended is None:
            self._promised[above.span_id] = (above, draft)
            while len(self._promised) > _MAX:
                self._promised.popitem(last=False)
        return True

    def broken(self, *, everything: bool = False) -> list[tuple[SpanNode, SpanCopy]]:
        """Return what was let go without an end, as it was promised; all that is still under way at the end."""
        found = [each for each in self._promised.values() if everything or each[0].span is None]
        for own, _ in found:
            del self._promised[own.span_id]
        return found


def _glance(span: ReadableSpan, own: SpanNode) -> SpanCopy:
    family = own.family
    context = make_span_context(own.trace_id, own.span_id)
    draft = SpanCopy.of(span, context, own, EMPTY if family is None else family.attribution)
    propagate.apply_attribution(draft)
    return draft
