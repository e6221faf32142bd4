"""OpenAI's chat completions, completions and embeddings, which most other providers offer too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

import msgspec

from byline.apis.json_body import Members, decode_json, parse_object
from byline.apis.messages import (
    MAX_MEDIA,
    Message,
    Part,
    build_message,
    generic_part,
    list_objects,
    media_part,
    reasoning_part,
    shorten_text,
    text_part,
    tool_call_part,
    tool_response_part,
    user_messages,
)
from byline.apis.parser import (
    ApiParser,
    Parameters,
    Usage,
    add_finish_reason,
    vector_length,
)
from byline.call_result import CallResult
from byline.gateways import values

#: The parameters of chat completions, completions, embeddings and the Responses API.
PARAMETERS: Final[Parameters] = {
    "max_tokens": ("max_tokens", int),
    "max_completion_tokens": ("max_tokens", int),
    "max_output_tokens": ("max_tokens", int),
    "temperature": ("temperature", float),
    "top_p": ("top_p", float),
    "top_k": ("top_k", int),
    "frequency_penalty": ("frequency_penalty", float),
    "presence_penalty": ("presence_penalty", float),
    "seed": ("seed", int),
    "random_seed": ("seed", int),
    "stop": ("stop_sequences", tuple),
    "n": ("choice.count", int),
    "reasoning_effort": ("reasoning.level", str),
    "reasoning.effort": ("reasoning.level", str),
    "previous_response_id": ("previous_response.id", str),
    "encoding_format": ("encoding_formats", tuple),
}

#: Members that state a type of output, in chat completions and in the Responses API.
OUTPUT_TYPES: Final = ("response_format.type", "text.format.type", "modalities")
#: Providers whose spans have the attributes ``openai.*``.
_OPENAI: Final = frozenset({"openai", "azure.ai.openai"})

#: The token counts under both names: those of chat completions, and those of the Responses API.
USAGE: Final[Usage] = {
    "input_tokens": ("prompt_tokens", "input_tokens"),
    "output_tokens": ("completion_tokens", "output_tokens"),
    "cache_read_tokens": ("prompt_tokens_details.cached_tokens", "input_tokens_details.cached_tokens"),
    "cache_write_tokens": ("prompt_tokens_details.cache_write_tokens",),
    "reasoning_tokens": ("completion_tokens_details.reasoning_tokens", "output_tokens_details.reasoning_tokens"),
    "input_text_tokens": ("prompt_tokens_details.text_tokens", "input_tokens_details.text_tokens"),
    "input_image_tokens": ("prompt_tokens_details.image_tokens", "input_tokens_details.image_tokens"),
    "input_audio_tokens": ("prompt_tokens_details.audio_tokens", "input_tokens_details.audio_tokens"),
    "input_video_tokens": ("prompt_tokens_details.video_tokens",),
    "output_text_tokens": ("completion_tokens_details.text_tokens", "output_tokens_details.text_tokens"),
    "output_image_tokens": ("completion_tokens_details.image_tokens", "output_tokens_details.image_tokens"),
    "output_audio_tokens": ("completion_tokens_details.audio_tokens", "output_tokens_details.audio_tokens"),
}


class _Choice(msgspec.Struct):
    """The members of a choice that are read if messages are not captured; texts and logprobs are skipped."""

    finish_reason: msgspec.Raw = msgspec.Raw()
    message: msgspec.Raw = msgspec.Raw()
    delta: msgspec.Raw = msgspec.Raw()


_decode_choices: Final = msgspec.json.Decoder(list[_Choice]).decode
#: The member of a choice's message in which Vercel's gateway states routing and cost.
_METADATA: Final = "provider_metadata"
_METADATA_BYTES: Final = _METADATA.encode()
#: Choices of one stream with captured messages.
_MAX_CHOICES: Final = 64


class OpenAIParser(ApiParser):
    """The members that all of OpenAI's APIs have. Other providers offer the same APIs.

    Attributes:
        api_type: The name of the API in OpenTelemetry's conventions for OpenAI.
    """

    api_type: ClassVar[str | None] = None
    parameters: ClassVar[Parameters] = PARAMETERS
    output_types: ClassVar[tuple[str, ...]] = OUTPUT_TYPES

    def parse_request(self, body: bytes, result: CallResult, **given: Any) -> bool:
        """Read also the service tier, if the provider is OpenAI."""
        fits = super().parse_request(body, result, **given)
        if result.provider in _OPENAI:
            result.api_type = self.api_type
            members = given.get("members")
            request = Members(members) if members is not None else parse_object(body) or Members({})
            tier = values.text(request.get_string("service_tier"))
            result.request_tier = None if tier == "auto" else tier
        return fits

    def apply_usage(self, usage: Mapping[str, Any], result: CallResult) -> None:
        """Read the token counts; xAI counts reasoning tokens beside the output, not within it."""
        super().apply_usage(usage, result)
        if result.output_tokens is not None and result.reasoning_tokens:
            output = result.output_tokens + result.reasoning_tokens
            if usage.get("total_tokens") == (result.input_tokens or 0) + output:
                result.output_tokens = output

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Read also the service tier and the fingerprint of the backend."""
        super().apply_reply(reply, result)
        if result.provider in _OPENAI:
            result.response_tier = values.text(reply.get_string("service_tier")) or result.response_tier
            result.system_fingerprint = values.text(reply.get_string("system_fingerprint")) or result.system_fingerprint


class Chat(OpenAIParser):
    """``/chat/completions``."""

    name: ClassVar[str] = "openai.chat"
    api_type: ClassVar[str | None] = "chat_completions"
    required_members: ClassVar[frozenset[str]] = frozenset({"messages"})
    usage: ClassVar[Usage] = USAGE

    def reply_in(self, event: Members) -> Members:
        """Return the event; Groq states the usage of a stream in ``x_groq`` of the last event."""
        groq = None if event.has_object("usage") else event.get_object("x_groq")
        if groq is None or not groq.has_object("usage"):
            return event
        return Members({**event.raw, "usage": groq.raw["usage"]})

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Read also one finish reason for each choice."""
        super().apply_reply(reply, result)
        for choice in reply.get_typed("choices", _decode_choices) or ():
            add_finish_reason(decode_json(choice.finish_reason), result)

    def gateway_members(self, reply: Members) -> dict[str, msgspec.Raw]:
        """Return the metadata that a gateway has put into a choice."""
        for choice in reply.get_typed("choices", _decode_choices) or ():
            for raw in (choice.message, choice.delta):
                message = parse_object(raw) if _METADATA_BYTES in bytes(raw) else None
                if message is not None and message.get_object(_METADATA):
                    return {_METADATA: message.raw[_METADATA]}
        return {}

    def input_messages(self, request: Members) -> list[Message]:
        """Return all messages, system messages among them."""
        return [chat_message(item) for item in list_objects(request.get("messages"))]

    def output_messages(self, reply: Members) -> list[Message]:
        """Return one message for each choice."""
        return [
            {**chat_message(values.mapping(choice.get("message"))), "finish_reason": choice.get("finish_reason")}
            for choice in list_objects(reply.get("choices"))
        ]

    def join_stream(self, events: Iterable[Members]) -> list[Message]:
        """Return one message for each choice, joined from its deltas."""
        choices: dict[int, _JoinedChoice] = {}
        for event in events:
            for choice in list_objects(event.get("choices")):
                index = choice.get("index")
                key = index if type(index) is int else 0
                if key in choices or len(choices) < _MAX_CHOICES:
                    choices.setdefault(key, _JoinedChoice()).add_chunk(choice)
        return [choices[index].to_message() for index in sorted(choices)]


class _JoinedChoice:
    """One choice of a stream, joined from its deltas."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._images: list[Part] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._finish_reason: Any = None

    def add_chunk(self, choice: Mapping[str, Any]) -> None:
        delta = values.mapping(choice.get("delta"))
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        for pieces, piece in (
            (self._text, delta.get("content") or choice.get("text")),
            (self._reasoning, delta.get("reasoning_content") or delta.get("reasoning")),
        ):
            if isinstance(piece, str):
                pieces.append(piece)
        if len(self._images) < MAX_MEDIA:
            self._images += content_parts(delta.get("images") or [])
        for call in list_objects(delta.get("tool_calls")):
            index = call.get("index")
            function = values.mapping(call.get("function"))
            joined = self._calls.setdefault(
                index if type(index) is int else 0, {"id": None, "name": None, "arguments": []}
            )
            joined["id"] = call.get("id") or joined["id"]
            joined["name"] = function.get("name") or joined["name"]
            if isinstance(function.get("arguments"), str):
                joined["arguments"].append(function["arguments"])

    def to_message(self) -> Message:
        parts: list[Part] = []
        if self._reasoning:
            parts.append(reasoning_part("".join(self._reasoning)))
        if self._text:
            parts.append(text_part("".join(self._text)))
        parts += self._images
        parts += [tool_call_part(call["id"], call["name"], "".join(call["arguments"])) for call in self._calls.values()]
        return build_message("assistant", parts, finish_reason=self._finish_reason)


class Completions(Chat):
    """``/completions``."""

    name: ClassVar[str] = "openai.completions"
    api_type: ClassVar[str | None] = None
    required_members: ClassVar[frozenset[str]] = frozenset({"prompt"})
    operation: ClassVar[str] = "text_completion"

    def input_messages(self, request: Members) -> list[Message]:
        """Return a message of the user for each prompt."""
        return user_messages(request.get("prompt"))

    def output_messages(self, reply: Members) -> list[Message]:
        """Return one message for each choice."""
        return [
            build_message("assistant", [text_part(choice.get("text"))], finish_reason=choice.get("finish_reason"))
            for choice in list_objects(reply.get("choices"))
        ]


class Embeddings(OpenAIParser):
    """``/embeddings``: the output is no text."""

    name: ClassVar[str] = "openai.embeddings"
    required_members: ClassVar[frozenset[str]] = frozenset({"input"})
    operation: ClassVar[str] = "embeddings"
    dimensions: ClassVar[str | None] = "dimensions"
    usage: ClassVar[Usage] = USAGE

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Read also the dimensions, unless the request states them."""
        super().apply_reply(reply, result)
        result.dimensions = result.dimensions or vector_length(reply.raw.get("data"))

    def input_messages(self, request: Members) -> list[Message]:
        """Return the texts; tokens are skipped."""
        return user_messages(request.get("input"))


def chat_message(item: Mapping[str, Any]) -> Message:
    """Return one message of a chat."""
    role = item.get("role", "assistant")
    if role == "tool":
        return build_message(role, [tool_response_part(item.get("tool_call_id"), item.get("content"), content_part)])
    parts: list[Part] = []
    reasoning = item.get("reasoning_content") or item.get("reasoning")
    if isinstance(reasoning, str):
        parts.append(reasoning_part(reasoning))
    parts += content_parts(item.get("content"))
    # Images that a model has made, as OpenRouter and LiteLLM return them.
    parts += content_parts(item.get("images") or [])
    if isinstance(item.get("refusal"), str):
        parts.append(text_part(item["refusal"]))
    audio = values.mapping(item.get("audio"))
    if isinstance(audio.get("transcript"), str):
        # The answer of a model that speaks. An earlier answer in a request has only the id of the audio.
        spoken = media_part("audio", data=audio.get("data"))
        parts.append({**spoken, "transcript": shorten_text(audio["transcript"])})
    for call in list_objects(item.get("tool_calls")):
        function = values.mapping(call.get("function"))
        parts.append(tool_call_part(call.get("id"), function.get("name"), function.get("arguments")))
    name = item.get("name")
    return build_message(role, parts, **({"name": name} if isinstance(name, str) else {}))


def content_parts(content: object) -> list[Part]:
    """Return the parts of a message's content, which is a text or a list."""
    if isinstance(content, str):
        return [text_part(content)]
    return [content_part(item) for item in list_objects(content)]


def content_part(item: Mapping[str, Any]) -> Part:
    """Return one part of a message's content."""
    kind = item.get("type")
    if kind in ("text", "input_text", "output_text"):
        return text_part(item.get("text"))
    if kind in ("image_url", "input_image"):
        image = item.get("image_url")
        url = image.get("url") if isinstance(image, Mapping) else image
        return media_part("image", uri=url, file_id=item.get("file_id"))
    if kind == "input_audio":
        audio = values.mapping(item.get("input_audio"))
        return media_part("audio", mime=audio.get("format"), data=audio.get("data"))
    if kind in ("file", "input_file"):
        file = item.get("file") if isinstance(item.get("file"), Mapping) else item
        file = values.mapping(file)
        data = file.get("file_data")
        uri = data if isinstance(data, str) and data.startswith("data:") else None
        return media_part("document", file_id=file.get("file_id"), uri=uri, data=data)
    if kind == "refusal":
        return text_part(item.get("refusal"))
    return generic_part(item)


def made_image(data: object, output_format: object, *, uri: object = None) -> Part:
    """Return an image that a model has made. Without a format, the type shows in the bytes."""
    mime = f"image/{output_format}" if isinstance(output_format, str) else None
    return media_part("image", uri=uri, mime=mime, data=data)
