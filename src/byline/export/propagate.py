"""Writes the trace-level attributes of a request, with equal values, onto every exported span of the trace.

Langfuse overwrites the values of a trace with the blanks of the span that arrives last, and counts the cost of a
session on the spans that carry the session. So every span of a trace carries the session, user, trace name, tags,
release, version and environment, also if only one of the spans states them.
"""

from __future__ import annotations

from typing import Any, Final

from byline.attribution import EMPTY, Attribution
from byline.export.span_copy import SpanCopy
from byline.genai import attributes as names
from byline.genai.attributes import attribution_attributes
from byline.request_spans import RequestSpans, TraceValue

#: Attributes of a single span, not of its trace.
_SPAN_LEVEL: Final = frozenset({names.GENERATION_NAME, names.STEP_NAME})
#: A session on another span does not make that span an LLM span.
_LLM_SPANS_ONLY: Final = frozenset({names.CONVERSATION_ID})
_TRACE_LEVEL: Final = (
    names.SESSION_ID,
    names.USER_ID,
    names.TRACE_NAME,
    names.TAGS,
    names.RELEASE,
    names.VERSION,
    names.ENVIRONMENT,
    # Langfuse prefers these if a span has them.
    "langfuse.session.id",
    "langfuse.user.id",
    "langfuse.trace.public",
    "langfuse.public",
)
_FIELDS: Final = {attributes[0]: field for field, attributes in names.ATTRIBUTION.items()}


def attribution_from_attributes(attributes: dict[str, Any]) -> Attribution:
    """Read the attribution back from a span of which no request is known."""
    fields: dict[str, Any] = {}
    for name, field in _FIELDS.items():
        value = attributes.get(name)
        if value:
            fields[field] = value if isinstance(value, str) else str(value)
    tags = attributes.get(names.TAGS)
    if tags:
        fields["tags"] = tuple(str(tag) for tag in tags) if isinstance(tags, list | tuple) else (str(tags),)
    metadata = {
        key[len(names.METADATA) :]: value for key, value in attributes.items() if key.startswith(names.METADATA)
    }
    return Attribution(**fields, metadata=metadata) if fields or metadata else EMPTY


def apply_attribution(span_copy: SpanCopy) -> None:
    """Set the attribution of the request on a span, and the trace attributes that other spans of the trace state.

    A value that the app or an instrumentation has set stays. A value from an earlier attribution of the same
    request is replaced by the current one.
    """
    attributes = span_copy.attributes
    request_spans = None if span_copy.state is None else span_copy.state.request_spans
    for name, value in attribution_attributes(span_copy.attribution).items():
        if name in _SPAN_LEVEL or (name in _LLM_SPANS_ONLY and not span_copy.is_llm):
            continue
        present = attributes.get(name)
        if present is None or (
            present != value and request_spans is not None and _is_outdated(request_spans, name, present)
        ):
            attributes[name] = value
    if request_spans is not None:
        _propagate(span_copy, request_spans)


def _is_outdated(request_spans: RequestSpans, name: str, value: Any) -> bool:
    previous = request_spans.previous_attributions
    return any(attribution_attributes(attribution).get(name) == value for attribution in previous)


def _propagate(span_copy: SpanCopy, request_spans: RequestSpans) -> None:
    """Publish the trace attributes of a span, and add those that other spans of the trace have published."""
    trace_id, attributes = span_copy.trace_id, span_copy.attributes
    for name in _TRACE_LEVEL:
        value = attributes.get(name)
        if value is not None:
            _publish(request_spans, trace_id, name, value)
        elif (value := _lookup(request_spans, trace_id, name)) is not None:
            attributes[name] = value


def _publish(request_spans: RequestSpans, trace_id: int, name: str, value: Any) -> None:
    stated = request_spans.stated.values_of(trace_id)
    if name not in stated or (stated[name] != value and _is_outdated(request_spans, name, stated[name])):
        stated[name] = value
    root = request_spans.root
    shared = root.shared.values_of(trace_id)
    present = shared.get(name)
    if present is None:
        shared[name] = TraceValue(value, request_spans)
        return
    if present.value is None or present.value == value or _is_outdated(root, name, value):
        return
    stated_by = present.stated_by
    if _is_outdated(root, name, present.value) or (
        stated_by is not None and _is_outdated(stated_by, name, present.value)
    ):
        shared[name] = TraceValue(value, request_spans)
    elif stated_by is not request_spans:
        present.mark_conflicting()


def _lookup(request_spans: RequestSpans, trace_id: int, name: str) -> Any:
    """Look an attribute up in the span's own part of the request, then in enclosing parts, then in the whole trace.

    A value of the whole trace counts only if all parts that state one agree.
    """
    part: RequestSpans | None = request_spans
    while part is not None:
        value = part.stated.lookup(trace_id, name)
        if value is not None:
            return value
        part = part.parent
    shared = request_spans.root.shared.lookup(trace_id, name)
    return None if shared is None else shared.value
