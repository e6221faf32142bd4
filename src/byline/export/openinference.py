"""A span as Phoenix's and Arize's pages read it: OpenInference's kind, messages, tools, input, output and status.

`byline.genai.dialects` has the attributes that are equal under another name. Source: the OpenInference specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from opentelemetry.trace import Status, StatusCode

from byline.export import chat_messages, conversation
from byline.export.chat_messages import Conversation, Message
from byline.export.span_copy import SpanCopy, find_error
from byline.genai import attributes as names
from byline.genai.attributes import json_dumps
from byline.genai.dialects import openinference_kind

_KIND: Final = "openinference.span.kind"
_INPUT: Final = "input.value"
_OUTPUT: Final = "output.value"
_INPUT_MESSAGES: Final = "llm.input_messages."
_OUTPUT_MESSAGES: Final = "llm.output_messages."
_TOOLS: Final = "llm.tools."
_JSON: Final = "application/json"
_TEXT: Final = "text/plain"


def map_span(span: SpanCopy) -> None:
    """Write onto a span copy what the pages of an OpenInference backend show of the span."""
    kind = _find_kind(span)
    if kind is None:
        return
    attributes = span.attributes
    attributes[_KIND] = kind
    if kind == "LLM":
        found = conversation.read_conversation(attributes, span.events)
        _set_messages(attributes, _INPUT_MESSAGES, found.input)
        _set_messages(attributes, _OUTPUT_MESSAGES, found.output)
        _set_tools(attributes, found.tools)
        _set_values(span, found)
    elif span.is_llm:
        found = conversation.read_conversation(attributes, span.events, is_agent=True)
        span.set_missing(_INPUT, chat_messages.text_of(found.input, "user"))
        span.set_missing(_OUTPUT, chat_messages.text_of(found.output, "assistant"))
    if span.is_error:
        _set_error(span)
    elif span.status.status_code is StatusCode.UNSET and names.STREAM_CUT not in attributes:
        # As OpenInference's instrumentations do; Phoenix shows no status otherwise.
        span.status = Status(StatusCode.OK)
    for name in (_INPUT, _OUTPUT):
        if name in attributes:
            attributes.setdefault(f"{name[:-5]}mime_type", _JSON if conversation.is_json(attributes[name]) else _TEXT)
        else:
            # Left by a redaction of the value.
            attributes.pop(f"{name[:-5]}mime_type", None)


def _find_kind(span: SpanCopy) -> str | None:
    """Return the kind of a span, ``None`` for spans of the app, which have none."""
    attributes = span.attributes
    stated = attributes.get(_KIND)
    if stated:
        return str(stated).upper()
    if span.is_llm:
        if span.is_model_call:
            return "EMBEDDING" if openinference_kind(attributes.get(names.OPERATION_NAME)) == "EMBEDDING" else "LLM"
        kind = openinference_kind(attributes.get(names.OPERATION_NAME) or attributes.get("traceloop.span.kind"))
        return "CHAIN" if kind == "LLM" else kind
    return "CHAIN" if span.is_root or span.is_made else None


def _set_values(span: SpanCopy, found: Conversation) -> None:
    """Set input and output of a model call: texts on a root, which lists show, and all messages below a root."""
    if span.is_root:
        span.set_missing(_INPUT, chat_messages.text_of(found.input, "user"))
        span.set_missing(_OUTPUT, chat_messages.text_of(found.output, "assistant"))
    else:
        span.set_missing(_INPUT, chat_messages.dump_input(found))
        span.set_missing(_OUTPUT, chat_messages.dump_output(found))


def _set_messages(attributes: dict[str, Any], prefix: str, messages: list[Message] | str | None) -> None:
    """Set an attribute for each member of each message, unless the instrumentation has done so."""
    if not isinstance(messages, list) or any(name.startswith(prefix) for name in attributes):
        return
    for number, message in enumerate(messages):
        path = f"{prefix}{number}.message."
        attributes[f"{path}role"] = message["role"]
        for member in ("name", "tool_call_id"):
            if message.get(member):
                attributes[path + member] = str(message[member])
        _set_content(attributes, path, message)
        for index, call in enumerate(message.get("tool_calls", ())):
            call_path = f"{path}tool_calls.{index}.tool_call."
            function = call["function"]
            if call["id"]:
                attributes[f"{call_path}id"] = str(call["id"])
            attributes[f"{call_path}function.name"] = str(function["name"])
            attributes[f"{call_path}function.arguments"] = function["arguments"]


def _set_content(attributes: dict[str, Any], path: str, message: Message) -> None:
    content, reasoning = message.get("content"), message.get("reasoning_content")
    if isinstance(content, str) and not reasoning:
        attributes[f"{path}content"] = content
        return
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
    if reasoning:
        parts = [{"type": "reasoning", "text": reasoning}, *parts]
    for index, part in enumerate(parts):
        part_path = f"{path}contents.{index}.message_content."
        if part["type"] == "image_url":
            attributes[f"{part_path}type"] = "image"
            attributes[f"{part_path}image.image.url"] = part["image_url"]["url"]
        elif part["type"] == "input_audio":
            attributes[f"{part_path}type"] = "audio"
            attributes[f"{part_path}audio.audio.url"] = part["input_audio"]["data"]
        else:
            attributes[f"{part_path}type"] = part["type"]
            attributes[f"{part_path}text"] = part["text"]


def _set_tools(attributes: dict[str, Any], tools: Sequence[Any]) -> None:
    if tools and not any(name.startswith(_TOOLS) for name in attributes):
        for number, tool in enumerate(tools):
            attributes[f"{_TOOLS}{number}.tool.json_schema"] = json_dumps(tool)


def _set_error(span: SpanCopy) -> None:
    """Set the status with the provider's code, and an output that states the error if there is none."""
    error = find_error(span)
    span.status = Status(StatusCode.ERROR, error.text if error.message or error.kind != "error" else None)
    if span.attributes[_KIND] == "LLM" or (span.is_root and not span.is_llm):
        span.set_missing(_OUTPUT, json_dumps({"error": error.stated}))
