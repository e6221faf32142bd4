"""Stamps LLM spans with the byline of their request as they start."""

from __future__ import annotations

from typing import Final, Literal

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from byline import deferred, errors, request_context
from byline.genai import classify, not_instrumented, pending_results, server_span, span_correlation
from byline.genai.attributes import (
    ATTRIBUTION,
    GENERATION_NAME,
    METADATA,
    REJECTED,
    AttributeValue,
    attribution_attributes,
)
from byline.genai.client_attributes import client_attributes
from byline.genai.fast_attributes import peek_attributes, set_attributes
from byline.request_context import RequestContext
from byline.settings import SettingError

Stamp = Literal["llm", "all"]
STAMPS: Final = ("llm", "all")


def request_attributes(owner: RequestContext) -> dict[str, AttributeValue]:
    """Return the attributes that spans of this request carry; made once for equal attributions."""
    attribution = owner.attribution()
    made = owner.stamp
    if made is None or made[0] is not attribution:
        rejected = owner.rejected
        # The app span says it too, but not every destination gets that one.
        told: dict[str, AttributeValue] = {REJECTED: tuple(rejected)} if rejected else {}
        made = (attribution, {**client_attributes(owner), **told, **attribution_attributes(attribution)})
        owner.stamp = made
    attributes: dict[str, AttributeValue] = made[1]
    return attributes


def reapply(span: Span, owner: RequestContext) -> None:
    """Set the byline once more, so that the attribute limit does not drop it first.

    The SDK drops the oldest attributes; setting one anew makes it the youngest. What the app or the
    instrumentation set itself since the start is left as it is.
    """
    if not span.is_recording():
        return
    present = span.attributes or {}
    stamp = request_attributes(owner)
    set_attributes(span, {key: value for key, value in stamp.items() if present.get(key, value) == value})


_INHERITED: Final = frozenset(name for names in ATTRIBUTION.values() for name in names)


def copy_from_parent(span: Span, parent_context: otel_context.Context | None) -> None:
    """Sign a span that starts when its request is over, as one made at garbage collection, like its parent."""
    parent = trace.get_current_span(parent_context)
    if not isinstance(parent, Span):
        return
    present = peek_attributes(span)
    found = {
        key: value
        for key, value in peek_attributes(parent).items()
        if (key in _INHERITED or key.startswith(METADATA)) and key not in present
    }
    if found:
        set_attributes(span, found)


class AttributionSpanProcessor(SpanProcessor):
    """Sets the byline on every LLM span that starts within a request, whoever makes it.

    Args:
        stamp: ``"llm"`` for LLM spans alone, ``"all"`` for every span of the request.
    """

    def __init__(self, stamp: Stamp = "llm") -> None:
        if stamp not in STAMPS:
            raise SettingError("byline.E021", f"stamp={stamp!r}", 'pass "llm" or "all"')
        self.stamp = stamp
        self.enabled = True
        not_instrumented.mark_instrumented()

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
            errors.report_internal_error("processor")

    def _start(self, span: Span, parent_context: otel_context.Context | None) -> None:
        owner = request_context.current_context()
        if owner is None:
            owner = span_correlation.request_of_parent(parent_context)
        if owner is None:
            if classify.is_llm_span(span):
                copy_from_parent(span, parent_context)
                self._take_note(span, parent_context)
            return
        if not server_span.belongs_to_request(owner, span):
            return
        span_correlation.link_to_request(span, owner)
        if classify.is_llm_span(span):
            self._sign(span, owner)
            self._take_note(span, parent_context)
        elif self.stamp == "all":
            self._sign(span, owner, rename=False)

    def _take_note(self, span: Span, parent_context: otel_context.Context | None) -> None:
        span_correlation.on_llm_span_start(span, parent_context)
        facts = pending_results.pop_for_second_span(span)
        if facts is not None:
            set_attributes(span, facts)

    def _sign(self, span: Span, owner: RequestContext, *, rename: bool = True) -> None:
        stamp = request_attributes(owner)
        if not stamp:
            return
        present = peek_attributes(span)
        if not stamp.keys().isdisjoint(present):
            stamp = {key: value for key, value in stamp.items() if key not in present}
        set_attributes(span, stamp)
        name = stamp.get(GENERATION_NAME) if rename else None
        # One that has no attributes yet gets its name when the facts come.
        if name is not None and not classify.KEYS.isdisjoint(present) and classify.is_model_call(span.name, present):
            span.update_name(str(name))

    def on_end(self, span: ReadableSpan) -> None:
        """Let go of an ended LLM span, and tell the app span what it has cost."""
        if not self.enabled:
            return
        deferred.run_deferred()
        try:
            owner = span_correlation.request_of_span(span) or request_context.current_context()
            if owner is not None and owner.root().app_span_ends_first and classify.is_llm_span(span):
                server_span.set_request_attributes(owner.root())
        except Exception:
            errors.report_internal_error("processor")

    def shutdown(self) -> None:
        """Stamp no more spans."""
        self.enabled = False

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 - the SDK's signature
        """Nothing waits here."""
        return True
