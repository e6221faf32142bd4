"""A light copy of an ended span, which a destination may change without touching the app's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from byline.attribution import EMPTY, Attribution, to_trace_id
from byline.genai import classify
from byline.genai.attributes import ERROR_TYPE
from byline.genai.span_state import SpanState


class SpanCopy:
    """A span on its way to one destination.

    Attributes:
        state: Where the span stands among the others of its request, ``None`` where nobody saw it start.
        attribution: What is known of its request by now.
        is_llm: Whether it stands for a model call, an agent step or a tool call.
        is_double: Whether another span carries usage and cost of the call that it stands for.
    """

    __slots__ = (
        "_dropped",
        "attributes",
        "attribution",
        "context",
        "end_time",
        "events",
        "is_double",
        "is_llm",
        "kind",
        "links",
        "name",
        "parent",
        "resource",
        "scope",
        "start_time",
        "state",
        "status",
    )

    def __init__(
        self,
        name: str,
        context: SpanContext,
        *,
        parent: SpanContext | None = None,
        attributes: dict[str, Any] | None = None,
        events: Sequence[Event] = (),
        links: Sequence[Link] = (),
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status | None = None,
        start_time: int | None = None,
        end_time: int | None = None,
        resource: Resource | None = None,
        scope: InstrumentationScope | None = None,
        state: SpanState | None = None,
        attribution: Attribution = EMPTY,
    ) -> None:
        self.name = name
        self.context = context
        self.parent = parent
        self.attributes: dict[str, Any] = attributes or {}
        self.events = events
        self.links = links
        self.kind = kind
        self.status = status or Status(StatusCode.UNSET)
        self.start_time = start_time
        self.end_time = end_time
        self.resource = resource
        self.scope = scope
        self.state = state
        self.attribution = attribution
        self.is_llm = False
        self.is_double = False
        self._dropped = 0

    @classmethod
    def of(
        cls, span: ReadableSpan, context: SpanContext, state: SpanState | None, attribution: Attribution
    ) -> SpanCopy:
        """Copy an ended span."""
        draft = cls(
            span.name,
            context,
            parent=span.parent,
            attributes=dict(span.attributes or {}),
            events=span.events,
            links=span.links,
            kind=span.kind,
            status=span.status,
            start_time=span.start_time,
            end_time=span.end_time,
            resource=span.resource,
            scope=span.instrumentation_scope,
            state=state,
            attribution=attribution,
        )
        draft.is_llm = classify.is_llm_span(span) or (state is not None and state.is_llm)
        if state is not None and state.identifying_attributes:
            draft.attributes = {**state.identifying_attributes, **draft.attributes}
        draft._dropped = span.dropped_attributes
        return draft

    @property
    def trace(self) -> int:
        """The trace that it belongs to: as the caller names it, else the app's."""
        named = self.attribution.trace_id
        if named:
            return to_trace_id(named)
        return self.context.trace_id if self.state is None else self.state.trace_id

    @property
    def is_leaf(self) -> bool:
        """Whether it is a model call."""
        return self.is_llm and classify.is_model_call(self.name, self.attributes)

    @property
    def is_error(self) -> bool:
        """Whether it failed."""
        return self.status.status_code is StatusCode.ERROR or ERROR_TYPE in self.attributes

    def finish(self) -> ReadableSpan:
        """Return it as the SDK's exporters take it."""
        return _Span(
            name=self.name,
            context=self.context,
            parent=self.parent,
            resource=self.resource,
            attributes=self.attributes,
            events=self.events,
            links=self.links,
            kind=self.kind,
            status=self.status,
            start_time=self.start_time,
            end_time=self.end_time,
            instrumentation_scope=self.scope,
            dropped=self._dropped,
        )


class _Span(ReadableSpan):
    def __init__(self, *, dropped: int, **parts: Any) -> None:
        super().__init__(**parts)
        self._byline_dropped = dropped

    @property
    def dropped_attributes(self) -> int:
        """How many attributes the SDK has dropped, which a copy of the rest would not know."""
        return self._byline_dropped


def make_span_context(trace_id: int, span_id: int, like: SpanContext | None = None) -> SpanContext:
    """Return the context of a span that is exported."""
    return SpanContext(
        trace_id,
        span_id,
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=None if like is None else like.trace_state,
    )
