"""Privacy: content stays here where a destination may not have it; credentials and binary parts always do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, Status, StatusCode

from byline import errors, internal_metrics
from byline.export.redaction.content import holds_content, is_content, is_text
from byline.export.redaction.directions import BOTH, directions_of, masked_directions
from byline.export.redaction.heuristics import PARAMETERS, is_metadata, is_unknown_text, repeats_content, strip_text
from byline.export.redaction.secrets import encodable, is_secret, scrub
from byline.export.redaction.span_names import name_repeats_content, safe_span_name
from byline.export.span_copy import SpanCopy
from byline.genai.attributes import ATTRIBUTION, ERROR_TYPE
from byline.settings import SettingError

Mask = Callable[[str, Any], Any]

_URLS: Final = frozenset({"http.target", "http.url", "url.fragment", "url.full", "url.original", "url.query"})

#: These repeat the span's name, and not the other way round.
_LABELS: Final = frozenset({"logfire.msg", "logfire.msg_template"})
#: What identifies callers, traces and versions.
_IDS: Final = frozenset(name for field in ATTRIBUTION.values() for name in field)
_INT64: Final = 1 << 63
_MAX_RESOURCES: Final = 64
_LEFT_OUT: Final = "[left out]"


def validate_privacy(privacy: Any, mask: Any) -> None:
    """Raise `SettingError` ``byline.E046`` where these settings cannot be used."""
    if not isinstance(privacy, bool):
        raise SettingError("byline.E046", f"privacy is {type(privacy).__name__}", "pass True or False")
    if mask is not None and not callable(mask):
        raise SettingError(
            "byline.E046", f"mask is {type(mask).__name__}", "pass a function of the attribute's name and value"
        )


class Redactor:
    """What a destination may see, and what a caller asks to be left out.

    Args:
        private: Whether content is left out: prompts, completions, system instructions, tool
            definitions, arguments and results, and the texts of errors, which repeat them. Tokens,
            cost, timing, model and custom metadata stay.
        mask: A function ``(name, value)`` of each text that may be content, of metadata, URLs and
            errors, which returns what is sent in its place. Where it fails, nothing is sent of it.
        again: Whether texts have been cleaned already, so that only what new names say is looked at.
    """

    def __init__(self, *, private: bool, mask: Mask | None = None, again: bool = False) -> None:
        self._hidden = BOTH if private else frozenset[str]()
        self._mask = mask
        self._again = again
        self._resources: dict[int, tuple[Resource, Resource]] = {}

    def hide(self, draft: SpanCopy) -> None:
        """Take off a span what its destination may not see."""
        hidden = self._hidden | masked_directions(draft.attributes)
        if self._again and not hidden:
            return
        strict = bool(hidden) and draft.is_llm
        whole = draft.attributes
        draft.attributes = self._clean(whole, hidden, strict=strict)
        draft.name = scrub(draft.name)
        if strict and draft.name != draft.attribution.generation_name:
            gone = [value for key, value in whole.items() if key not in draft.attributes and key not in _LABELS]
            if name_repeats_content(draft.name, gone):
                draft.name = safe_span_name(draft.attributes)
        if draft.events:
            draft.events = [
                Event(scrub(event.name), self._clean(event.attributes or {}, hidden, strict=strict), event.timestamp)
                for event in draft.events
            ]
        if draft.links:
            draft.links = [
                Link(link.context, self._clean(link.attributes or {}, hidden, strict=strict)) for link in draft.links
            ]
        if draft.status.description:
            draft.status = Status(StatusCode.ERROR, self._error(draft, hidden))
        self._hide_around(draft)

    def _hide_around(self, draft: SpanCopy) -> None:
        """Clean what spans share; both are few and live long."""
        if draft.resource is not None and draft.resource.attributes:
            found = self._resources.get(id(draft.resource))
            if found is None or found[0] is not draft.resource:
                cleaned = Resource(self._clean(draft.resource.attributes, self._hidden), draft.resource.schema_url)
                found = (draft.resource, cleaned)
                if len(self._resources) >= _MAX_RESOURCES:
                    self._resources.clear()
                self._resources[id(draft.resource)] = found
            draft.resource = found[1]
        scope = draft.scope
        if scope is not None and scope.attributes:
            draft.scope = InstrumentationScope(
                scope.name, scope.version, scope.schema_url, self._clean(scope.attributes, self._hidden)
            )

    def _error(self, draft: SpanCopy, hidden: frozenset[str]) -> str | None:
        if hidden:
            kind = draft.attributes.get(ERROR_TYPE)
            return None if kind is None else str(kind)
        text = draft.status.description
        return None if text is None else self._text("error.message", text, hidden)

    def _clean(
        self, attributes: Mapping[str, Any], hidden: frozenset[str], around: str = "", *, strict: bool = False
    ) -> dict[str, Any]:
        cleaned: dict[str, Any] = {}
        for key, value in attributes.items():
            name = encodable(key)
            if isinstance(value, bool | int | float):
                # OTLP has integers of 64 bits.
                cleaned[name] = (
                    value
                    if isinstance(value, float) or -_INT64 <= value < _INT64
                    else f"{float(value):.6g}"
                    if abs(value) < 10**300
                    else "∞"
                )
                continue
            if is_secret(name) or isinstance(value, bytes | bytearray):
                continue
            # What stands within content is content by whatever name.
            whole = f"{around}.{name}" if around else name
            of_side = not hidden.isdisjoint(directions_of(whole))
            if of_side and self._is_content(name, value, around) and not repeats_content(name, value, attributes):
                continue
            kept = self._value(whole, value, hidden)
            if kept is not None and not (strict and _is_doubtful(name, kept, hidden)):
                cleaned[name] = kept
        return cleaned

    @staticmethod
    def _is_content(name: str, value: Any, around: str) -> bool:
        return holds_content(name, value) or bool(around and is_content(around) and is_text(value))

    def _value(self, key: str, value: Any, hidden: frozenset[str]) -> Any:
        if isinstance(value, str):
            return self._text(key, value, hidden)
        if isinstance(value, bytes | bytearray):
            return None
        if isinstance(value, Mapping):
            return self._clean({str(name): item for name, item in value.items()}, hidden, key)
        if isinstance(value, list | tuple):
            found = [self._value(key, item, hidden) for item in value]
            return [item for item in found if item is not None]
        return value

    def _text(self, key: str, text: str, hidden: frozenset[str]) -> str | None:
        if self._again:
            return text
        # Ids have to stay apart, whatever they look like.
        text = encodable(text) if key in _IDS else scrub(text)
        if hidden and key in _URLS:
            # What was searched for stands in the query.
            text = "" if key in ("url.fragment", "url.query") else _without_query(text)
        if hidden and key in PARAMETERS:
            text = strip_text(text)
        if self._mask is None or not _may_tell(key, text):
            return text
        try:
            masked = self._mask(key, text)
        except Exception:
            internal_metrics.increment("mask.failed")
            errors.report_internal_error("mask")
            return _LEFT_OUT
        return masked if masked is None or isinstance(masked, str) else str(masked)


def _may_tell(key: str, text: str) -> bool:
    """Whether a text is a mask's business: whatever privacy would leave out, and metadata."""
    return is_content(key) or is_metadata(key) or is_unknown_text(key, text) or key in PARAMETERS or key in _URLS


def _is_doubtful(key: str, value: Any, hidden: frozenset[str]) -> bool:
    spared = is_content(key) and hidden.isdisjoint(directions_of(key))
    return not spared and is_unknown_text(key, value)


def _without_query(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
