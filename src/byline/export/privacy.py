"""Privacy: content stays here where a destination may not have it; credentials and binary parts always do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from opentelemetry.sdk.trace import Event
from opentelemetry.trace import Link, Status, StatusCode

from byline import counters, guard
from byline.export.content import is_content, is_text
from byline.export.draft import Draft
from byline.export.scrubbing import scrub
from byline.settings import SettingError
from byline.spans.attributes import ERROR_TYPE, METADATA

Mask = Callable[[str, Any], Any]

#: Names of headers and fields that hold credentials, as the last part of an attribute name.
_SECRET_NAME: Final = re.compile(
    r"(?:^|[._\-])(?:authorization|proxy[_-]authorization|cookie|set[_-]cookie|x?[_-]?api[_-]?key|x-goog-api-key"
    r"|access[_-]?token|refresh[_-]?token|client[_-]?secret|secret[_-]?key|password|passwd|bearer[_-]?token)$",
    re.IGNORECASE,
)
_URLS: Final = frozenset({"url.full", "http.url", "http.target", "url.query"})

_LEFT_OUT: Final = "[left out]"


def check(privacy: Any, mask: Any) -> None:
    """Raise `SettingError` ``byline.E046`` where these settings cannot be used."""
    if not isinstance(privacy, bool):
        raise SettingError("byline.E046", f"privacy={privacy!r}", "pass True or False")
    if mask is not None and not callable(mask):
        raise SettingError("byline.E046", f"mask={mask!r}", "pass a function of the attribute's name and value")


class Privacy:
    """What a destination may see.

    Args:
        private: Whether content is left out: prompts, completions, system instructions, tool
            definitions, arguments and results, and the texts of errors, which repeat them. Tokens,
            cost, timing, model and custom metadata stay.
        mask: A function ``(name, value)`` of each text that is content, metadata or an error's, which
            returns what is sent in its place. Where it fails, nothing is sent of it.
    """

    def __init__(self, *, private: bool, mask: Mask | None = None) -> None:
        self._private = private
        self._mask = mask

    def hide(self, draft: Draft) -> None:
        """Take off a span what its destination may not see."""
        draft.attributes = self._clean(draft.attributes)
        draft.name = scrub(draft.name)
        if draft.events:
            draft.events = [
                Event(event.name, self._clean(event.attributes or {}), event.timestamp) for event in draft.events
            ]
        if draft.links:
            draft.links = [Link(link.context, self._clean(link.attributes or {})) for link in draft.links]
        if draft.status.description:
            draft.status = Status(StatusCode.ERROR, self._error(draft))

    def _error(self, draft: Draft) -> str | None:
        if self._private:
            kind = draft.attributes.get(ERROR_TYPE)
            return None if kind is None else str(kind)
        return None if draft.status.description is None else self._text("error.message", draft.status.description)

    def _clean(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        cleaned: dict[str, Any] = {}
        for key, value in attributes.items():
            if isinstance(value, bool | int | float):
                cleaned[key] = value
                continue
            if _SECRET_NAME.search(key) or isinstance(value, bytes | bytearray):
                continue
            if self._private and is_content(key) and is_text(value):
                continue
            kept = self._value(key, value)
            if kept is not None:
                cleaned[key] = kept
        return cleaned

    def _value(self, key: str, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(key, value)
        if isinstance(value, bytes | bytearray):
            return None
        if isinstance(value, Mapping):
            return self._clean({str(name): item for name, item in value.items()})
        if isinstance(value, list | tuple):
            found = [self._value(key, item) for item in value]
            return [item for item in found if item is not None]
        return value

    def _text(self, key: str, text: str) -> str | None:
        text = scrub(text)
        if self._private and key in _URLS:
            # What was searched for stands in the query.
            text = "" if key == "url.query" else _without_query(text)
        if self._mask is None or not (is_content(key) or key.startswith(METADATA) or ".metadata." in key):
            return text
        try:
            masked = self._mask(key, text)
        except Exception:
            counters.count("mask.failed")
            guard.report("mask")
            return _LEFT_OUT
        return masked if masked is None or isinstance(masked, str) else str(masked)


def _without_query(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
