"""Redaction for one destination: credentials and binary data always, content if the destination is private."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, StatusCode

from byline import errors, internal_metrics
from byline.export.redaction.allow_list import (
    PARAMETERS,
    URLS,
    is_allowed,
    is_configuration,
    is_personal,
    redact_parameters,
)
from byline.export.redaction.content import (
    BOTH,
    is_sentence,
    masked_sides,
    name_repeats_content,
    neutral_span_name,
    sides_of,
)
from byline.export.span_copy import SpanCopy
from byline.genai.attributes import ATTRIBUTION, ERROR_TYPE
from byline.secrets import MIN_TEXT, encodable, is_secret, scrub
from byline.settings import SettingError

Mask = Callable[[str, Any], Any]
_Allowed = Callable[[str, Any], bool]

#: Ids of callers and traces stay apart even if they look like keys: scrubbed, all of them would be one.
_IDS: Final = frozenset(name for fields in ATTRIBUTION.values() for name in fields)
#: These repeat the span's name, so a span name that equals them repeats no content.
_LABELS: Final = frozenset({"logfire.msg", "logfire.msg_template"})
_INT64: Final = 1 << 63
_MAX_RESOURCES: Final = 64
_MASK_FAILED: Final = "[left out]"


def validate_privacy(privacy: Any, mask: Any) -> None:
    """Raise `SettingError` ``byline.E046`` if ``privacy`` is no boolean or ``mask`` no function."""
    if not isinstance(privacy, bool):
        raise SettingError("byline.E046", f"privacy is {type(privacy).__name__}", "pass True or False")
    if mask is not None and not callable(mask):
        raise SettingError(
            "byline.E046", f"mask is {type(mask).__name__}", "pass a function of the attribute's name and value"
        )


class Redactor:
    """Removes from span copies all that one destination may not have.

    Args:
        private: Whether to remove content, which is every text outside the allow-list, and the caller's address
            and user agent.
        mask: A function ``(name, value)``, called for each text that would be sent, ids and names included. The
            result replaces the text, and ``None`` removes it. If the function raises, nothing of the text is sent.
        honors_masks: Whether callers may ask that content of their own requests is removed.
    """

    def __init__(self, *, private: bool, mask: Mask | None = None, honors_masks: bool = True) -> None:
        self._honors_masks = honors_masks
        self._private = private
        self._mask = mask
        self._resources: dict[int, tuple[Resource, Resource]] = {}

    def redact(self, span: SpanCopy) -> None:
        """Redact a span copy in place; a caller's ``mask_input`` and ``mask_output`` count for its own spans."""
        hidden = self._private_sides
        if self._honors_masks and not self._private:
            hidden = masked_sides(span.attributes)
        whole = span.attributes
        span.attributes = dict(self.redact_attributes(whole, hidden))
        span.name = self._masked("span.name", scrub(span.name)) or neutral_span_name(span.attributes)
        if hidden and span.is_llm and span.name != span.attribution.generation_name:
            removed = [value for key, value in whole.items() if key not in span.attributes and key not in _LABELS]
            if name_repeats_content(span.name, removed):
                span.name = neutral_span_name(span.attributes)
        if span.events:
            span.events = [self._redact_event(event, hidden) for event in span.events]
        if span.links:
            span.links = [
                Link(_without_secret_state(link.context), self.redact_attributes(link.attributes or {}, hidden))
                for link in span.links
            ]
        span.context = _without_secret_state(span.context)
        if span.status.description:
            span.status = Status(StatusCode.ERROR, self._redact_error(span, hidden))
        if span.resource is not None and span.resource.attributes:
            span.resource = self._redact_resource(span.resource)
        scope = span.scope
        if scope is not None and scope.attributes:
            attributes = self.redact_attributes(scope.attributes, self._private_sides, is_configuration)
            span.scope = InstrumentationScope(scope.name, scope.version, scope.schema_url, attributes)

    @property
    def _private_sides(self) -> frozenset[str]:
        return BOTH if self._private else frozenset()

    def _redact_event(self, event: Event, hidden: frozenset[str]) -> Event:
        name = "event" if hidden and is_sentence(event.name) else scrub(event.name)
        name = self._masked("event.name", name) or "event"
        return Event(name, self.redact_attributes(event.attributes or {}, hidden), event.timestamp)

    def _redact_error(self, span: SpanCopy, hidden: frozenset[str]) -> str | None:
        if not hidden:
            return self._redact_text("error.message", str(span.status.description), hidden)
        # Providers quote the offending part of a prompt in their errors.
        kind = span.attributes.get(ERROR_TYPE)
        return None if kind is None else str(kind)

    def _redact_resource(self, resource: Resource) -> Resource:
        """Return a redacted resource; a process has few, so the results are kept."""
        known = self._resources.get(id(resource))
        if known is None or known[0] is not resource:
            attributes = self.redact_attributes(resource.attributes, self._private_sides, is_configuration)
            known = (resource, Resource(attributes, resource.schema_url))
            if len(self._resources) >= _MAX_RESOURCES:
                self._resources.clear()
            self._resources[id(resource)] = known
        return known[1]

    def redact_attributes(
        self, attributes: Mapping[str, Any], hidden: frozenset[str] = frozenset(), allowed: _Allowed = is_allowed
    ) -> Mapping[str, Any]:
        """Return the attributes that may leave: the same mapping if nothing has to change."""
        changed: dict[str, Any] = {}
        scrubs_only = not hidden and not self._private and self._mask is None
        for name, value in attributes.items():
            # Nearly all attributes of nearly all spans. Of equal texts `scrub` returns the first.
            if scrubs_only and _has_plain_name(name):
                kind = type(value)
                if kind is str:
                    # Too short for a credential, or no text in which one is looked for.
                    if value.isascii() and (len(value) < MIN_TEXT or name in _IDS):
                        continue
                    if name not in _IDS and scrub(value) == value:
                        continue
                elif kind is float or kind is bool or (kind is int and -_INT64 <= value < _INT64):
                    continue
            new = self._redact_value(name, value, hidden, allowed)
            if new is not value or not name.isascii():
                changed[name] = new
        if not changed:
            return attributes
        new_values = ((name, changed.get(name, value)) for name, value in attributes.items())
        return {encodable(name): value for name, value in new_values if value is not None}

    def _redact_value(self, name: str, value: Any, hidden: frozenset[str], allowed: _Allowed) -> Any:
        """Return the redacted value of an attribute, ``None`` to remove the attribute."""
        if isinstance(value, bool | float):
            return value
        if isinstance(value, int):
            return value if -_INT64 <= value < _INT64 else _round_large(value)
        if is_secret(name) or isinstance(value, bytes | bytearray) or (self._private and is_personal(name)):
            return None
        if hidden and not hidden.isdisjoint(sides_of(name)) and not allowed(name, value):
            return None
        if isinstance(value, str):
            return self._redact_text(name, value, hidden)
        if isinstance(value, Mapping):
            # The name of the whole has been judged above; credentials and the mask are left to apply.
            members = {f"{name}.{key}": item for key, item in value.items()}
            return {
                key[len(name) + 1 :]: new for key, new in self.redact_attributes(members, frozenset(), allowed).items()
            }
        if isinstance(value, list | tuple):
            items = [self._redact_value(name, item, hidden, allowed) for item in value]
            if all(new is item for new, item in zip(items, value, strict=True)):
                return value
            return [item for item in items if item is not None]
        return value

    def _redact_text(self, name: str, text: str, hidden: frozenset[str]) -> str | None:
        new = encodable(text) if name in _IDS else scrub(text)
        if hidden and name in URLS:
            new = _without_query(name, new)
        if hidden and name in PARAMETERS:
            new = redact_parameters(new)
        return self._masked(name, new)

    def _masked(self, name: str, text: str) -> str | None:
        """Return what the app's mask makes of a text, ``None`` to send nothing of it."""
        if self._mask is None:
            return text
        try:
            masked = self._mask(name, text)
        except BaseException:
            internal_metrics.increment("mask.failed")
            errors.report_callback_error("mask")
            # One placeholder for all ids would make one user and one session of all.
            return None if name in _IDS else _MASK_FAILED
        return masked if masked is None or isinstance(masked, str) else str(masked)


@lru_cache(maxsize=4096)
def _has_plain_name(name: str) -> bool:
    """Return whether the name of an attribute stays as it is, and says nothing against the value."""
    return name.isascii() and not is_secret(name)


def _without_secret_state(context: SpanContext) -> SpanContext:
    """Return a span context without its ``tracestate``, which callers choose, if that has a credential."""
    state = context.trace_state.to_header() if context.trace_state else ""
    if not state or scrub(state) == state:
        return context
    return SpanContext(context.trace_id, context.span_id, context.is_remote, context.trace_flags)


def _round_large(number: int) -> str:
    """Return an integer beyond OTLP's 64 bits as text."""
    return f"{float(number):.6g}" if abs(number) < 10**300 else "∞"


def _without_query(name: str, url: str) -> str:
    if name in ("url.fragment", "url.query"):
        return ""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
