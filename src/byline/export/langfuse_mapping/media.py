"""Binary parts of LLM spans as Langfuse's media: references in the messages, and bytes in Langfuse's own store.

References replace the bytes before the redaction, which removes all other binary data. A part is uploaded if its
reference is still there after redaction, masks and mapping: of content that is off, private or masked nothing is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
from opentelemetry.sdk.trace import Event

from byline.export.chat_messages import MEDIA_REFERENCE, describe_bytes, dump
from byline.export.delivery.media_upload import MediaUploader
from byline.export.redaction.content import OUTPUT, sides_of
from byline.export.span_copy import SpanCopy
from byline.media import Media, MediaBudget, MessagesWithMedia

_MARK: Final = "@@@langfuseMedia:"
_MAX_DEPTH: Final = 16
#: Parts of one span.
_MAX_PARTS: Final = 20
#: The whole of the Base64: no part before an escaped character, which would be uploaded as broken bytes.
_DATA_URL: Final = re.compile(
    r"data:([\w.+-]{1,80}/[\w.+-]{1,80})(?:;[\w=.+-]{1,80}){0,8};base64,([A-Za-z0-9+/_\-]{16,}={0,2})"
    r"(?![A-Za-z0-9+/_\-=%]|\\+[/u])"
)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_\-]{16,}={0,2}")
#: One of these is in each JSON text with bytes beside their type.
_MARKS: Final = ('"base64"', '"blob"', '"binary"', "inline_data", "inlineData", '"input_audio"', '"media"')
_TYPE_NAMES: Final = ("media_type", "mime_type", "mimeType", "mediaType")
#: Kinds of parts whose ``content`` is Base64; that of any other may be a text.
_BINARY_KINDS: Final = frozenset({"blob", "binary"})


class MediaParts:
    """The stage of a Langfuse destination that uploads binary parts.

    Args:
        uploader: Uploads to the destination's project.
        budget: Bounds the parts that wait.
    """

    def __init__(self, uploader: MediaUploader, budget: MediaBudget) -> None:
        self.uploader = uploader
        self._budget = budget

    def replace_bytes(self, span: SpanCopy) -> None:
        """Replace the bytes in the content of an LLM span by references."""
        if not span.is_llm:
            return
        found: dict[str, Media] = {}

        def replace(_name: str, text: str) -> str:
            return self._replace(text, found)

        _map_texts(span, replace)
        span.media = found

    def upload(self, span: SpanCopy) -> None:
        """Upload the parts whose references are still there; a text replaces those of the others."""
        if span.media:
            _map_texts(span, lambda name, text: self._upload(span, name, text) if _MARK in text else text)

    def _upload(self, span: SpanCopy, name: str, text: str) -> str:
        field = "output" if sides_of(name) == {OUTPUT} else "input"
        for reference in dict.fromkeys(match[0] for match in MEDIA_REFERENCE.finditer(text)):
            media = span.media.get(reference)
            if media is None:
                # The app has uploaded it, or has got the text from somewhere.
                continue
            is_shown = self.uploader.upload(
                media,
                media_id=_media_id(media),
                trace_id=f"{span.context.trace_id:032x}",
                observation_id=f"{span.context.span_id:016x}",
                field=field,
            )
            if not is_shown:
                text = _leave_out(text, reference, media)
        return text

    def _replace(self, text: str, found: dict[str, Media]) -> str:
        captured = text.media if isinstance(text, MessagesWithMedia) else ()
        if ";base64," in text:
            # A text that was cut ends within its last image.
            end = len(text) if text[:1] in ("[", "{") else -1

            def refer(match: re.Match[str]) -> str:
                return (match.end() != end and self._refer(match[1], match[2], found)) or match[0]

            text = _DATA_URL.sub(refer, text)
        if text[:1] not in ("[", "{") or not any(mark in text for mark in _MARKS):
            return text
        try:
            parsed = msgspec.json.decode(str(text))
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
            return text
        return dump(parsed) if self._walk(parsed, captured, found, 0) else text

    def _walk(self, value: Any, captured: tuple[Media, ...], found: dict[str, Media], depth: int) -> bool:
        """Replace the bytes in a parsed JSON text. Returns whether there were any."""
        if depth > _MAX_DEPTH:
            return False
        if isinstance(value, list):
            return self._walk_all(value, captured, found, depth)
        if not isinstance(value, dict):
            return False
        number = value.pop("media", None) if value.get("type") == "blob" and captured else None
        if isinstance(number, int) and 0 <= number < len(captured):
            reference = self._add(captured[number], found)
            if reference is not None:
                value["content"] = reference
            return True
        name, content_type, data = _bytes_in(value)
        if name is not None:
            reference = self._refer(content_type, data, found)
            if reference is not None:
                value[name] = reference
                return True
        return self._walk_all(value.values(), captured, found, depth)

    def _walk_all(
        self, values: Iterable[Any], captured: tuple[Media, ...], found: dict[str, Media], depth: int
    ) -> bool:
        changed = [self._walk(item, captured, found, depth + 1) for item in values]
        return any(changed)

    def _refer(self, content_type: str, data: str, found: dict[str, Media]) -> str | None:
        media = self._budget.take(content_type.lower(), data) if len(found) < _MAX_PARTS else None
        return None if media is None else self._add(media, found)

    @staticmethod
    def _add(media: Media, found: dict[str, Media]) -> str | None:
        try:
            reference = f"{_MARK}type={media.content_type}|id={_media_id(media)}|source=base64_data_uri@@@"
        except ValueError:
            # No Base64.
            return None
        if MEDIA_REFERENCE.fullmatch(reference) is None or len(found) >= _MAX_PARTS:
            return None
        found.setdefault(reference, media)
        return reference


def _media_id(media: Media) -> str:
    """Return the id that Langfuse gives to the bytes."""
    return media.sha256.replace("+", "-").replace("/", "_")[:22]


def _bytes_in(value: Mapping[str, Any]) -> tuple[str | None, str, str]:
    """Return the member that has the bytes of a part, their type, and the bytes; ``None`` for no member."""
    kind = value.get("type") or value.get("kind")
    content_type: Any = next((value[name] for name in _TYPE_NAMES if isinstance(value.get(name), str)), None)
    if content_type is None and isinstance(value.get("format"), str) and "data" in value:
        # OpenAI's ``input_audio``.
        content_type = f"audio/{value['format']}"
    if content_type is None or kind == "text":
        return None, "", ""
    for name in ("data", "content") if kind in _BINARY_KINDS else ("data",):
        data = value.get(name)
        if isinstance(data, str) and _BASE64.fullmatch(data):
            return name, content_type, data
    return None, "", ""


def _leave_out(text: str, reference: str, media: Media) -> str:
    """Replace a reference, and the part that is made of it, by a text with type and size."""
    stated = describe_bytes(media.content_type, media.size)
    for part in (
        {"type": "image_url", "image_url": {"url": reference}},
        {"type": "input_audio", "input_audio": {"data": reference}},
    ):
        text = text.replace(dump(part), dump({"type": "text", "text": stated}))
    return text.replace(reference, stated)


def _map_texts(span: SpanCopy, function: Callable[[str, str], str]) -> None:
    """Replace the texts of a span's attributes and events by those that the function returns."""
    span.attributes = {name: _map_value(name, value, function) for name, value in span.attributes.items()}
    if any(event.attributes for event in span.events):
        span.events = [
            Event(
                event.name,
                {name: _map_value(name, value, function) for name, value in (event.attributes or {}).items()},
                event.timestamp,
            )
            for event in span.events
        ]


def _map_value(name: str, value: Any, function: Callable[[str, str], str]) -> Any:
    return function(name, value) if isinstance(value, str) and len(value) > 32 else value
