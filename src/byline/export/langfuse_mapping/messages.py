"""Conversations as Langfuse's pages read them: OpenAI's chat messages, made of the GenAI conventions' ``parts``.

Langfuse's lists show the ``content`` of the last message, and its chat view, tool columns, and filters know
``tool_calls``, ``tool_call_id``, and ``{"messages": […], "tools": […]}``. Messages with ``parts`` are shown as
empty cells and raw tables. Values of any other shape stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from byline.genai import attributes as names
from byline.genai.attributes import json_dumps

INPUT: Final = "langfuse.observation.input"
OUTPUT: Final = "langfuse.observation.output"
_MESSAGES_IN: Final = names.CALL_RESULT["input_messages"]
_MESSAGES_OUT: Final = names.CALL_RESULT["output_messages"]
_INSTRUCTIONS: Final = names.CALL_RESULT["system_instructions"]
_TOOLS: Final = names.CALL_RESULT["tool_definitions"]
_AGENT_MESSAGES: Final = "pydantic_ai.all_messages"
#: Conversations in the GenAI conventions' shape.
GENAI: Final = frozenset({_MESSAGES_IN, _MESSAGES_OUT, _AGENT_MESSAGES})

#: Attributes with a span's input or output, in the order of Langfuse's server.
#: A name with ``*`` stands for messages with an attribute for each member.
_INPUTS: Final = (
    INPUT,
    "mlflow.spanInputs",
    "traceloop.entity.input",
    "input.value",
    "input",
    "gen_ai.prompt",
    "gen_ai.prompt.*",
    "llm.input_messages.*",
    _MESSAGES_IN,
)
_OUTPUTS: Final = (
    OUTPUT,
    "mlflow.spanOutputs",
    "traceloop.entity.output",
    "output.value",
    "output",
    "gen_ai.completion",
    "gen_ai.completion.*",
    "llm.output_messages.*",
    _MESSAGES_OUT,
)
#: Pydantic AI's agents; input and output of a trace come from model calls.
_AGENT_INPUTS: Final = (*_INPUTS, _AGENT_MESSAGES)
_AGENT_OUTPUTS: Final = (*_OUTPUTS, "final_result")
_NAMES: Final = frozenset({*_AGENT_INPUTS, *_AGENT_OUTPUTS})
_PREFIXES: Final = tuple(name[:-1] for name in _NAMES if name[-1] == "*")
_MAX_DEPTH: Final = 32
#: The redaction of binary data leaves this text.
_LEFT_OUT: Final = re.compile(r"\[(\d+) characters left out\]")
_encode: Final = msgspec.json.Encoder(enc_hook=str).encode


def read_input(attributes: Mapping[str, Any], *, is_agent: bool = False) -> Any:
    """Return a span's input as Langfuse shows it, with system instructions and offered tools."""
    value = _find_first(attributes, _AGENT_INPUTS if is_agent else _INPUTS)
    messages = None if value is None else _parse_messages(value)
    if messages is None:
        return value
    rendered = render_messages(messages)
    instructions = _parse_list(attributes.get(_INSTRUCTIONS))
    # openlit states them in both places.
    if instructions and not any(message["role"] == "system" for message in rendered[:1]):
        rendered[:0] = render_messages([{"role": "system", "parts": instructions}])
    tools = _parse_list(attributes.get(_TOOLS))
    return _dump({"messages": rendered, "tools": tools} if tools else rendered)


def read_output(attributes: Mapping[str, Any], *, is_agent: bool = False) -> Any:
    """Return a span's output as Langfuse shows it; a single choice is a single message."""
    value = _find_first(attributes, _AGENT_OUTPUTS if is_agent else _OUTPUTS)
    messages = None if value is None else _parse_messages(value)
    if messages is None:
        return value
    rendered = render_messages(messages)
    return _dump(rendered[0] if len(rendered) == 1 else rendered)


def has_content(attributes: Mapping[str, Any]) -> bool:
    """Return whether a span may carry input or output in any spelling."""
    if not _NAMES.isdisjoint(attributes):
        return True
    return bool([name for name in attributes if name.startswith(_PREFIXES)])


def rendered_attributes(attributes: Mapping[str, Any]) -> set[str]:
    """Return the names of attributes that input and output repeat in Langfuse's words."""
    rendered = {name for name in GENAI if '"parts"' in str(attributes.get(name))}
    return rendered | {_INSTRUCTIONS} if rendered else rendered


def render_messages(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return OpenAI's chat messages for messages with ``parts``.

    Example:
        >>> render_messages([{"role": "user", "parts": [{"type": "text", "content": "hi"}]}])
        [{'role': 'user', 'content': 'hi'}]
    """
    rendered: list[dict[str, Any]] = []
    for message in messages:
        rendered.extend(_render_message(message))
    return rendered


def _render_message(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    contents: list[dict[str, Any]] = []
    reasoning: list[str] = []
    tool_calls: list[dict[str, Any]] = []
    tool_messages: list[dict[str, Any]] = []
    rendered: dict[str, Any] = {"role": message.get("role") or "user", "content": None}
    if isinstance(message.get("name"), str):
        rendered["name"] = message["name"]
    for part in message["parts"]:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "reasoning":
            reasoning.append(_to_text(part.get("content")))
        elif kind == "tool_call":
            function = {"name": part.get("name"), "arguments": _to_text(part.get("arguments"))}
            tool_calls.append({"id": part.get("id"), "type": "function", "function": function})
        elif kind == "tool_call_response":
            response = part.get("response", part.get("result"))
            tool_messages.append({"role": "tool", "tool_call_id": part.get("id"), "content": _to_text(response)})
        elif kind == "refusal":
            rendered["refusal"] = _to_text(part.get("content"))
        else:
            contents.append(_render_content(part))
    if any(content["type"] != "text" for content in contents):
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


def _render_content(part: Any) -> dict[str, Any]:
    """Return a text, or an image's URL; other parts become a text that names them."""
    if not isinstance(part, Mapping):
        return _text(_to_text(part))
    kind, modality = part.get("type"), part.get("modality")
    if kind == "uri" and modality == "image":
        return {"type": "image_url", "image_url": {"url": _to_text(part.get("uri"))}}
    if kind == "blob":
        return _text(_describe_blob(part))
    if kind in ("uri", "file"):
        return _text(f"[{part.get('mime_type') or modality or 'file'}: {part.get('uri') or part.get('file_id')}]")
    if isinstance(part.get("content"), str):
        return _text(part["content"])
    return _text(_to_text(part.get("content", part)))


def _describe_blob(part: Mapping[str, Any]) -> str:
    kind = part.get("mime_type") or part.get("modality") or "data"
    size = part.get("size")
    content = part.get("content") or part.get("data")
    if not isinstance(size, int) and isinstance(content, str):
        left_out = _LEFT_OUT.search(content)
        # Base64 has four characters for three bytes.
        size = int(left_out[1]) * 3 // 4 if left_out else len(content.rstrip("=")) * 3 // 4
    return f"[{kind}, {size} bytes omitted]" if isinstance(size, int) else f"[{kind} omitted]"


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _to_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else _dump(value)


def _dump(value: Any) -> str:
    return _encode(value).decode()


def _find_first(attributes: Mapping[str, Any], places: Iterable[str]) -> Any:
    values = (attributes.get(name) if name[-1] != "*" else _gather(attributes, name[:-1]) for name in places)
    return next((value for value in values if value), None)


def _parse_list(value: Any) -> list[Any]:
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return []
    try:
        parsed = msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return []
    return parsed if isinstance(parsed, list) else []


def _parse_messages(value: Any) -> list[dict[str, Any]] | None:
    """Return messages with ``parts``, ``None`` if the value is of another shape."""
    messages = _parse_list(value)
    is_genai = all(isinstance(message, dict) and isinstance(message.get("parts"), list) for message in messages)
    return messages if messages and is_genai else None


def _gather(attributes: Mapping[str, Any], prefix: str) -> str | None:
    """Return messages with an attribute for each member as JSON, ``None`` if there are none."""
    tree: dict[str, Any] = {}
    for name, value in attributes.items():
        steps = name[len(prefix) :].split(".")
        if not name.startswith(prefix) or not steps[0].isdecimal() or len(steps) > _MAX_DEPTH:
            continue
        node = tree
        for step in steps[:-1]:
            child = node.get(step)
            if not isinstance(child, dict):
                child = node[step] = {}
            node = child
        node[steps[-1]] = value
    return json_dumps(_to_lists(tree)) if tree else None


def _to_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if all(key.isdecimal() for key in value):
        return [_to_lists(value[key]) for key in sorted(value, key=int)]
    return {key: _to_lists(item) for key, item in value.items()}
