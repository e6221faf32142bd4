"""Facts that wait for their span: some instrumentations make or end theirs apart from the exchange."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.sdk.trace import Span

from byline.fork import fork_safe_lock
from byline.genai.attributes import CALL_RESULT, ERROR_TYPE, RESPONSE_ID, AttributeValue
from byline.genai.fast_attributes import peek_attributes

_MAX: Final = 2048
_SECONDS: Final = 300.0

ResultAttributes = Mapping[str, AttributeValue]

_lock: Final = fork_safe_lock()
#: By response id (text), by span (its id), or by the parent and scope of a span that is yet to come.
_waiting: Final[OrderedDict[Any, tuple[float, ResultAttributes]]] = OrderedDict()

#: Instrumentations that end their span of a stream at the headers, and make a second one beside it when
#: the stream is over, as a log, which has the tokens and so is the one for the facts.
_TWO_SPANS: Final = frozenset({"logfire.openai", "logfire.anthropic"})


def add(attributes: ResultAttributes, *, response_id: str | None, span: Span | None) -> None:
    """Keep the facts of a reply until they are taken; the oldest make room.

    Args:
        attributes: What they are as attributes.
        response_id: The reply's id, by which a span that is made later is known.
        span: The span of the call, where that has ended too early.
    """
    if span is None:
        _keep(response_id, attributes)
    elif _scope_of(span) in _TWO_SPANS:
        _keep(_place_of(span), attributes)
    else:
        _keep(span.get_span_context().span_id, attributes)


def by_response_id(response_id: str) -> ResultAttributes | None:
    """Return the facts that wait for a span with this response id. They stay for other destinations."""
    return _find(response_id)


def by_span_id(span_id: int) -> ResultAttributes | None:
    """Return the facts that came after this span had ended. They stay for other destinations."""
    return _find(span_id)


def pop_for_second_span(span: Span) -> ResultAttributes | None:
    """Return the facts for the second span of a stream, as it starts."""
    if not _waiting or _scope_of(span) not in _TWO_SPANS:
        return None
    if peek_attributes(span).get("logfire.span_type") != "log":
        return None
    with _lock:
        found = _waiting.pop(_place_of(span), None)
    return None if found is None else found[1]


def expects_second_span(scope: str, attributes: Mapping[str, Any]) -> bool:
    """Whether a finished span is the first one of a stream, so that a second one tells its tokens."""
    told = (RESPONSE_ID, ERROR_TYPE, CALL_RESULT["input_tokens"])
    second = attributes.get("logfire.span_type") == "log"
    return scope in _TWO_SPANS and not second and not any(key in attributes for key in told)


def clear() -> None:
    """Let all waiting facts go."""
    with _lock:
        _waiting.clear()


def _keep(key: Any, attributes: ResultAttributes) -> None:
    if key is None:
        return
    now = time.monotonic()
    with _lock:
        _waiting[key] = (now, attributes)
        _waiting.move_to_end(key)
        while _waiting:
            oldest, (since, _) = next(iter(_waiting.items()))
            if len(_waiting) <= _MAX and now - since <= _SECONDS:
                break
            del _waiting[oldest]


def _find(key: Any) -> ResultAttributes | None:
    if not _waiting:
        return None
    with _lock:
        found = _waiting.get(key)
    return None if found is None else found[1]


def _scope_of(span: Span) -> str:
    scope = span.instrumentation_scope
    return "" if scope is None else scope.name


def _place_of(span: Span) -> tuple[int, int, str]:
    parent = 0 if span.parent is None else span.parent.span_id
    return (span.get_span_context().trace_id, parent, _scope_of(span))
