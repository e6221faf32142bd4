"""Gives every exported span of a request the request's own values, equal on all of them.

Langfuse overwrites what it knows of a trace with the blanks of whichever span comes last, and counts
a session's cost on those spans alone that carry the session.
"""

from __future__ import annotations

from typing import Any, Final

from byline.attribution import EMPTY, Attribution
from byline.export.span_copy import SpanCopy
from byline.genai import attributes as names
from byline.genai.attributes import attribution_attributes
from byline.request_spans import RequestSpans, TraceValue

#: Of one span alone, not of its trace.
_OWN: Final = frozenset({names.GENERATION_NAME, names.STEP_NAME})
#: A session on a span that is no LLM span does not make it one.
_OF_LLM_SPANS: Final = frozenset({names.CONVERSATION_ID})
_OF_TRACE: Final = (
    names.SESSION_ID,
    names.USER_ID,
    names.TRACE_NAME,
    names.TAGS,
    names.RELEASE,
    names.VERSION,
    names.ENVIRONMENT,
    # On the spans that have them Langfuse prefers these.
    "langfuse.session.id",
    "langfuse.user.id",
    "langfuse.trace.public",
    "langfuse.public",
)

#: Attribute → attribution field, for spans of which nothing else is known.
_FIELDS: Final = {attributes[0]: field for field, attributes in names.ATTRIBUTION.items()}


def attribution_from_attributes(attributes: dict[str, Any]) -> Attribution:
    """Read an attribution back from the attributes of a span that was signed."""
    found: dict[str, Any] = {}
    for name, field in _FIELDS.items():
        value = attributes.get(name)
        if value:
            found[field] = value if isinstance(value, str) else str(value)
    tags = attributes.get(names.TAGS)
    if tags:
        found["tags"] = tuple(str(tag) for tag in tags) if isinstance(tags, list | tuple) else (str(tags),)
    metadata = {
        key[len(names.METADATA) :]: value for key, value in attributes.items() if key.startswith(names.METADATA)
    }
    return Attribution(**found, metadata=metadata) if found or metadata else EMPTY


def apply_attribution(draft: SpanCopy) -> None:
    """Put the attribution of its request onto a span.

    What the app or an instrumentation has set itself stays; what was known earlier of the request and
    has changed since gives way.
    """
    attributes = draft.attributes
    request_spans = None if draft.state is None else draft.state.request_spans
    for name, value in attribution_attributes(draft.attribution).items():
        if name in _OWN or (name in _OF_LLM_SPANS and not draft.is_llm):
            continue
        present = attributes.get(name)
        if present is None or (
            present != value and request_spans is not None and _is_past(request_spans, name, present)
        ):
            attributes[name] = value
    if request_spans is not None:
        _spread(draft, request_spans)


def _is_past(request_spans: RequestSpans, name: str, value: Any) -> bool:
    return any(attribution_attributes(past).get(name) == value for past in request_spans.previous_attributions)


def _spread(draft: SpanCopy, request_spans: RequestSpans) -> None:
    """Let what one span says of the trace be said by the others of it."""
    trace = draft.trace
    for name in _OF_TRACE:
        value = draft.attributes.get(name)
        if value is None:
            value = _heard(request_spans, trace, name)
            if value is not None:
                draft.attributes[name] = value
        else:
            _say(request_spans, trace, name, value)


def _say(request_spans: RequestSpans, trace: int, name: str, value: Any) -> None:
    own = request_spans.stated.values_of(trace)
    if name not in own or (own[name] != value and _is_past(request_spans, name, own[name])):
        own[name] = value
    shared = request_spans.root.shared.values_of(trace)
    held = shared.get(name)
    if held is None:
        shared[name] = TraceValue(value, request_spans)
        return
    if held.value is None or held.value == value or _is_past(request_spans.root, name, value):
        return
    by = held.stated_by
    if _is_past(request_spans.root, name, held.value) or (by is not None and _is_past(by, name, held.value)):
        shared[name] = TraceValue(value, request_spans)
    elif by is not request_spans:
        held.mark_conflicting()


def _heard(request_spans: RequestSpans, trace: int, name: str) -> Any:
    """Return what is said by the span's own part of the request, by what that is a part of, or by all the rest."""
    part: RequestSpans | None = request_spans
    while part is not None:
        value = part.stated.lookup(trace, name)
        if value is not None:
            return value
        part = part.parent
    held = request_spans.root.shared.lookup(trace, name)
    return None if held is None else held.value
