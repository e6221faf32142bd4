"""Conversations, read from the attributes and events of any instrumentation as OpenAI's chat messages.

Values of any other shape stay as they are. Sources of the shapes that are read: the GenAI conventions' ``parts``,
OpenAI's and Anthropic's requests and responses, OpenInference's and OpenLLMetry's indexed attributes, Logfire's
``request_data``, and the span events of earlier GenAI conventions. `byline.export.chat_messages` has the messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from opentelemetry.sdk.trace import Event

from byline.export.chat_messages import (
    Conversation,
    Message,
    read_role,
    render_message,
    render_messages,
    to_text,
    tool_call,
)
from byline.genai import attributes as names
from byline.genai.attributes import json_dumps

INPUT: Final = "langfuse.observation.input"
OUTPUT: Final = "langfuse.observation.output"
_MESSAGES_IN: Final = names.CALL_RESULT["input_messages"]
_MESSAGES_OUT: Final = names.CALL_RESULT["output_messages"]
_INSTRUCTIONS: Final = names.CALL_RESULT["system_instructions"]
_TOOLS: Final = names.CALL_RESULT["tool_definitions"]
_AGENT_MESSAGES: Final = "pydantic_ai.all_messages"
TOOL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
TOOL_RESULT: Final = "gen_ai.tool.call.result"

#: Attributes with a span's input or output, in the order of Langfuse's server.
#: A name with ``*`` stands for messages with an attribute for each member.
_INPUTS: Final = (
    INPUT,
    "mlflow.spanInputs",
    "traceloop.entity.input",
    "input.value",
    "input",
    "request_data",
    "gen_ai.prompt",
    "gen_ai.prompt.*",
    "llm.input_messages.*",
    _MESSAGES_IN,
    "events",
)
_OUTPUTS: Final = (
    OUTPUT,
    "mlflow.spanOutputs",
    "traceloop.entity.output",
    "output.value",
    "output",
    "response_data",
    "gen_ai.completion",
    "gen_ai.completion.*",
    "llm.output_messages.*",
    _MESSAGES_OUT,
    "events",
)
#: Messages in these are complete, in others they may lack tools, images, or members.
_BEST: Final = frozenset({INPUT, OUTPUT, _MESSAGES_IN, _MESSAGES_OUT, "llm.input_messages.*", "llm.output_messages.*"})
#: Of agents and tools; input and output of a request come from model calls.
_AGENT_INPUTS: Final = (*_INPUTS, TOOL_ARGUMENTS, _AGENT_MESSAGES)
_AGENT_OUTPUTS: Final = (*_OUTPUTS, TOOL_RESULT, "final_result")
_TOOL_LISTS: Final = ("llm.tools.", "llm.request.functions.")
_NAMES: Final = frozenset({*_AGENT_INPUTS, *_AGENT_OUTPUTS})
_PREFIXES: Final = tuple(name[:-1] for name in _NAMES if name[-1] == "*")
_INPUT_NAMES: Final = frozenset(_INPUTS)
_OUTPUT_NAMES: Final = frozenset(_OUTPUTS)
_INPUT_PREFIXES: Final = tuple(name[:-1] for name in _INPUTS if name[-1] == "*")
_OUTPUT_PREFIXES: Final = tuple(name[:-1] for name in _OUTPUTS if name[-1] == "*")
#: Names that only conversations have; ``input`` may be anything.
_SPELLINGS: Final = frozenset({*_INPUTS, *_OUTPUTS, "input.mime_type", "output.mime_type"}) - {
    INPUT,
    OUTPUT,
    "input",
    "output",
    "events",
}
_MAX_DEPTH: Final = 32
_EVENT_ROLES: Final = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool",
}
_DETAILS: Final = "gen_ai.client.inference.operation.details"
#: openlit's and OpenLLMetry's earlier events → the attribute with the text.
_TEXT_EVENTS: Final = {"gen_ai.content.prompt": "gen_ai.prompt", "gen_ai.content.completion": "gen_ai.completion"}


def read_conversation(
    attributes: Mapping[str, Any], events: Sequence[Event] = (), *, is_agent: bool = False
) -> Conversation:
    """Return the conversation that a span states in the spelling of any instrumentation.

    Args:
        attributes: The attributes of the span.
        events: Its events, which content may stand on as well.
        is_agent: Whether the span is an agent's or a tool's: arguments and results count too.
    """
    if events and any(event.name.startswith("gen_ai.") for event in events):
        attributes = _add_events(attributes, events)
    if not has_content(attributes):
        return Conversation()
    given = _read_side(attributes, _AGENT_INPUTS if is_agent else _INPUTS)
    returned = _read_side(attributes, _AGENT_OUTPUTS if is_agent else _OUTPUTS)
    tools: Sequence[Any] = ()
    if isinstance(given, list):
        instructions = _parse_list(attributes.get(_INSTRUCTIONS))
        # openlit states them in both places.
        if instructions and not any(message["role"] == "system" for message in given[:1]):
            given[:0] = render_messages([{"role": "system", "parts": instructions}])
        tools = _read_tools(attributes)
    return Conversation(given, returned, tools)


def has_content(attributes: Mapping[str, Any]) -> bool:
    """Return whether a span may carry input or output in any spelling."""
    if not _NAMES.isdisjoint(attributes):
        return True
    return bool([name for name in attributes if name.startswith(_PREFIXES)])


def sides(attributes: Mapping[str, Any], events: Sequence[Event] = ()) -> tuple[bool, bool]:
    """Return whether a model call states its input and its output, without reading them."""
    if events and any(event.name.startswith("gen_ai.") for event in events):
        return True, True
    return _states(attributes, _INPUT_NAMES, _INPUT_PREFIXES), _states(attributes, _OUTPUT_NAMES, _OUTPUT_PREFIXES)


def _states(attributes: Mapping[str, Any], stated: frozenset[str], prefixes: tuple[str, ...]) -> bool:
    if any(attributes.get(name) for name in stated.intersection(attributes)):
        return True
    return bool([name for name in attributes if name.startswith(prefixes)])


def has_messages(attributes: Mapping[str, Any]) -> bool:
    """Return whether a span states messages with ``parts``, which Langfuse's pages cannot show."""
    return not {_MESSAGES_IN, _MESSAGES_OUT, _AGENT_MESSAGES}.isdisjoint(attributes)


def rendered_attributes(attributes: Mapping[str, Any], *, is_model_call: bool) -> set[str]:
    """Return the names of attributes that a rendered input or output repeats.

    Attributes of an agent or a tool may be of another conversation than the rendered one, those of a model call not.
    """
    genai = (_MESSAGES_IN, _MESSAGES_OUT, _AGENT_MESSAGES)
    rendered = {name for name in genai if '"parts"' in str(attributes.get(name))}
    if is_model_call:
        rendered |= {name for name in attributes if name in _SPELLINGS or name.startswith((*_PREFIXES, *_TOOL_LISTS))}
    return rendered | {_INSTRUCTIONS} if rendered else rendered


def _read_side(attributes: Mapping[str, Any], places: Iterable[str]) -> list[Message] | str | None:
    """Return the messages of the best place, else the first value of another shape."""
    found: list[Message] | None = None
    stated: Any = None
    is_output = places is _OUTPUTS or places is _AGENT_OUTPUTS
    for place in places:
        is_indexed = place[-1] == "*"
        value = _gather(attributes, place[:-1]) if is_indexed else attributes.get(place)
        if not value:
            continue
        if place == "events":
            value = _messages_of_events(value, is_output=is_output)
        if place in _BEST or not found:
            messages = _parse_messages(value)
            if place == _AGENT_MESSAGES and messages and messages[-1]["role"] == "assistant":
                # The whole conversation: the answer is the agent's output.
                del messages[-1]
            found = messages or found
            if messages and place in _BEST:
                break
        if stated is None:
            stated = json_dumps(value) if is_indexed else value
    return found or (None if stated is None else stated if isinstance(stated, str) else json_dumps(stated))


def _read_tools(attributes: Mapping[str, Any]) -> list[Any]:
    tools = _parse_list(attributes.get(_TOOLS))
    if tools:
        return _nest_tools(tools)
    for place in (INPUT, "request_data", "input.value"):
        stated = _parse(attributes.get(place))
        if isinstance(stated, dict) and isinstance(stated.get("tools"), list):
            return _nest_tools(stated["tools"])
    for prefix in _TOOL_LISTS:
        if any(name.startswith(prefix) for name in attributes):
            return _nest_tools(_gather(attributes, prefix) or [])
    return []


def _nest_tools(tools: Iterable[Any]) -> list[dict[str, Any]]:
    """Return tools as OpenAI's requests have them: ``{"type": "function", "function": {"name": …}}``."""
    return [*filter(None, (_nest_tool(tool) for tool in tools if isinstance(tool, dict)))]


def _nest_tool(tool: dict[str, Any]) -> dict[str, Any] | None:
    schema = tool["tool"] if isinstance(tool.get("tool"), dict) else tool
    schema = _parse(schema["json_schema"]) if "json_schema" in schema else schema
    if not isinstance(schema, dict) or {"function", "name", "type"}.isdisjoint(schema):
        return None
    if "function" in schema or "name" not in schema or schema.get("type", "function") != "function":
        return schema
    function = {key: value for key, value in schema.items() if key != "type"}
    parameters = _parse(function.get("parameters") or function.pop("input_schema", None))
    return {"type": "function", "function": {**function, "parameters": parameters} if parameters else function}


def _parse(value: Any) -> Any:
    """Return a JSON array or object, ``None`` for any other value."""
    if isinstance(value, list | dict):
        return value
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        # The decoder takes no subclass of `str`.
        return msgspec.json.decode(str(value))
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None


def is_json(value: Any) -> bool:
    """Return whether a value is the text of a JSON array or object."""
    return isinstance(value, str) and _parse(value) is not None


def _parse_list(value: Any) -> list[Any]:
    parsed = _parse(value)
    return parsed if isinstance(parsed, list) else []


def _parse_messages(value: Any) -> list[Message] | None:
    """Return OpenAI's chat messages, ``None`` if the value is no conversation."""
    parsed = _parse(value)
    if isinstance(parsed, dict):
        return _messages_of_object(parsed)
    if not parsed or not isinstance(parsed, list) or not all(isinstance(item, dict) for item in parsed):
        return None
    messages: list[Message] = []
    for item in parsed:
        rendered = _messages_of_item(item)
        if rendered is None:
            return None
        messages += rendered
    return messages


def _messages_of_object(stated: dict[str, Any]) -> list[Message] | None:
    """Read a request or a response of a provider, or a single message."""
    for key in ("messages", "choices", "output", "contents", "candidates"):
        if isinstance(stated.get(key), list):
            messages = _parse_messages(stated[key])
            return _with_instructions(messages, stated) if messages else None
    given = stated.get("input")
    if given and ("model" in stated or "instructions" in stated):
        messages = [{"role": "user", "content": given}] if isinstance(given, str) else _parse_messages(given)
        return _with_instructions(messages, stated) if messages else None
    if isinstance(stated.get("message"), dict):
        return _messages_of_item(stated["message"])
    return _messages_of_item(stated) if "role" in stated else None


def _with_instructions(messages: list[Message], stated: dict[str, Any]) -> list[Message]:
    instructions = stated.get("system") or stated.get("instructions")
    if not instructions:
        return messages
    return [*render_message({"role": "system", "parts": _to_parts(instructions)}), *messages]


def _messages_of_item(item: dict[str, Any]) -> list[Message] | None:
    if isinstance(item.get("parts"), list):
        return render_message(item)
    if isinstance(item.get("message"), dict):
        # A choice of a response, or OpenInference's indexed attributes.
        return _messages_of_item(item["message"])
    if isinstance(item.get("content"), dict) and "role" in item["content"]:
        # A candidate of Gemini's.
        return _messages_of_item(item["content"])
    kind = item.get("type")
    if kind == "function_call":
        call = tool_call(item.get("call_id"), item.get("name"), item.get("arguments"))
        return [{"role": "assistant", "content": None, "tool_calls": [call]}]
    if kind == "function_call_output":
        return [{"role": "tool", "tool_call_id": item.get("call_id"), "content": to_text(item.get("output"))}]
    if kind == "reasoning":
        return render_message({"role": "assistant", "parts": [item]})
    has_body = not {"content", "contents", "tool_calls", "function_call", "refusal"}.isdisjoint(item)
    return _normalize(item) if isinstance(item.get("role"), str) and has_body else None


def _normalize(message: dict[str, Any]) -> list[Message]:
    """Return a message with ``role`` and ``content`` with the members that OpenAI's have."""
    content = message.get("content")
    if isinstance(message.get("contents"), list):
        parts = [item.get("message_content", item) for item in message["contents"] if isinstance(item, dict)]
        content = [_openinference_part(part) for part in parts if isinstance(part, dict)]
    if read_role(message["role"]) == "tool" or message["role"] == "function":
        identifier = message.get("tool_call_id") or message.get("id") or message.get("name")
        return [{"role": "tool", "tool_call_id": identifier, "content": to_text(content)}]
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    parts = [*_to_parts(content)]
    if isinstance(reasoning, str):
        parts.insert(0, {"type": "reasoning", "content": reasoning})
    if message.get("refusal"):
        parts.append({"type": "refusal", "content": message["refusal"]})
    calls = _parse(message.get("tool_calls")) or []
    if isinstance(message.get("function_call"), dict):
        calls = [*calls, {"function": message["function_call"]}]
    parts += filter(None, map(_tool_call_part, calls))
    return render_message({"role": message["role"], "name": message.get("name"), "parts": parts})


def _to_parts(content: Any) -> Iterator[Any]:
    if isinstance(content, str):
        # Some instrumentations write lists of parts as JSON text.
        parsed = _parse(content) if content[:2] == "[{" else None
        if isinstance(parsed, list) and all(isinstance(part, dict) and "type" in part for part in parsed):
            yield from parsed
        elif content:
            yield content
    elif isinstance(content, list):
        yield from content
    elif content is not None:
        yield content


def _openinference_part(part: dict[str, Any]) -> dict[str, Any]:
    image = part.get("image")
    if isinstance(image, dict) and isinstance(image.get("image"), dict):
        return {"type": "image_url", "image_url": image["image"]}
    return part


def _tool_call_part(call: Any) -> dict[str, Any] | None:
    if not isinstance(call, dict):
        return None
    call = call.get("tool_call", call)
    function = call.get("function") if isinstance(call.get("function"), dict) else call
    if not isinstance(function, dict):
        return None
    identifier = call.get("id") or call.get("tool_call_id")
    arguments = function.get("arguments", function.get("args"))
    return {"type": "tool_call", "id": identifier, "name": function.get("name"), "arguments": arguments}


def _messages_of_events(value: Any, *, is_output: bool) -> list[dict[str, Any]]:
    """Return the messages among events of earlier GenAI conventions, as Logfire and Pydantic AI list them."""
    messages: list[dict[str, Any]] = []
    for item in _parse_list(value):
        name = item.get("event.name") if isinstance(item, dict) else None
        if name == "gen_ai.choice" and is_output:
            message = item.get("message")
            messages.append(
                {"role": "assistant", **message} if isinstance(message, dict) else {**item, "role": "assistant"}
            )
        elif name in _EVENT_ROLES and not is_output:
            messages.append({"role": _EVENT_ROLES[name], **item})
    return messages


def _add_events(attributes: Mapping[str, Any], events: Sequence[Event]) -> dict[str, Any]:
    """Return the attributes with the content of span events, which stands nowhere else."""
    listed: list[dict[str, Any]] = []
    added: dict[str, Any] = {}
    for event in events:
        stated = dict(event.attributes or {})
        if event.name == _DETAILS:
            added.update(stated)
        elif event.name in _TEXT_EVENTS:
            name = _TEXT_EVENTS[event.name]
            added.setdefault(name, stated.get(name))
        elif event.name in _EVENT_ROLES or event.name == "gen_ai.choice":
            if isinstance(stated.get("message"), str):
                stated["message"] = _parse(stated["message"]) or {"content": stated["message"]}
            listed.append({**stated, "event.name": event.name})
    if listed:
        added["events"] = listed
    return {**added, **attributes}


def _gather(attributes: Mapping[str, Any], prefix: str) -> Any:
    """Return messages with an attribute for each member as a list, ``None`` if there are none."""
    tree: dict[str, Any] = {}
    for name, value in attributes.items():
        if not name.startswith(prefix):
            continue
        steps = name[len(prefix) :].split(".")
        if not steps[0].isdecimal() or len(steps) > _MAX_DEPTH:
            continue
        node = tree
        for step in steps[:-1]:
            child = node.get(step)
            if not isinstance(child, dict):
                child = node[step] = {}
            node = child
        node[steps[-1]] = value
    return _to_lists(tree) if tree else None


def _to_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if all(key.isdecimal() for key in value):
        return [_to_lists(value[key]) for key in sorted(value, key=int)]
    return {key: _to_lists(item) for key, item in value.items()}
