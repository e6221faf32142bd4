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
    request_spans = span_copy.request_spans
    version = 0 if request_spans is None else request_spans.root.version
    if span_copy.propagated_version == version:
        # Nothing has been stated since the last time.
        return
    span_copy.propagated_version = version
    shared = _attributes_of(span_copy.attribution, request_spans)
    # LLM spans have had all of them since their start.
    missing = {} if shared.items() <= attributes.items() else shared
    for name, value in missing.items():
        if name in _LLM_SPANS_ONLY and not span_copy.is_llm:
            continue
        present = attributes.get(name)
        if present is None or (
            present != value and request_spans is not None and _is_outdated(request_spans, name, present)
        ):
            attributes[name] = value
    if request_spans is not None:
        _propagate(span_copy, request_spans, version)


def _is_outdated(request_spans: RequestSpans, name: str, value: Any) -> bool:
    previous = request_spans.previous_attributions
    return any(attribution_attributes(attribution).get(name) == value for attribution in previous)


def _attributes_of(attribution: Attribution, request_spans: RequestSpans | None) -> dict[str, Any]:
    """Return the attributes that all spans of a request carry, made once for equal attributions."""
    if request_spans is not None and request_spans.exported_attributes[0] is attribution:
        return request_spans.exported_attributes[1]
    attributes = attribution_attributes(attribution)
    for name in _SPAN_LEVEL:
        attributes.pop(name, None)
    if request_spans is not None:
        request_spans.exported_attributes = (attribution, attributes)
    return attributes


def _propagate(span_copy: SpanCopy, request_spans: RequestSpans, version: int) -> None:
    """Publish the trace attributes of a span, and add those that other spans of the trace have published.

    The spans of a request mostly state the same, so the answer is kept until one of them states something new.
    """
    trace_id, attributes = span_copy.trace_id, span_copy.attributes
    trace = request_spans.in_trace(trace_id)
    values = [*map(attributes.get, _TRACE_LEVEL)]
    if trace.propagated is None or trace.propagated[0] != version or trace.propagated[1] != values:
        stated = {name: value for name, value in zip(_TRACE_LEVEL, values, strict=True) if value is not None}
        is_news = _publish(request_spans, trace_id, stated)
        unstated = {name: _look_up(request_spans, trace_id, name) for name in _TRACE_LEVEL if name not in stated}
        missing = {name: value for name, value in unstated.items() if value is not None}
        if is_news:
            version += 1
            request_spans.root.note_change()
        # If another thread has published in the meantime, the version is already outdated.
        trace.propagated = (version, values, missing)
    attributes.update(trace.propagated[2])
    span_copy.propagated_version = trace.propagated[0]


def _publish(request_spans: RequestSpans, trace_id: int, values: dict[str, Any]) -> bool:
    """Publish the trace attributes of a span. Returns whether one of them is new."""
    root = request_spans.root
    stated, shared = request_spans.in_trace(trace_id).stated, root.in_trace(trace_id).shared
    is_news = False
    for name, value in values.items():
        if name not in stated or (stated[name] != value and _is_outdated(request_spans, name, stated[name])):
            stated[name] = value
            is_news = True
        present = shared.get(name)
        if present is None:
            shared[name] = TraceValue(value, request_spans)
            is_news = True
            continue
        if present.value is None or present.value == value or _is_outdated(root, name, value):
            continue
        stated_by = present.stated_by
        if _is_outdated(root, name, present.value) or (
            stated_by is not None and _is_outdated(stated_by, name, present.value)
        ):
            shared[name] = TraceValue(value, request_spans)
            is_news = True
        elif stated_by is not request_spans:
            present.mark_conflicting()
            is_news = True
    return is_news


def _look_up(request_spans: RequestSpans, trace_id: int, name: str) -> Any:
    """Look an attribute up in the span's own part of the request, then in enclosing parts, then in the whole trace.

    A value of the whole trace counts only if all parts that state one agree.
    """
    part: RequestSpans | None = request_spans
    while part is not None:
        trace = part.traces.get(trace_id)
        if trace is not None and name in trace.stated:
            return trace.stated[name]
        part = part.parent
    shared = request_spans.root.in_trace(trace_id).shared.get(name)
    return None if shared is None else shared.value
