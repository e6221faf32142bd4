"""Mistral's agents and conversations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

import msgspec

from byline.apis.json_body import Members, decode_json
from byline.apis.messages import (
    Message,
    Part,
    build_message,
    join_pieces,
    list_objects,
    system_parts,
    tool_call_part,
    tool_response_part,
    user_messages,
)
from byline.apis.openai import OUTPUT_TYPES, PARAMETERS, USAGE, Chat, content_parts
from byline.apis.parser import ApiParser, Parameters, Usage
from byline.call_result import CallResult
from byline.gateways import values


class _Output(msgspec.Struct):
    model: msgspec.Raw = msgspec.Raw()


_decode_outputs: Final = msgspec.json.Decoder(list[_Output]).decode


class Agents(Chat):
    """``/agents/completions``: chat completions of an agent; the request does not name the model."""

    name: ClassVar[str] = "mistral.agents"
    default_provider: ClassVar[str] = "mistral_ai"
    required_members: ClassVar[frozenset[str]] = frozenset({"agent_id", "messages"})


class Conversations(ApiParser):
    """``/conversations``, ``/conversations/{id}`` and ``/conversations/{id}/restart``."""

    name: ClassVar[str] = "mistral.conversations"
    default_provider: ClassVar[str] = "mistral_ai"
    required_members: ClassVar[frozenset[str]] = frozenset({"inputs"})
    #: OpenAI's conversations have no ``inputs``: they only store messages.
    shares_path: ClassVar[bool] = True
    parameters: ClassVar[Parameters] = {f"completion_args.{name}": parameter for name, parameter in PARAMETERS.items()}
    output_types: ClassVar[tuple[str, ...]] = tuple(f"completion_args.{name}" for name in OUTPUT_TYPES)
    usage: ClassVar[Usage] = USAGE

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Read also the model, which the outputs name."""
        super().apply_reply(reply, result)
        for output in reply.get_typed("outputs", _decode_outputs) or ():
            result.response_model = values.text(decode_json(output.model)) or result.response_model

    def input_messages(self, request: Members) -> list[Message]:
        """Return the inputs: a text, or the entries of a conversation."""
        given = request.get("inputs")
        return (
            user_messages(given) if isinstance(given, str) else [_entry_message(item) for item in list_objects(given)]
        )

    def system_instructions(self, request: Members) -> list[Part]:
        """Return the instructions."""
        return system_parts(request.get("instructions"))

    def output_messages(self, reply: Members) -> list[Message]:
        """Return one message with all outputs as parts."""
        parts = [part for item in list_objects(reply.get("outputs")) for part in _entry_message(item)["parts"]]
        return [build_message("assistant", parts)] if parts else []

    def join_stream(self, events: Iterable[Members]) -> list[Message]:
        """Return one message, joined from the texts of all ``message.output.delta`` events."""
        messages = join_pieces((_delta_text(event), None) for event in events)
        return [build_message("assistant", message["parts"]) for message in messages]


def _delta_text(event: Members) -> object:
    if event.get_string("type") != "message.output.delta":
        return None
    content = event.get("content")
    return content.get("text") if isinstance(content, Mapping) else content


def _entry_message(item: Mapping[str, Any]) -> Message:
    kind = item.get("type")
    if kind == "function.call":
        call = tool_call_part(item.get("tool_call_id"), item.get("name"), item.get("arguments"))
        return build_message("assistant", [call])
    if kind == "function.result":
        return build_message("tool", [tool_response_part(item.get("tool_call_id"), item.get("result"))])
    return build_message(item.get("role"), content_parts(item.get("content")))
