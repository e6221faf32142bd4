"""Messages and their parts in the GenAI conventions' JSON, within limits and without binary data.

Source: OpenTelemetry's GenAI conventions, ``gen_ai.input.messages`` and its schema: a list of
``{"role", "parts": [{"type": "text", "content"}, {"type": "tool_call", "id", "name", "arguments"}, …]}``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from byline.media import Media, MediaBudget, MessagesWithMedia

#: Characters of one text; a longer text is cut, and its length is stated.
MAX_TEXT: Final = 32 * 1024
#: Characters of one attribute as JSON.
MAX_JSON: Final = 256 * 1024

#: Binary parts of one attribute whose bytes are kept.
MAX_MEDIA: Final = 20

Part = dict[str, Any]
Message = dict[str, Any]
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode
_BINARY: Final = frozenset({"data", "b64_json", "file_data", "image_url", "inline_data", "inlineData", "bytes"})


def build_message(role: object, parts: list[Part], **more: Any) -> Message:
    """Return a message; a role that is no string becomes ``user``."""
    return {"role": role if isinstance(role, str) else "user", "parts": parts, **more}


def text_part(content: object) -> Part:
    """Return a text."""
    return {"type": "text", "content": shorten_text(content if isinstance(content, str) else dump_json(content))}


def reasoning_part(content: object) -> Part:
    """Return the reasoning of a model."""
    return {**text_part(content), "type": "reasoning"}


def tool_call_part(identifier: object, name: object, arguments: object) -> Part:
    """Return the call of a tool; arguments that are JSON text are decoded."""
    if isinstance(arguments, str) and len(arguments) <= MAX_TEXT:
        with contextlib.suppress(msgspec.DecodeError, RecursionError):
            arguments = _decode(arguments)
    return {"type": "tool_call", "id": identifier, "name": name, "arguments": _shorten_json(arguments)}


class _ToolMedia(dict[str, Any]):
    """A binary part within the response of a tool, which no response of an app can be taken for."""


def tool_response_part(
    identifier: object, response: object, to_part: Callable[[Mapping[str, Any]], Part | None] | None = None
) -> Part:
    """Return the response of a tool.

    Args:
        identifier: The id of the call.
        response: The response.
        to_part: Returns the binary part that an item of the response is; anything else for other items.
    """
    media: dict[int, Part] = {}
    if to_part is not None and isinstance(response, list):
        for index, item in enumerate(response):
            part = to_part(item) if isinstance(item, Mapping) and len(media) < MAX_MEDIA else None
            if part is not None and part["type"] == "blob":
                media[index] = _ToolMedia(part)
        response = [None if index in media else item for index, item in enumerate(response)]
    shortened = _shorten_json(without_binary(response))
    if media and isinstance(shortened, list):
        shortened = [media.get(index, item) for index, item in enumerate(shortened)]
    elif media:
        shortened = [text_part(shortened), *media.values()]
    return {"type": "tool_call_response", "id": identifier, "response": shortened}


def media_part(
    modality: str, *, uri: object = None, file_id: object = None, mime: object = None, data: object = None
) -> Part:
    """Return a part that is no text: its URI, its file, or a blob with the number of its bytes.

    The content of a blob is Base64 as it came, or empty; `dump_messages` leaves it out.
    """
    # The schema of the conventions requires the content of a blob.
    part: Part = {"type": "blob", "modality": modality, "content": ""}
    is_base64 = True
    if isinstance(uri, str) and not uri.startswith("data:"):
        part = {"type": "uri", "modality": modality, "uri": shorten_text(uri)}
    elif isinstance(file_id, str):
        part = {"type": "file", "modality": modality, "file_id": file_id}
    elif isinstance(uri, str):
        header, _, data = uri[5:].partition(",")
        mime, is_base64 = header.partition(";")[0], header.endswith(";base64")
    if isinstance(data, str) and part["type"] == "blob":
        # Base64 has four characters for three bytes.
        part["size"] = len(data.rstrip("=")) * 3 // 4
        part["content"] = data if is_base64 else ""
    if isinstance(mime, str):
        part["mime_type"] = mime[:100]
    return part


def generic_part(item: Mapping[str, Any]) -> Part:
    """Return a part of a kind that no parser knows."""
    return {"type": str(item.get("type", "unknown")), "content": _shorten_json(without_binary(dict(item)))}


def user_messages(given: object) -> list[Message]:
    """Return one message of the user for each text."""
    several = given if isinstance(given, list) else [given]
    return [build_message("user", [text_part(item)]) for item in several if isinstance(item, str)]


def system_parts(given: object) -> list[Part]:
    """Return system instructions that are one text."""
    return [text_part(given)] if isinstance(given, str) else []


def join_pieces(pieces: Iterable[tuple[object, object]]) -> list[Message]:
    """Return one message of the assistant, made of a stream's texts and finish reasons."""
    texts: list[str] = []
    finish_reason: object = None
    for text, reason in pieces:
        if isinstance(text, str):
            texts.append(text)
        finish_reason = reason or finish_reason
    return [build_message("assistant", [text_part("".join(texts))], finish_reason=finish_reason)] if texts else []


def flat_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool definition with the members of the function beside the type."""
    function = tool.get("function")
    return {"type": tool.get("type", "function"), **function} if isinstance(function, Mapping) else dict(tool)


def list_objects(value: object) -> list[Mapping[str, Any]]:
    """Return the objects of a JSON array; an empty list if the value is no array."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def shorten_text(value: str) -> str:
    """Cut a text that is too long, and state its length."""
    return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}… ({len(value)} characters)"


def _shorten_json(value: object) -> Any:
    if isinstance(value, str):
        return shorten_text(value)
    text = dump_json(value)
    return value if len(text) <= MAX_TEXT else shorten_text(text)


def without_binary(value: object, depth: int = 0) -> Any:
    """Return a JSON value without members that carry encoded bytes."""
    if depth > 16:
        return None
    if isinstance(value, Mapping):
        return {
            str(key): without_binary(item, depth + 1)
            for key, item in value.items()
            if not (key in _BINARY and isinstance(item, str) and (len(item) > 256 or item.startswith("data:")))
        }
    if isinstance(value, list):
        return [without_binary(item, depth + 1) for item in value]
    return value


def dump_json(value: object) -> str:
    """Return JSON text, an empty one if the value cannot be encoded."""
    try:
        return _encode(value).decode()
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        return ""


def dump_messages(messages: list[Message], budget: MediaBudget | None = None) -> str | None:
    """Return the JSON text of messages; of a long conversation the last ones.

    Args:
        messages: The messages.
        budget: Room for the bytes of binary parts, which the text then takes along (`MessagesWithMedia`); by default
            they are dropped.
    """
    if not messages:
        return None
    encoded: list[str] = []
    media: list[Media] = []
    size = 2
    for message in reversed(messages):
        if any(part["type"] in ("blob", "tool_call_response") for part in message["parts"]):
            message = {**message, "parts": [_without_bytes(part, media, budget) for part in message["parts"]]}
        # Of a choice that was cut off no reason is known; the newest schema has no null.
        if not isinstance(message.get("finish_reason", ""), str):
            message = {name: value for name, value in message.items() if name != "finish_reason"}
        text = dump_json(message)
        if size + len(text) + 1 > MAX_JSON and encoded:
            note = text_part(f"({len(messages) - len(encoded)} earlier messages are left out)")
            encoded.append(dump_json(build_message("system", [note])))
            break
        size += len(text) + 1
        encoded.append(text)
    dumped = f"[{','.join(reversed(encoded))}]"
    return MessagesWithMedia.with_media(dumped, tuple(media)) if media else dumped


def _without_bytes(part: Part, media: list[Media], budget: MediaBudget | None) -> Part:
    """Return a part without its bytes, which are added to the media if there is room for them."""
    response = part.get("response")
    if part["type"] == "tool_call_response" and isinstance(response, list):
        items = [_without_bytes(item, media, budget) if type(item) is _ToolMedia else item for item in response]
        return {**part, "response": items}
    data = part.get("content")
    if part["type"] != "blob" or not data:
        return part
    kept = None
    if budget is not None and len(media) < MAX_MEDIA:
        mime = str(part.get("mime_type", "")).lower()
        # OpenAI states the format of audio alone.
        kept = budget.take(mime if "/" in mime or not mime else f"{part['modality']}/{mime}", data)
    if kept is None:
        return {**part, "content": ""}
    media.append(kept)
    return {**part, "content": "", "media": len(media) - 1}


def dump_list(items: list[Any]) -> str | None:
    """Return the JSON text of a list, with as many of its items as fit."""
    encoded: list[str] = []
    size = 2
    for item in items:
        text = dump_json(without_binary(item))
        size += len(text) + 1
        if size > MAX_JSON:
            break
        encoded.append(text)
    return f"[{','.join(encoded)}]" if encoded else None
