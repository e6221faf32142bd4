"""Where each span under way stands: what it hangs below, and which request it belongs to.

A span is exported long before its parent has ended. Whether the parent will be exported too has to be
known by then, or else the child hangs below an id that nobody ever sees.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.trace import SpanContext

from byline import record
from byline.attribution import EMPTY, Attribution
from byline.record import Record
from byline.spans import recognition, targets
from byline.spans.attributes import FACTS, REQUEST_MODEL
from byline.spans.writing import attributes_of

#: Under this name a span of the SDK remembers its kin, or that of what it hangs below. Nothing has to
#: be cleared away: all of it dies with the span.
_KIN: Final = "_byline_kin"
#: How many destinations have seen the span start and took no note of it.
_PASSED: Final = "_byline_passed"
#: What an LLM span is known by, which long conversations push off it before it ends.
_TELLING: Final = (*recognition.KEYS, REQUEST_MODEL, FACTS["response_model"], "llm.model_name")

#: By span id: what ends is a copy of the span, which knows nothing of what the span remembers.
_open: Final[dict[int, Kin]] = {}
_MAX_OPEN: Final = 10_000
_closing: Final[weakref.WeakValueDictionary[int, Family]] = weakref.WeakValueDictionary()
_families: Final[weakref.WeakKeyDictionary[Record, Family]] = weakref.WeakKeyDictionary()


class Family:
    """All spans of one record, i.e. of one request, or of a part of it that was bound anew.

    Attributes:
        attribution: What was known of it when its latest span ended.
        past: What was known before that.
        root: The family of the whole request.
        app_span_id: The id of the request's app span, 0 where it has none.
        number: A number of its own within the request's trace, the same for all its spans.
        said: What its spans say of their trace beyond that, by attribute: by the caller's trace, and
            under ``None`` where the caller names none.
        sampled_by: What its first span was sampled by, for a session may be bound later.
        first_input: What its first model call was asked, and when.
        last_output: What its last one has answered, and when.
    """

    __slots__ = (
        "__weakref__",
        "_app_span",
        "_owner",
        "app_span_id",
        "attribution",
        "first_input",
        "last_output",
        "number",
        "past",
        "root",
        "said",
        "sampled_by",
    )

    def __init__(self, owner: Record) -> None:
        self._owner = weakref.ref(owner)
        self.attribution: Attribution = EMPTY
        self.past: tuple[Attribution, ...] = ()
        above = owner.root()
        self.root: Family = self if above is owner else family_of(above)
        self.app_span_id = 0
        self.number = ""
        self.said: dict[str | None, dict[str, Any]] = {}
        self.sampled_by: str | None = None
        self.first_input: tuple[int, Any] | None = None
        self.last_output: tuple[int, Any] | None = None
        app_span = above.app_span
        self._app_span: weakref.ref[Any] | None = None
        if self.root is self and app_span is not None and app_span.is_recording():
            context = app_span.get_span_context()
            self.app_span_id = context.span_id
            self.number = f"{context.trace_id:032x}{context.span_id:016x}"
            self._app_span = weakref.ref(app_span)

    def is_over(self) -> bool:
        """Whether the request's app span has ended, wherever that is exported."""
        app_span = None if self._app_span is None else self._app_span()
        return app_span is None or not app_span.is_recording()

    def learn(self) -> None:
        """Take note of what is known of the request by now."""
        if self.root is not self:
            self.root.learn()
        owner = self._owner()
        if owner is None:
            return
        known = owner.attribution()
        if known is not self.attribution:
            if self.attribution and known != self.attribution:
                self.past = (*self.past[-4:], self.attribution)
            self.attribution = known


class Kin:
    """One span and what it hangs below.

    Attributes:
        above: The nearest span around it that is kept track of.
        span: The span: live until it has ended, then as it ended.
        promised: The destinations that have exported something that hangs below it.
        carries: Whether it is an LLM span, or has one somewhere below it.
        is_llm: Whether it started as an LLM span.
        telling: The attributes by which that was known.
        watchers: How many destinations wait for its end.
    """

    __slots__ = (
        "__weakref__",
        "_family",
        "_live",
        "above",
        "carries",
        "ended",
        "is_llm",
        "promised",
        "span_id",
        "telling",
        "trace_id",
        "watchers",
    )

    def __init__(self, span: ReadableSpan, context: SpanContext, above: Kin | None) -> None:
        self.span_id = context.span_id
        self.trace_id = context.trace_id
        self.above = above
        self._live = weakref.ref(span)
        self.ended: ReadableSpan | None = None
        self.promised: set[int] = set()
        self.carries = False
        self.is_llm = False
        self.telling: Mapping[str, Any] = {}
        self.watchers = 1
        owner = targets.owner_of(span) or record.get()
        self._family: Family | None = (above.family if above else None) if owner is None else family_of(owner)
        if self.family is not None and not self.family.root.number:
            self.family.root.number = f"{self.trace_id:032x}{self.span_id:016x}"

    def carry(self) -> None:
        """Say that this one is an LLM span, to all that it hangs below."""
        kin: Kin | None = self
        while kin is not None and not kin.carries:
            kin.carries = True
            kin = kin.above

    @property
    def span(self) -> ReadableSpan | None:
        """The span as it is by now, ``None`` where it was let go without ever ending."""
        return self.ended or self._live()

    @property
    def family(self) -> Family | None:
        """The request that it belongs to, ``None`` where it belongs to none."""
        if self._family is None:
            # An app span that somebody else has made starts before there is a record.
            live = self._live()
            owner = None if live is None else targets.owner_of(live)
            self._family = None if owner is None else family_of(owner)
        return self._family

    def end(self, span: ReadableSpan) -> None:
        """Take note of how it ended."""
        self.ended = span
        family = self.family
        if family is not None:
            family.learn()


def family_of(owner: Record) -> Family:
    """Return the family of a record."""
    family = _families.get(owner)
    if family is None:
        made = Family(owner)
        # Another thread of the request may have been faster.
        family = _families.setdefault(owner, made)
        if family is made and family.app_span_id:
            _closing[family.app_span_id] = family
    return family


def start(span: Span, parent_context: otel_context.Context | None, *, deep: bool) -> None:
    """Take note of a span that starts.

    Args:
        span: The span.
        parent_context: Its parent's context; by default the current one.
        deep: Whether every span counts, or LLM spans alone, between which the others are seen through.
    """
    found = span.__dict__.get(_KIN)
    if found is not None and found.span_id == span.get_span_context().span_id:
        found.watchers += 1
        return
    if found is None:
        around = trace.get_current_span(parent_context)
        found = getattr(around, _KIN, None)
        if found is None and deep and isinstance(around, Span) and around.is_recording():
            # It started before anybody looked, and will be exported all the same.
            found = around.__dict__[_KIN] = Kin(around, around.get_span_context(), None)
            _remember(found)
    is_llm = recognition.is_llm_span(span)
    if deep or is_llm:
        kin = Kin(span, span.get_span_context(), found)
        if is_llm:
            kin.carry()
            kin.is_llm = True
            attributes = attributes_of(span)
            kin.telling = {key: attributes[key] for key in _TELLING if key in attributes}
        span.__dict__[_KIN] = kin
        _remember(kin)
        kin.watchers += span.__dict__.get(_PASSED, 0)
    else:
        span.__dict__[_PASSED] = span.__dict__.get(_PASSED, 0) + 1
        if found is not None:
            span.__dict__[_KIN] = found


def find(span: ReadableSpan) -> Kin | None:
    """Return the kin of a span that is just ending."""
    context = span.get_span_context()
    own = None if context is None else _open.get(context.span_id)
    if own is not None:
        if own.is_llm:
            recognition.remember(span)
        own.watchers -= 1
        if own.watchers <= 0:
            _open.pop(own.span_id, None)
    return own


def _remember(own: Kin) -> None:
    _open[own.span_id] = own
    if len(_open) > _MAX_OPEN:
        # Some instrumentations never end their spans.
        _open.pop(next(iter(_open)), None)


def make_late(span: ReadableSpan) -> Kin | None:
    """Return kin for a span that has turned into an LLM span since it started, as it ends."""
    context = span.get_span_context()
    if context is None:
        return None
    around = trace.get_current_span()
    # What is around it by now is what it hangs below, unless it ends elsewhere.
    fits = span.parent is not None and around.get_span_context().span_id == span.parent.span_id
    own = Kin(span, context, getattr(around, _KIN, None) if fits else None)
    own.carries = True
    return own


def closed_by(span: ReadableSpan, kin: Kin | None) -> Family | None:
    """Return the request that is over with the end of this span, ``None`` where none is."""
    context = span.get_span_context()
    if _closing and context is not None:
        family = _closing.get(context.span_id)
        if family is not None:
            family.learn()
            return family
    if kin is not None and kin.above is None and kin.family is not None and not kin.family.root.app_span_id:
        return kin.family.root
    return None
