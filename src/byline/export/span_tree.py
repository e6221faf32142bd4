"""Where each span under way stands: what it hangs below, and which request it belongs to.

A span is exported long before its parent has ended. Whether the parent will be exported too has to be
known by then, or else the child hangs below an id that nobody ever sees.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, Final, TypeGuard

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.trace import SpanContext

from byline import request_context
from byline.export.request_spans import RequestSpans, by_server_span_id, spans_of_request
from byline.genai import classify, server_span, span_correlation
from byline.genai.attributes import CALL_RESULT, REQUEST_MODEL
from byline.genai.fast_attributes import peek_attributes
from byline.request_context import RequestContext

#: Under this name a span of the SDK remembers its kin, or that of what it hangs below. Nothing has to
#: be cleared away: all of it dies with the span.
_KIN: Final = "_byline_kin"
#: Under this one what ends remembers what is known of it.
_ENDING: Final = "_byline_ending"
#: What an LLM span is known by, which long conversations push off it before it ends.
_TELLING: Final = classify.KEYS | {REQUEST_MODEL, CALL_RESULT["response_model"], "llm.model_name"}
_ALL: Final = -1
_UNSEEN: Final = object()

#: By span id: what ends is a copy of the span, which knows nothing of what the span remembers. It lasts as
#: long as the span.
_open: Final[dict[int, SpanNode]] = {}


class _Live(weakref.ref[ReadableSpan]):
    """Leads to a span while that is there."""

    __slots__ = ("span_id",)

    span_id: int


def _forget(live: _Live, kept: dict[int, SpanNode] = _open) -> None:
    # By an argument of its own, for when the interpreter ends the names of modules go before their spans.
    kept.pop(live.span_id, None)


class SpanNode:
    """One span and what it hangs below.

    Attributes:
        above: The nearest span around it that is kept track of.
        live: Leads to the span, as long as that is there.
        span: The span: live until it has ended, then as it ended.
        verdicts: Whether it is exported, by destination, where that is settled: what hangs below it may be
            gone already, or it may be gone itself.
        heard: The feeds that hear of its end, as bits.
        carries: Whether it is an LLM span, or has one somewhere below it.
        is_llm: Whether it started as an LLM span.
        telling: The attributes by which that was known.
        filed: The trace that it is exported in, by destination, where that is settled.
    """

    __slots__ = (
        "__weakref__",
        "_family",
        "above",
        "carries",
        "ended",
        "filed",
        "heard",
        "is_llm",
        "live",
        "span_id",
        "telling",
        "trace_id",
        "verdicts",
    )

    def __init__(
        self, span: ReadableSpan, context: SpanContext, above: SpanNode | None, owner: RequestContext | None
    ) -> None:
        self.span_id = context.span_id
        self.trace_id = context.trace_id
        self.above = above
        self.live = _Live(span, _forget)
        self.live.span_id = self.span_id
        self.ended: ReadableSpan | None = None
        self.verdicts: dict[int, bool] = {}
        self.heard = 0
        self.carries = False
        self.is_llm = False
        self.telling: Mapping[str, Any] = {}
        self.filed: dict[int, int] = {}
        self._family: RequestSpans | None = None
        if owner is None:
            self._family = None if above is None else above.family
        elif server_span.belongs_to_request(owner, span):
            self._family = spans_of_request(owner)
        family = self._family or self.family
        if family is not None and not family.root.number:
            family.root.number = f"{self.trace_id:032x}{self.span_id:016x}"

    def carry(self) -> None:
        """Say that this one is an LLM span, to all that it hangs below."""
        kin: SpanNode | None = self
        while kin is not None and not kin.carries:
            kin.carries = True
            kin = kin.above

    @property
    def span(self) -> ReadableSpan | None:
        """The span as it is by now, ``None`` where it was let go without ever ending."""
        return self.ended or self.live()

    @property
    def family(self) -> RequestSpans | None:
        """The request that it belongs to, ``None`` where it belongs to none."""
        if self._family is None:
            # An app span that somebody else has made starts before there is a record.
            live = self.live()
            owner = None if live is None else span_correlation.request_of_span(live)
            self._family = None if owner is None else spans_of_request(owner)
        return self._family

    def end(self, span: ReadableSpan, *, is_llm: bool) -> None:
        """Take note of how it ended."""
        self.ended = span
        if is_llm and not self.carries:
            # It has turned into one since it started.
            self.carry()
        family = self._family or self.family
        if family is None and self.above is not None:
            # Another request within one, that has no record of its own.
            family = self._family = self.above.family
        if family is not None:
            family.learn()


def on_span_start(span: Span, parent_context: otel_context.Context | None, *, deep: bool, bit: int) -> None:
    """Take note of a span that starts.

    Args:
        span: The span.
        parent_context: Its parent's context; by default the current one.
        deep: Whether every span counts, or LLM spans alone, between which the others are seen through.
        bit: Who asks, and will hear of its end.
    """
    found: Any = getattr(span, _KIN, _UNSEEN)
    if found is not _UNSEEN:
        # Another destination has seen it already.
        if found is not None and found.live() is span:
            _hear(found, span, bit)
            return
        if not deep:
            # And it is not one to be kept track of.
            return
    if found is None or found is _UNSEEN:
        around = trace.get_current_span(parent_context)
        found = getattr(around, _KIN, None)
        if found is None and deep and _is_heard_like(around, span):
            # It started before anybody looked, and will be exported all the same.
            found = SpanNode(around, around.get_span_context(), None, _owner_of(around))
            setattr(around, _KIN, found)
            found.heard = _ALL
            _open[found.span_id] = found
    is_llm = classify.is_llm_span(span)
    if deep or is_llm:
        kin = SpanNode(span, span.get_span_context(), found, _owner_of(span))
        _hear(kin, span, bit)
        if is_llm:
            kin.carry()
            kin.is_llm = True
            classify.freeze_classification(span, is_llm=True)
            attributes = peek_attributes(span)
            kin.telling = {key: attributes[key] for key in _TELLING.intersection(attributes)}
        found = _open[kin.span_id] = kin
    setattr(span, _KIN, found)


def _owner_of(span: ReadableSpan) -> RequestContext | None:
    return span_correlation.request_of_span(span) or request_context.current_context()


def _hear(kin: SpanNode, span: Span, bit: int) -> None:
    """Note who hears of a span, and so of those around it that it has not seen start."""
    kin.heard |= bit
    above = kin.above
    while above is not None and not above.heard & bit:
        if _is_heard_like(above.span, span):
            above.heard |= bit
        above = above.above


def _is_heard_like(around: object, span: Span) -> TypeGuard[Span]:
    """Whether a span records and is of the same provider, so that whoever hears of one hears of the other."""
    if not isinstance(around, Span) or not around.is_recording():
        return False
    return getattr(around, "_span_processor", None) is getattr(span, "_span_processor", None)


class EndInfo:
    """What is known of a span as it ends, found out once for all destinations.

    It is kept on the span, and must not lead back to it: what is exported is let go at once.

    Attributes:
        is_sampled: Whether the app's sampler lets it be exported.
        closes: The request that is over with it, ``None`` where none is.
        late: Its kin where that was made as it ended.
    """

    __slots__ = ("closes", "is_sampled", "late")

    def __init__(self, span: ReadableSpan, context: SpanContext, own: SpanNode | None) -> None:
        self.is_sampled = context.trace_flags.sampled
        self.late: SpanNode | None = None
        is_llm = (own is not None and own.is_llm) or classify.is_llm_span(span)
        classify.freeze_classification(span, is_llm=is_llm)
        if own is not None:
            own.end(span, is_llm=is_llm)
        closes = by_server_span_id.get(context.span_id)
        self.closes = None if closes is None else closes()
        if self.closes is not None:
            self.closes.learn()


def on_span_end(span: ReadableSpan, context: SpanContext) -> tuple[SpanNode | None, EndInfo]:
    """Take note of a span that ends; return its kin, ``None`` where nobody has kept track of it."""
    own = _open.get(context.span_id)
    ending: EndInfo | None = getattr(span, _ENDING, None)
    if ending is None:
        ending = EndInfo(span, context, own)
        setattr(span, _ENDING, ending)
    return own or ending.late, ending


def node_for_late_llm_span(span: ReadableSpan, context: SpanContext) -> SpanNode:
    """Return kin for a span that has turned into an LLM span since it started, as it ends."""
    around = trace.get_current_span()
    near = around.get_span_context()
    # What is around it by now is what it hangs below, and the request its own, unless it ends elsewhere.
    fits = span.parent is not None and near.span_id == span.parent.span_id
    above = getattr(around, _KIN, None) if fits else None
    owner = span_correlation.request_of_span(span)
    if owner is None and (not near.is_valid or near.trace_id == context.trace_id):
        owner = request_context.current_context()
    own = SpanNode(span, context, above, owner)
    own.carries = True
    if own.family is not None:
        own.family.learn()
    return own
