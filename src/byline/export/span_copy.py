"""A copy of an ended span that a destination may change, without any effect on the app's own span."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from byline.attribution import EMPTY, Attribution, to_trace_id
from byline.genai import call_spans, classify
from byline.genai.attributes import (
    CALL_RESULT,
    COST,
    ERROR_MESSAGE,
    ERROR_TYPE,
    LLM_CALLS,
    OPERATION_NAME,
    REQUEST_MODEL,
    RESPONSE_ID,
)
from byline.genai.call_results import (
    expects_second_span,
    is_unseen_call,
    results,
    select_usage,
    strip_call,
    strip_usage,
    unseen_usage,
)
from byline.genai.fast_attributes import peek_attributes
from byline.genai.span_state import SpanState
from byline.media import Media
from byline.request_spans import RequestSpans

_STATUS_CODE: Final = CALL_RESULT["status_code"]
#: The text of `SpanError`.
_PREFIXED: Final = re.compile(r"(\d{3}): (.+)", re.DOTALL)
_UNKNOWN_ERROR: Final = "error"
_TOKENS: Final = (CALL_RESULT["input_tokens"], CALL_RESULT["output_tokens"])


class SpanCopy:
    """A span on its way to one destination.

    Attributes:
        state: The state of the span, ``None`` for a span that was not made by a tracer.
        attribution: The attribution of its request.
        is_llm: Whether the span stands for a model call, an agent step or a tool call.
        is_made: Whether the span is a step or a root that byline has made, not the copy of a span.
        is_root: Whether the span is the root of its request, or one of several, in the trace of its destination.
        is_duplicate: Whether another span carries tokens and cost of the call that this span stands for.
        starts_trace: Whether the span is the outermost of its trace, although the caller named a parent.
        joins_trace: Whether another process or an earlier request began the exported trace, whose release and version
            stay as they are.
        media: The binary parts of its content by their reference, for a destination that uploads them.
        propagated_version: The version of its request at which it got the trace attributes of other spans.
    """

    __slots__ = (
        "_dropped_attributes",
        "attributes",
        "attribution",
        "context",
        "end_time",
        "events",
        "is_duplicate",
        "is_llm",
        "is_made",
        "is_root",
        "joins_trace",
        "kind",
        "links",
        "media",
        "name",
        "parent",
        "propagated_version",
        "resource",
        "scope",
        "start_time",
        "starts_trace",
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
        self.is_root = False
        self.is_made = True
        self.is_duplicate = False
        self.joins_trace = False
        self.starts_trace = False
        self.media: dict[str, Media] = {}
        self.propagated_version = -1
        self._dropped_attributes = 0

    @classmethod
    def from_span(
        cls, span: ReadableSpan, context: SpanContext, state: SpanState | None, attribution: Attribution
    ) -> SpanCopy:
        """Copy a span."""
        span_copy = cls(
            span.name,
            context,
            parent=span.parent,
            attributes=dict(peek_attributes(span)),
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
        span_copy.is_made = False
        span_copy.is_llm = (state is not None and state.is_llm) or classify.is_llm_span(span)
        if state is not None and state.identifying_attributes:
            span_copy.attributes = {**state.identifying_attributes, **span_copy.attributes}
        if classify.is_framework_span(span):
            span_copy.attributes = strip_call(span_copy.attributes)
        span_copy._dropped_attributes = span.dropped_attributes
        return span_copy

    @property
    def trace_id(self) -> int:
        """The trace id by which values of the trace are shared: the caller's if there is one, else the app's."""
        caller_trace_id = self.attribution.trace_id
        if caller_trace_id:
            return to_trace_id(caller_trace_id)
        return self.context.trace_id if self.state is None else self.state.trace_id

    @property
    def request_spans(self) -> RequestSpans | None:
        """The spans of the request, or of the part of it, that the span belongs to."""
        return None if self.state is None else self.state.request_spans

    @property
    def is_server_span(self) -> bool:
        """Whether the span is the server span of its request."""
        state, request_spans = self.state, self.request_spans
        if state is None or request_spans is None:
            return False
        return request_spans.root.is_server_span(state.span_context)

    @property
    def is_model_call(self) -> bool:
        """Whether the span is a model call."""
        if not self.is_llm:
            return False
        known = classify.model_call_or_none(self.name, self.attributes)
        if known is not None or self.state is None:
            return known is not False
        return call_spans.is_model_call(self.state)

    @property
    def is_around_model_call(self) -> bool:
        """Whether another span within this one stands for the same call and carries its tokens and cost."""
        return self.is_duplicate and self.state is not None and self.state.model_calls_below > 0

    @property
    def is_error(self) -> bool:
        """Whether the span failed."""
        return self.status.status_code is StatusCode.ERROR or ERROR_TYPE in self.attributes

    def set_missing(self, name: str, value: Any) -> None:
        """Set an attribute that the span does not have, unless the value is ``None``."""
        if value is not None:
            self.attributes.setdefault(name, value)

    def extend(self, start: int | None, end: int | None) -> None:
        """Let the span last from this start to this end at least, in nanoseconds."""
        if start is not None:
            self.start_time = min(start, self.start_time or start)
        if end is not None:
            self.end_time = max(end, self.end_time or end)

    def merge_result(self) -> None:
        """Add response attributes that wait for the span; remove usage if another span of the call carries it.

        A value that the span itself has wins, except for tokens and cost, which some instrumentations overwrite, and
        for the values of a response that went on after the span had ended.
        """
        if LLM_CALLS in self.attributes:
            # A server span has the totals of its calls; a library may have written a single call on it as well.
            self.attributes = strip_call(self.attributes)
            for name, total in (self.state.late_totals if self.state is not None else {}).items():
                present = self.attributes.get(name)
                # Totals only grow: the span may have got those of further calls since.
                if not isinstance(present, int | float) or present < total:
                    self.attributes[name] = total
        state = self.state
        if not self.is_llm or state is None:
            return
        if is_unseen_call(self.scope):
            self.attributes = {**self.attributes, **unseen_usage(self.attributes)}
        if state.is_superseded:
            operation, model = self.attributes.get(OPERATION_NAME), self.attributes.get(REQUEST_MODEL)
            self.name = " ".join(str(part) for part in (operation, model) if part)
            self.attributes = strip_call(self.attributes)
            self.is_llm = False
            return
        response_id = self.attributes.get(RESPONSE_ID)
        if isinstance(response_id, str) and self.is_model_call:
            results.claim(state, response_id)
        if COST in state.recorded and COST not in self.attributes:
            # The price list was loaded after the response.
            self.attributes |= select_usage(dict(state.recorded))
        if state.result is not None:
            # Copied, because another thread may add a cost.
            result = {name: value for name, value in dict(state.result).items() if self._lacks(name, state.recorded)}
            self.attributes = {**self.attributes, **result}
            if ERROR_TYPE in result and self.status.status_code is not StatusCode.ERROR:
                # LangSmith may say of a failed call that all is well.
                self.status = Status(StatusCode.ERROR, str(result.get(ERROR_MESSAGE) or result[ERROR_TYPE]))
        self._correct_tokens(state)
        if state.usage is not None:
            self.attributes = {**strip_usage(self.attributes), **state.usage}
        if state.cost is not None:
            self.attributes[COST] = state.cost
        self.is_duplicate = results.is_duplicate(state, self.attributes.get(RESPONSE_ID)) or (
            self.scope is not None and expects_second_span(self.scope.name, self.attributes)
        )
        if self.is_duplicate:
            self.attributes = strip_usage(self.attributes)

    def _correct_tokens(self, state: SpanState) -> None:
        """Set the tokens that the response states, if the instrumentation has overwritten them.

        OpenLLMetry adds up the output tokens of all events of Anthropic's streams, which repeat them.
        """
        stated = state.recorded if state.result is None else state.result
        if stated and CALL_RESULT["usage_is_partial"] not in stated:
            for name in _TOKENS:
                if name in self.attributes and name in stated:
                    self.attributes[name] = stated[name]

    def _lacks(self, name: str, recorded: Mapping[str, Any]) -> bool:
        """Return whether a response attribute is missing, or states only the beginning of the response."""
        value = self.attributes.get(name)
        return value is None or (name in recorded and recorded[name] == value)

    def to_readable_span(self) -> ReadableSpan:
        """Return the copy in the form that the SDK's exporters accept."""
        return _CopiedSpan(
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
            dropped=self._dropped_attributes,
        )


class SpanError(NamedTuple):
    """The error of a span.

    Attributes:
        code: The status code of the provider, or the type of the error.
        kind: ``error.type``, or the code.
        message: The provider's or the exception's message, ``None`` if it is unknown or redacted.
        text: Both in one line, such as ``429: Slow down.``.
    """

    code: str
    kind: str
    message: str | None
    text: str

    @property
    def stated(self) -> dict[str, str]:
        """Code and message as far as they are known: the output of a call that failed."""
        if self.message is None:
            return {"code": self.code}
        return (
            {"message": self.message} if self.code == _UNKNOWN_ERROR else {"code": self.code, "message": self.message}
        )


def find_error(span: SpanCopy) -> SpanError:
    """Return the error of a span that failed."""
    attributes = span.attributes
    texts = (attributes.get(ERROR_MESSAGE), span.status.description, _exception_text(span))
    message = next((str(text) for text in texts if text), None)
    kind = attributes.get(ERROR_TYPE)
    code = attributes.get(_STATUS_CODE)
    prefixed = None if message is None else _PREFIXED.fullmatch(message)
    if prefixed is not None and (not span.is_llm or prefixed[1] == str(code or kind)):
        # The error of a model call on the root of its request: the status code there is that of the app's response.
        code, message = prefixed[1], prefixed[2]
    elif not span.is_llm or code is None:
        code = kind if str(kind).isdecimal() else None
    if message == str(code):
        # The message is content; without content the status says the code.
        message = None
    stated = str(message or kind or code or _UNKNOWN_ERROR)
    has_code = code is None or re.search(rf"\b{re.escape(str(code))}\b", stated)
    text = stated if has_code else f"{code}: {stated}"
    return SpanError(str(code or kind or _UNKNOWN_ERROR), str(kind or code or _UNKNOWN_ERROR), message, text)


def _exception_text(span: SpanCopy) -> Any:
    for event in reversed(span.events):
        if event.name == "exception" and event.attributes:
            return event.attributes.get("exception.message") or event.attributes.get("exception.type")
    return None


class _CopiedSpan(ReadableSpan):
    def __init__(self, *, dropped: int, **parts: Any) -> None:
        super().__init__(**parts)
        self._dropped = dropped

    @property
    def dropped_attributes(self) -> int:
        """The number of attributes that the SDK dropped from the copied span."""
        return self._dropped


def make_span_context(trace_id: int, span_id: int, like: SpanContext | None = None) -> SpanContext:
    """Return the context of a span that is exported, with the trace state of another context."""
    return SpanContext(
        trace_id,
        span_id,
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=None if like is None else like.trace_state,
    )
