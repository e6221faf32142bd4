"""Decides which spans one destination gets: selection, filters, sampling, and parents that exported spans refer to.

A span is exported before its parent has ended, so whether the parent will be exported has to be decided by then.
A parent that was decided on may never end: an abandoned stream drops its span, or the process exits first.
`ExportDecisions.unended_parents` returns those, so that no exported span refers to a parent that nobody receives.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import re
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any, Final, Literal

from opentelemetry.sdk.trace import ReadableSpan

from byline import errors
from byline.attribution import EMPTY, to_trace_id
from byline.export import propagate
from byline.export.span_copy import SpanCopy, make_span_context
from byline.genai import attributes as names
from byline.genai import call_spans, classify
from byline.genai.span_state import SpanState
from byline.internal_metrics import increment
from byline.request_spans import RequestSpans
from byline.settings import SettingError

SpanPredicate = Callable[[ReadableSpan], bool]
Spans = Literal["llm", "all"] | SpanPredicate
Unsampled = Literal["record", "skip"]

MAX_PARENTS: Final = 10_000
_destination_numbers: Final = itertools.count()


class ExportDecisions:
    """The export decisions of one destination.

    Args:
        spans: ``"llm"``, ``"all"`` or a function of the finished span.
        unsampled: Whether LLM spans are exported that the app's sampler records but does not sample.
        passes_filters: Filters and sampling, ``None`` if the destination has neither.
        framework_spans: Whether ``"all"`` includes the spans of the inside of web frameworks.

    Attributes:
        destination_id: One bit that stands for the destination on each `SpanState`.
        selects_llm_only: Whether LLM spans are all that is exported of the app's spans.
        is_left_to_app: Whether the app itself sends the spans from now on.
    """

    def __init__(
        self,
        spans: Spans,
        *,
        unsampled: bool,
        passes_filters: Callable[[SpanCopy], bool] | None,
        framework_spans: bool = False,
    ) -> None:
        self._spans = spans
        self._framework_spans = framework_spans
        self._unsampled = unsampled
        self._passes_filters = passes_filters
        self._parents: OrderedDict[int, tuple[SpanState, SpanCopy]] = OrderedDict()
        self.destination_id = 1 << next(_destination_numbers)
        self.selects_llm_only = spans == "llm"
        self.is_left_to_app = False

    def preselect(self, span: ReadableSpan, state: SpanState | None, *, sampled: bool) -> bool | None:
        """Return whether an ended span is selected; ``None`` if only the user's function can tell.

        Cheap, and calls no code of the user's: this is called on the app's threads.
        """
        decided = None if state is None else state.decisions.get(self.destination_id)
        if decided is not None:
            return decided
        if self._spans == "llm":
            return (sampled or self._unsampled) and _is_llm(span, state)
        if not sampled and not (self._unsampled and _is_llm(span, state)):
            return False
        if self._spans == "all":
            return self._framework_spans or not classify.is_framework_span(span)
        return None

    def matches(self, span: ReadableSpan, state: SpanState | None, *, sampled: bool) -> bool:
        """Return the recorded decision if a child forced one, else apply the destination's span selection."""
        selected = self.preselect(span, state, sampled=sampled)
        if selected is not None:
            return selected
        try:
            return bool(callable(self._spans) and self._spans(span))
        except BaseException:
            errors.report_callback_error("spans")
            return False

    def keep(self, span_copy: SpanCopy) -> bool:
        """Return whether a selected span that has ended is exported, and record the decision."""
        state = span_copy.state
        self._parents.pop(id(state), None)
        if self._passes_filters is None or (state is not None and state.decisions.get(self.destination_id)):
            return True
        if self._passes_filters(span_copy):
            return True
        self.mark_dropped(state)
        return False

    def begin_export(self, state: SpanState | None) -> bool:
        """Return whether an ended span is exported, although another span may have replaced the span.

        A replaced span of which an exported child has the parent id is exported as a span that is no model call.
        """
        if state is None or call_spans.begin_export(state) or state.decisions.get(self.destination_id):
            return True
        self.mark_dropped(state)
        return False

    def mark_dropped(self, state: SpanState | None) -> None:
        """Record that a span is not exported, so that no later span gets it as its parent."""
        if state is not None:
            state.decide(self.destination_id, exports=False)

    def will_export(self, parent: SpanState) -> bool:
        """Return whether a span is or will be exported; if so, record that, because its child will refer to it."""
        decided = parent.decisions.get(self.destination_id)
        if decided is not None:
            return decided
        span = parent.span
        if span is None or parent.is_superseded or parent.is_left_out or self.is_left_to_app:
            return False
        if not parent.destinations & self.destination_id:
            return False
        try:
            context = span.get_span_context()
            if context is None or not self.matches(span, parent, sampled=context.trace_flags.sampled):
                return False
            span_copy = None
            if parent.ended is None or self._passes_filters is not None:
                span_copy = _copy_unended(span, parent)
            if span_copy is not None and self._passes_filters is not None and not self._passes_filters(span_copy):
                return False
        except Exception:
            errors.report_internal_error("export")
            return False
        parent.decide(self.destination_id, exports=True)
        if span_copy is not None and parent.ended is None:
            # Not by span id, which another trace may have as well.
            self._parents[id(parent)] = (parent, span_copy)
            while len(self._parents) > MAX_PARENTS:
                increment("parents.over_budget")
                self._parents.popitem(last=False)
        return True

    def unended_parents(self, *, everything: bool = False) -> list[tuple[SpanState, SpanCopy]]:
        """Return parents of exported spans that were garbage-collected without ``end()``.

        Args:
            everything: Return those that are still open as well.
        """
        dropped = [state for state, _ in self._parents.values() if not state.decisions.get(self.destination_id)]
        for state in dropped:
            # The parent ended while the queue was full, and is counted.
            del self._parents[id(state)]
        unended = [each for each in self._parents.values() if everything or each[0].span is None]
        for state, _ in unended:
            del self._parents[id(state)]
            # `AttributionSpanProcessor.watch` must not send the span once more.
            state.is_exporting = True
        return unended

    @property
    def has_open_parents(self) -> bool:
        """Whether exported spans refer to parents that have not ended."""
        return bool(self._parents)

    def leave_to_app(self) -> None:
        """Export no parent that has not been exported yet: the app itself sends the spans that end from now on."""
        self.is_left_to_app = True
        self.clear()

    def clear(self) -> None:
        """Forget all parents."""
        self._parents.clear()


def _is_llm(span: ReadableSpan, state: SpanState | None) -> bool:
    # An open parent may have become an LLM span since its start; an ended one may have lost the attributes.
    return (state is not None and state.is_llm) or classify.is_llm_span(span)


def _copy_unended(span: ReadableSpan, state: SpanState) -> SpanCopy:
    request = state.request_spans
    context = make_span_context(state.trace_id, state.span_id)
    span_copy = SpanCopy.from_span(span, context, state, EMPTY if request is None else request.attribution)
    propagate.apply_attribution(span_copy)
    return span_copy


#: Filter → the attributes of which one has to match.
_FILTERED_ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "organizations": (names.ORGANIZATION_ID,),
    "environments": (names.ENVIRONMENT, names.ENVIRONMENT_ID),
    "keys": (names.KEY_HASH, names.KEY_ALIAS, names.CALL_RESULT["key_hash"], names.CALL_RESULT["key_alias"]),
    "models": (names.CALL_RESULT["response_model"], names.REQUEST_MODEL, "llm.model_name", "llm.request.model"),
}


#: Filter → the attribution fields of its attributes. A caller's claim of one passes no filter: a caller could choose
#: the destinations of its spans.
_CLAIMABLE: Final[dict[str, tuple[str, ...]]] = {
    "organizations": ("organization_id",),
    "environments": ("environment", "environment_id"),
}


#: The environment of the app itself, in the current and the earlier name of OpenTelemetry.
_RESOURCE_ENVIRONMENT: Final = ("deployment.environment.name", "deployment.environment")


def _is_claim(span_copy: SpanCopy, fields: tuple[str, ...], value: Any) -> bool:
    """Return whether the caller has claimed a value of these fields, which the app has not stated."""
    request = span_copy.request_spans
    if request is None or value is None:
        return False
    states = [(*request.previous_attributions, request.attribution), (request.vouched,)]
    claimed, vouched = (any(getattr(each, field) == value for each in found for field in fields) for found in states)
    return claimed and not vouched


class SpanFilters:
    """The filters of a destination; a span has to pass each filter that is set.

    Args:
        organizations: Patterns of organization ids, in which ``*`` matches anything. A value that a caller has only
            claimed matches nothing.
        environments: Patterns of deployment environments, or of ids of the tenants' environments. A value that a
            caller has only claimed matches nothing.
        keys: Patterns of hashes or aliases of API keys, the callers' or the gateway's.
        models: Patterns of model names; only model calls are filtered by them.
        where: A function of the finished span.

    Raises:
        SettingError: ``byline.E047`` if one of them cannot be used.
    """

    def __init__(
        self,
        *,
        organizations: Collection[str] | None = None,
        environments: Collection[str] | None = None,
        keys: Collection[str] | None = None,
        models: Collection[str] | None = None,
        where: SpanPredicate | None = None,
    ) -> None:
        given = {"organizations": organizations, "environments": environments, "keys": keys, "models": models}
        self._patterns: dict[str, re.Pattern[str]] = {}
        for name, patterns in given.items():
            if patterns is None:
                continue
            if isinstance(patterns, str) or not isinstance(patterns, Collection):
                raise SettingError("byline.E047", f"{name} is {type(patterns).__name__}", f"pass a list: {name}=[…]")
            if not all(isinstance(pattern, str) for pattern in patterns):
                raise SettingError(
                    "byline.E047", f"{name} contains a value that is no string", "pass a list of strings"
                )
            self._patterns[name] = _compile_patterns(patterns)
        if where is not None and not callable(where):
            raise SettingError(
                "byline.E047", f"where is {type(where).__name__}", "pass a function of the finished span"
            )
        self._where = where

    def __bool__(self) -> bool:
        return bool(self._patterns) or self._where is not None

    def accept(self, span_copy: SpanCopy) -> bool:
        """Return whether a span passes all filters; a span that a filter cannot judge does not."""
        for name, pattern in self._patterns.items():
            if name == "models" and not span_copy.is_model_call:
                continue
            values = [span_copy.attributes.get(key) for key in _FILTERED_ATTRIBUTES[name]]
            if name in _CLAIMABLE:
                values = [value for value in values if not _is_claim(span_copy, _CLAIMABLE[name], value)]
                if name == "environments" and not any(values) and span_copy.resource is not None:
                    values = [span_copy.resource.attributes.get(key) for key in _RESOURCE_ENVIRONMENT]
            if not any(value is not None and pattern.fullmatch(str(value)) for value in values):
                return False
        if self._where is None:
            return True
        try:
            return bool(self._where(span_copy.to_readable_span()))
        except BaseException:
            errors.report_callback_error("where")
            return False


def _compile_patterns(patterns: Collection[str]) -> re.Pattern[str]:
    # Only * is special: model names contain brackets.
    escaped = [re.escape(pattern).replace(r"\*", ".*") for pattern in patterns]
    # An empty list matches nothing.
    return re.compile("|".join(escaped) or "(?!)", re.DOTALL)


_HASH_RANGE: Final = 1 << 64


def validate_sampling(sampling: Any) -> float:
    """Return a usable sampling share. Raises `SettingError` ``byline.E045`` for anything but 0 to 1."""
    if isinstance(sampling, int | float) and not isinstance(sampling, bool) and 0 <= sampling <= 1:
        return float(sampling)
    raise SettingError("byline.E045", f"sampling={sampling!r}", "pass a share from 0 to 1, e.g. 0.1 for a tenth")


def is_sampled(key: str, share: float, secret: bytes = b"") -> bool:
    """Return whether a session or trace is in the share that is kept, the same in every process and on every host.

    The first 64 bits of the key's SHA-256 are compared with the share, so processes need not agree on anything,
    and a larger share keeps everything that a smaller share keeps. With a secret, the HMAC takes the place of the
    SHA-256: then a caller cannot find sessions that are left out.

    Example:
        >>> is_sampled("session_abc", 1.0), is_sampled("session_abc", 0.0)
        (True, False)
    """
    if share >= 1:
        return True
    text = key.encode(errors="surrogatepass")
    digest = hmac.digest(secret, text, "sha256") if secret else hashlib.sha256(text).digest()
    return int.from_bytes(digest[:8], "big") < share * _HASH_RANGE


def sampling_key(span_copy: SpanCopy) -> str:
    """Return the session id by which a span is sampled, else its trace id as the caller or the app named it.

    All spans of one request and trace use the key of the first one, because a session may become known late.
    Spans that state another session have their own key. If the app identifies its users, the key is the session, user
    or organization that the app has stated, else one of the request's own.
    """
    trace_id = span_copy.trace_id
    identified = _identified_sampling_key(span_copy)
    if identified is not None:
        return identified
    known = span_copy.attribution.session_id
    stated = span_copy.attributes.get(names.SESSION_ID)
    request = span_copy.request_spans
    if request is None:
        return str(stated or known or _hex_trace_id(trace_id))
    if stated == known or any(stated == past.session_id for past in request.previous_attributions):
        stated = None
    key = _request_sampling_key(request, str(known or stated or ""), trace_id)
    return str(stated) if stated and key != _hex_trace_id(trace_id) else key


def _identified_sampling_key(span_copy: SpanCopy) -> str | None:
    """Return the key of a request whose users the app identifies, ``None`` for other requests.

    A claimed session or trace would let callers choose whether their own requests are exported.
    """
    request = span_copy.request_spans
    if request is None or not request.root.is_identified:
        return None
    vouched = request.vouched
    key = vouched.session_id or vouched.user_id or vouched.organization_id
    if key:
        return key
    # A number that no caller can choose, unlike a trace id.
    root = request.root
    return root.trace_key if root.first_span is not None else _hex_trace_id(span_copy.context.trace_id)


def _request_sampling_key(request: RequestSpans, session: str, trace_id: int) -> str:
    trace = request.in_trace(trace_id)
    if trace.sampling_key is None:
        outer = request.parent
        if outer is not None and _states_the_same(outer, session, trace_id):
            # A nested scope without a session or trace of its own is sampled together with the outer one.
            key = _request_sampling_key(outer, session, trace_id)
        else:
            key = session or _hex_trace_id(trace_id)
        # Another destination may have decided in the meantime; the first decision counts for all of them.
        return trace.decide_sampling(key)
    return trace.sampling_key


def _states_the_same(outer: RequestSpans, session: str, trace_id: int) -> bool:
    named = outer.attribution.trace_id
    return (outer.attribution.session_id or "") == session and (not named or to_trace_id(named) == trace_id)


def _hex_trace_id(trace_id: int) -> str:
    return f"{trace_id:032x}"
