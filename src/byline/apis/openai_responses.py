"""OpenAI's Responses API."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from byline.apis.json_body import Members
from byline.apis.messages import (
    Message,
    Part,
    build_message,
    generic_part,
    list_objects,
    reasoning_part,
    system_parts,
    text_part,
    tool_call_part,
    tool_response_part,
    user_messages,
)
from byline.apis.openai import USAGE, OpenAIParser, content_part, content_parts, made_image
from byline.apis.parser import Usage, set_finish_reason
from byline.call_result import CallResult
from byline.gateways import values

_FINAL_STATUSES = frozenset({"completed", "incomplete", "failed", "cancelled"})


class Responses(OpenAIParser):
    """``/responses``."""

    name: ClassVar[str] = "openai.responses"
    api_type: ClassVar[str | None] = "responses"
    required_members: ClassVar[frozenset[str]] = frozenset({"model"})
    #: The SDK ends its stream at this event, before the body ends. The quotes of the same text in an
    #: answer have backslashes.
    end_mark: ClassVar[re.Pattern[bytes] | None] = re.compile(rb'"type": ?"response\.(?:completed|incomplete|failed)"')
    usage: ClassVar[Usage] = USAGE

    def reply_in(self, event: Members) -> Members:
        """Return the response that most events contain, as far as the server has produced it."""
        reply = event.get_object("response")
        return reply if reply is not None else event if event.get_string("type") == "error" else Members({})

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Read also the status, which stands for a finish reason."""
        super().apply_reply(reply, result)
        status = reply.get_string("status")
        if status in _FINAL_STATUSES:
            detail = values.text(reply.get_dict("incomplete_details").get("reason"))
            set_finish_reason(detail or status, result)

    def input_messages(self, request: Members) -> list[Message]:
        """Return the messages, tool calls and tool responses; a text is a message of the user."""
        given = request.get("input")
        return user_messages(given) if isinstance(given, str) else [_item_message(item) for item in list_objects(given)]

    def system_instructions(self, request: Members) -> list[Part]:
        """Return the instructions."""
        return system_parts(request.get("instructions"))

    def output_messages(self, reply: Members) -> list[Message]:
        """Return one message with all output items as parts."""
        parts = [part for item in list_objects(reply.get("output")) for part in _item_message(item)["parts"]]
        return [build_message("assistant", parts, finish_reason=reply.get("status"))] if parts else []

    def join_stream(self, events: Iterable[Members]) -> list[Message]:
        """Return the output of the last event; of a stream that broke off the texts of its deltas."""
        texts: list[str] = []
        messages: list[Message] = []
        for event in events:
            reply = event.get_object("response")
            messages = (self.output_messages(reply) if reply is not None else []) or messages
            if event.get_string("type") == "response.output_text.delta":
                texts.append(event.get_string("delta") or "")
        text = "".join(texts)
        return messages if messages or not text else [build_message("assistant", [text_part(text)])]


class RetrievedResponse(Responses):
    """``GET /responses/{id}``: what a response that was made in the background has used, once it is done.

    Every other response has stated its usage when it was created.
    """

    operation: ClassVar[str] = "fetch_response"
    path_pattern: ClassVar[re.Pattern[str] | None] = re.compile(r"/responses/resp_[^/]+\Z")
    required_members: ClassVar[frozenset[str]] = frozenset()

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Read a final reply only: one that is still under way has no usage."""
        if reply.get("background") is True and reply.get_string("status") in _FINAL_STATUSES:
            super().apply_reply(reply, result)
            result.request_model = result.response_model


def _item_message(item: Mapping[str, Any]) -> Message:
    kind = item.get("type", "message")
    if kind == "message":
        return build_message(item.get("role"), content_parts(item.get("content")))
    if kind == "function_call":
        call = tool_call_part(item.get("call_id"), item.get("name"), item.get("arguments"))
        return build_message("assistant", [call])
    if kind in ("function_call_output", "custom_tool_call_output"):
        return build_message("tool", [tool_response_part(item.get("call_id"), item.get("output"), content_part)])
    if kind == "computer_call_output":
        # One screenshot.
        output = [{**values.mapping(item.get("output")), "type": "input_image"}]
        return build_message("tool", [tool_response_part(item.get("call_id"), output, content_part)])
    if kind == "image_generation_call":
        return build_message("assistant", [made_image(item.get("result"), item.get("output_format"))])
    if kind == "reasoning":
        texts = [part.get("text") for part in list_objects(item.get("summary"))]
        return build_message("assistant", [reasoning_part(text) for text in texts if isinstance(text, str)])
    return build_message("assistant", [generic_part(item)])
