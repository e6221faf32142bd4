"""Messages as OpenAI's chat completions have them, which the pages of backends show.

Langfuse's lists show the ``content`` of the last message, and its chat view, tool columns and filters read
``tool_calls``, ``tool_call_id`` and ``{"messages": […], "tools": […]}``; OpenInference's ``llm.input_messages.*`` are
the same members one by one. `byline.export.conversation` reads the messages from spans.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

Message = dict[str, Any]

#: The redaction of binary data leaves this text.
_LEFT_OUT: Final = re.compile(r"\[(\d+) characters left out\]")
#: A reference to a binary part that Langfuse stores.
MEDIA_REFERENCE: Final = re.compile(
    r"@@@langfuseMedia:type=([\w.+-]+/[\w.+-]+)\|id=[\w-]{22}\|source=base64_data_uri@@@", re.ASCII
)
_TEXTS: Final = ("text", "input_text", "output_text")
_DATA_URL: Final = re.compile(r"data:([\w.+/-]*)(?:;[\w=.-]+)*,")
_encode: Final = msgspec.json.Encoder(enc_hook=str).encode


class Conversation(NamedTuple):
    """The conversation that the attributes of a span contain.

    Attributes:
        input: OpenAI's chat messages, or the value as it stands if it is of another shape; ``None`` without one.
        output: The same for the answer: one message for each choice.
        tools: The tools that were offered to the model.
    """

    input: list[Message] | str | None = None
    output: list[Message] | str | None = None
    tools: Sequence[Any] = ()


def dump_input(conversation: Conversation) -> str | None:
    """Return the input as a text: messages as JSON, with the offered tools if there are any."""
    given = conversation.input
    if not isinstance(given, list):
        return given
    return dump({"messages": given, "tools": conversation.tools} if conversation.tools else given)


def dump_output(conversation: Conversation) -> str | None:
    """Return the output as a text: messages as JSON, a single choice as a single message."""
    returned = conversation.output
    if not isinstance(returned, list):
        return returned
    return dump(returned[0] if len(returned) == 1 else returned)


def text_of(messages: list[Message] | str | None, role: str) -> str | None:
    """Return the text of the last message of a role; the last message as JSON if that has no text.

    Example:
        >>> text_of([{"role": "user", "content": "hi"}, {"role": "tool", "content": "ok"}], "user")
        'hi'
    """
    if isinstance(messages, str):
        return messages or None
    if not messages:
        return None
    message = next((item for item in reversed(messages) if item["role"] == role), messages[-1])
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") or part.get("image_url", {}).get("url") for part in content]
        content = "\n".join(part for part in parts if part)
    if isinstance(content, str) and content:
        return content
    return dump(message.get("tool_calls") or message)


def render_messages(messages: Iterable[Mapping[str, Any]]) -> list[Message]:
    """Return OpenAI's chat messages for messages with ``parts``.

    Example:
        >>> render_messages([{"role": "user", "parts": [{"type": "text", "content": "hi"}]}])
        [{'role': 'user', 'content': 'hi'}]
    """
    return [*itertools.chain.from_iterable(map(render_message, messages))]


def render_message(message: Mapping[str, Any]) -> list[Message]:
    """Return OpenAI's messages for one message with ``parts``: results of tools are messages of their own."""
    contents: list[dict[str, Any]] = []
    reasoning: list[str] = []
    tool_calls: list[dict[str, Any]] = []
    tool_messages: list[Message] = []
    rendered: Message = {"role": read_role(message.get("role")), "content": None}
    if isinstance(message.get("name"), str):
        rendered["name"] = message["name"]
    for part in message["parts"]:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("reasoning", "thinking"):
            reasoning.append(to_text(part.get("content") or part.get("thinking") or part.get("summary")))
        elif kind in ("tool_call", "tool_use"):
            tool_calls.append(tool_call(part.get("id"), part.get("name"), part.get("arguments", part.get("input"))))
        elif kind in ("tool_call_response", "tool_result"):
            response = next((part[key] for key in ("response", "result", "content") if key in part), None)
            identifier = part.get("id") or part.get("tool_use_id")
            tool_messages.append({"role": "tool", "tool_call_id": identifier, "content": _render_response(response)})
        elif kind == "refusal":
            rendered["refusal"] = to_text(part.get("content") or part.get("refusal"))
        else:
            contents.append(_render_content(part))
            transcript = part.get("transcript") if isinstance(part, Mapping) else None
            if isinstance(transcript, str) and contents[-1]["type"] != "text":
                contents.append(_text(transcript))
    # A reference among other texts would be shown as text.
    if any(
        content["type"] != "text" or (len(contents) > 1 and MEDIA_REFERENCE.fullmatch(content["text"]))
        for content in contents
    ):
        rendered["content"] = contents
    elif contents:
        rendered["content"] = "\n".join(content["text"] for content in contents)
    elif "refusal" in rendered:
        rendered["content"] = rendered["refusal"]
    if reasoning:
        rendered["reasoning_content"] = "\n".join(reasoning)
    if tool_calls:
        rendered["tool_calls"] = tool_calls
    is_empty = not (contents or reasoning or tool_calls or "refusal" in rendered)
    return tool_messages if tool_messages and is_empty else [*tool_messages, rendered]


def _render_response(response: Any) -> str | list[dict[str, Any]]:
    """Return the response of a tool as text, one with binary parts as a content of several parts."""
    if not isinstance(response, list) or not any(isinstance(i, Mapping) and i.get("type") == "blob" for i in response):
        return to_text(response)
    contents = [_render_content(item) for item in response]
    if all(content["type"] == "text" and not MEDIA_REFERENCE.fullmatch(content["text"]) for content in contents):
        return "\n".join(content["text"] for content in contents)
    return contents


def read_role(role: Any) -> str:
    """Return OpenAI's word for a role, ``user`` for none."""
    folded = role.lower() if isinstance(role, str) else ""
    # Gemini's and LangChain's words.
    return {"": "user", "model": "assistant", "ai": "assistant", "human": "user", "developer": "system"}.get(
        folded, folded
    )


def tool_call(identifier: Any, name: Any, arguments: Any) -> dict[str, Any]:
    """Return a call of a tool as an item of ``tool_calls``."""
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": to_text(arguments)}}


def _render_content(part: Any) -> dict[str, Any]:
    """Return a text, or an image's URL; other parts become a text that names them."""
    if not isinstance(part, Mapping):
        return _text(to_text(part))
    kind, modality = part.get("type"), part.get("modality")
    reference = None if kind in _TEXTS else _find_reference(part)
    if reference is not None:
        return _render_reference(reference)
    if kind == "uri" and modality == "image":
        return {"type": "image_url", "image_url": {"url": to_text(part.get("uri"))}}
    if kind in ("image_url", "input_image"):
        image = part.get("image_url")
        url = to_text(image.get("url") if isinstance(image, Mapping) else image)
        data = _DATA_URL.match(url)
        if data is None:
            return {"type": "image_url", "image_url": {"url": url}}
        return _text(_describe_blob({"mime_type": data[1] or "image", "content": url[data.end() :]}))
    if kind in ("image", "document") and isinstance(part.get("source"), Mapping):
        source = part["source"]
        if isinstance(source.get("url"), str):
            return {"type": "image_url", "image_url": {"url": source["url"]}}
        return _text(_describe_blob({"mime_type": source.get("media_type") or kind, "content": source.get("data")}))
    if kind == "input_audio" and isinstance(part.get("input_audio"), Mapping):
        audio = part["input_audio"]
        return _text(_describe_blob({"mime_type": f"audio/{audio.get('format')}", "content": audio.get("data")}))
    if kind == "blob":
        transcript = part.get("transcript")
        return _text(transcript if isinstance(transcript, str) else _describe_blob(part))
    if kind in ("uri", "file"):
        return _text(f"[{part.get('mime_type') or modality or 'file'}: {part.get('uri') or part.get('file_id')}]")
    for key in ("content", "text"):
        if isinstance(part.get(key), str):
            return _text(part[key])
    return _text(to_text(part.get("content", part)))


def _find_reference(part: Mapping[str, Any], depth: int = 0) -> str | None:
    """Return the reference that stands in the place of a part's bytes."""
    for value in part.values():
        if isinstance(value, str):
            if value.startswith("@@@") and MEDIA_REFERENCE.fullmatch(value):
                return value
        elif isinstance(value, Mapping) and depth < 2:
            found = _find_reference(value, depth + 1)
            if found is not None:
                return found
    return None


def _render_reference(reference: str) -> dict[str, Any]:
    """Return a part of the kind in which Langfuse's pages show the bytes; documents are shown below the message."""
    modality = reference.partition("type=")[2].partition("/")[0]
    if modality == "image":
        return {"type": "image_url", "image_url": {"url": reference}}
    if modality == "audio":
        return {"type": "input_audio", "input_audio": {"data": reference}}
    return _text(reference)


def describe_bytes(kind: object, size: object) -> str:
    """Return the text that replaces a binary part.

    Example:
        >>> describe_bytes("image/png", 396)
        '[image/png, 396 bytes omitted]'
    """
    return f"[{kind}, {size} bytes omitted]" if isinstance(size, int) else f"[{kind} omitted]"


def _describe_blob(part: Mapping[str, Any]) -> str:
    kind = part.get("mime_type") or part.get("modality") or "data"
    size = part.get("size")
    content = part.get("content") or part.get("data")
    if not isinstance(size, int) and isinstance(content, str):
        left_out = _LEFT_OUT.search(content)
        # Base64 has four characters for three bytes.
        size = int(left_out[1]) * 3 // 4 if left_out else len(content.rstrip("=")) * 3 // 4
    return describe_bytes(kind, size)


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def to_text(value: Any) -> str:
    """Return a text as it is, any other value as JSON, an empty text for ``None``."""
    if value is None:
        return ""
    return value if isinstance(value, str) else dump(value)


def dump(value: Any) -> str:
    """Return a value as JSON text."""
    return _encode(value).decode()
