"""Stamps LLM spans with the byline of their request as they start."""

from __future__ import annotations

from typing import Final, Literal

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from byline import afterwards, guard, record
from byline.record import Record
from byline.settings import SettingError
from byline.spans import absence, late, recognition, server, targets
from byline.spans.attributes import (
    ATTRIBUTION,
    GENERATION_NAME,
    METADATA,
    REJECTED,
    AttributeValue,
    of_attribution,
)
from byline.spans.caller import of_caller
from byline.spans.writing import attributes_of, put

Stamp = Literal["llm", "all"]
STAMPS: Final = ("llm", "all")


def stamp_of(owner: Record) -> dict[str, AttributeValue]:
    """Return the attributes that spans of this request carry; made once for equal attributions."""
    attribution = owner.attribution()
    made = owner.stamp
    if made is None or made[0] is not attribution:
        rejected = owner.rejected
        # The app span says it too, but not every destination gets that one.
        told: dict[str, AttributeValue] = {REJECTED: tuple(rejected)} if rejected else {}
        made = (attribution, {**of_caller(owner), **told, **of_attribution(attribution)})
        owner.stamp = made
    attributes: dict[str, AttributeValue] = made[1]
    return attributes


def refresh(span: Span, owner: Record) -> None:
    """Set the byline once more, so that the attribute limit does not drop it first.

    The SDK drops the oldest attributes; setting one anew makes it the youngest. What the app or the
    instrumentation set itself since the start is left as it is.
    """
    if not span.is_recording():
        return
    present = span.attributes or {}
    stamp = stamp_of(owner)
    put(span, {key: value for key, value in stamp.items() if present.get(key, value) == value})


_INHERITED: Final = frozenset(name for names in ATTRIBUTION.values() for name in names)


def inherit(span: Span, parent_context: otel_context.Context | None) -> None:
    """Sign a span that starts when its request is over, as one made at garbage collection, like its parent."""
    parent = trace.get_current_span(parent_context)
    if not isinstance(parent, Span):
        return
    present = attributes_of(span)
    found = {
        key: value
        for key, value in attributes_of(parent).items()
        if (key in _INHERITED or key.startswith(METADATA)) and key not in present
    }
    if found:
        put(span, found)


class BylineSpanProcessor(SpanProcessor):
    """Sets the byline on every LLM span that starts within a request, whoever makes it.

    Args:
        stamp: ``"llm"`` for LLM spans alone, ``"all"`` for every span of the request.
    """

    def __init__(self, stamp: Stamp = "llm") -> None:
        if stamp not in STAMPS:
            raise SettingError("byline.E021", f"stamp={stamp!r}", 'pass "llm" or "all"')
        self.stamp = stamp
        self.enabled = True
        absence.end()

    def switch_on(self, stamp: Stamp) -> None:
        """Stamp from now on; the provider has this processor already."""
        self.stamp = stamp
        self.enabled = True

    def switch_off(self) -> None:
        """Stamp no more, until switched on again."""
        self.enabled = False

    def on_start(self, span: Span, parent_context: otel_context.Context | None = None) -> None:
        """Stamp the span where it is one of ours."""
        if not self.enabled:
            return
        try:
            self._start(span, parent_context)
        except Exception:
            guard.report("processor")

    def _start(self, span: Span, parent_context: otel_context.Context | None) -> None:
        owner = record.get()
        if owner is None:
            owner = targets.owner_of_parent(parent_context)
        if owner is None:
            if recognition.is_llm_span(span):
                inherit(span, parent_context)
                self._take_note(span, parent_context)
            return
        if not server.meet(owner, span):
            return
        targets.adopt(span, owner)
        if recognition.is_llm_span(span):
            self._sign(span, owner)
            self._take_note(span, parent_context)
        elif self.stamp == "all":
            self._sign(span, owner, rename=False)

    def _take_note(self, span: Span, parent_context: otel_context.Context | None) -> None:
        targets.register(span, parent_context)
        facts = late.take_second(span)
        if facts is not None:
            put(span, facts)

    def _sign(self, span: Span, owner: Record, *, rename: bool = True) -> None:
        stamp = stamp_of(owner)
        if not stamp:
            return
        present = attributes_of(span)
        if not stamp.keys().isdisjoint(present):
            stamp = {key: value for key, value in stamp.items() if key not in present}
        put(span, stamp)
        name = stamp.get(GENERATION_NAME) if rename else None
        # One that has no attributes yet gets its name when the facts come.
        if name is not None and not recognition.KEYS.isdisjoint(present) and recognition.is_leaf(span.name, present):
            span.update_name(str(name))

    def on_end(self, span: ReadableSpan) -> None:
        """Let go of an ended LLM span, and tell the app span what it has cost."""
        if not self.enabled:
            return
        afterwards.run()
        try:
            owner = targets.owner_of(span) or record.get()
            if owner is not None and owner.root().app_span_ends_first and recognition.is_llm_span(span):
                server.enrich(owner.root())
        except Exception:
            guard.report("processor")

    def shutdown(self) -> None:
        """Stamp no more spans."""
        self.enabled = False

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 - the SDK's signature
        """Nothing waits here."""
        return True
