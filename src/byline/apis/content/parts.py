"""Messages and their parts in the GenAI conventions' JSON, within limits and without anything binary.

Source: OpenTelemetry's GenAI conventions, ``gen_ai.input.messages`` and its schema: a list of
``{"role", "parts": [{"type": "text", "content"}, {"type": "tool_call", "id", "name", "arguments"}, …]}``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

#: Characters that one text may have; what is over is cut off and said.
MAX_TEXT: Final = 32 * 1024
#: Characters that one attribute may have as JSON.
MAX_JSON: Final = 256 * 1024

Part = dict[str, Any]
Message = dict[str, Any]
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


def shorten(value: str) -> str:
    """Cut a text that is too long, and say how long it was."""
    return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}… ({len(value)} characters)"


def text(content: object) -> Part:
    """Return a part of text."""
    return {"type": "text", "content": shorten(content if isinstance(content, str) else dump(content))}


def reasoning(content: object) -> Part:
    """Return what a model said to itself."""
    return {**text(content), "type": "reasoning"}


def tool_call(identifier: object, name: object, arguments: object) -> Part:
    """Return the call of a tool; arguments that are JSON text are decoded."""
    if isinstance(arguments, str) and len(arguments) <= MAX_TEXT:
        with contextlib.suppress(msgspec.DecodeError, RecursionError):
            arguments = _decode(arguments)
    return {"type": "tool_call", "id": identifier, "name": name, "arguments": _within(arguments)}


def tool_response(identifier: object, response: object) -> Part:
    """Return what a tool answered."""
    return {"type": "tool_call_response", "id": identifier, "response": _within(without_binary(response))}


def media(modality: str, *, uri: object = None, file_id: object = None, mime: object = None) -> Part:
    """Return a part that is no text: where it is, or what it was, never its bytes."""
    part: Part = {"type": "blob", "modality": modality}
    if isinstance(uri, str) and not uri.startswith("data:"):
        part = {"type": "uri", "modality": modality, "uri": shorten(uri)}
    elif isinstance(file_id, str):
        part = {"type": "file", "modality": modality, "file_id": file_id}
    elif isinstance(uri, str):
        mime = uri[5:].partition(";")[0]
    if isinstance(mime, str):
        part["mime_type"] = mime[:100]
    return part


def other(item: Mapping[str, Any]) -> Part:
    """Return a part of a kind that is not known here."""
    return {"type": str(item.get("type", "unknown")), "content": _within(without_binary(dict(item)))}


_BINARY: Final = frozenset({"data", "b64_json", "file_data", "image_url", "inline_data", "inlineData", "bytes"})


def without_binary(value: object, depth: int = 0) -> Any:
    """Leave out what carries encoded bytes."""
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


def message(role: object, parts: list[Part], **more: Any) -> Message:
    """Return a message."""
    return {"role": role if isinstance(role, str) else "user", "parts": parts, **more}


def _within(value: object) -> Any:
    if isinstance(value, str):
        return shorten(value)
    return value if len(dump(value)) <= MAX_TEXT else shorten(dump(value))


def dump(value: object) -> str:
    """Return JSON text."""
    try:
        return _encode(value).decode()
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        return ""


def dump_messages(messages: list[Message]) -> str | None:
    """Return the JSON text of messages; of a long conversation the last ones."""
    if not messages:
        return None
    kept: list[str] = []
    size = 2
    for item in reversed(messages):
        encoded = dump(item)
        if size + len(encoded) + 1 > MAX_JSON and kept:
            left = text(f"({len(messages) - len(kept)} earlier messages are left out)")
            kept.append(dump(message("system", [left])))
            break
        size += len(encoded) + 1
        kept.append(encoded)
    return f"[{','.join(reversed(kept))}]"


def dump_list(items: list[Any]) -> str | None:
    """Return the JSON text of a list, as many of its items as there is room for."""
    kept: list[str] = []
    size = 2
    for item in items:
        encoded = dump(without_binary(item))
        size += len(encoded) + 1
        if size > MAX_JSON:
            break
        kept.append(encoded)
    return f"[{','.join(kept)}]" if kept else None
