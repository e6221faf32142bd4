"""Gemini's generateContent, its stream and its embeddings, in the Gemini API and in Vertex AI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

import msgspec

from byline.apis.json_body import Members, decode_json
from byline.apis.messages import (
    Message,
    Part,
    build_message,
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
    add_finish_reason,
    apply_error,
    choice_count,
    real_number,
    set_count,
    string_tuple,
    token_count,
    whole_number,
)
from byline.call_result import CallResult
from byline.gateways import values


class _Candidate(msgspec.Struct):
    finishReason: msgspec.Raw = msgspec.Raw()  # noqa: N815 - the API's own name


_decode_candidates: Final = msgspec.json.Decoder(list[_Candidate]).decode


class Generate(ApiParser):
    """``:generateContent`` and ``:streamGenerateContent``; the path names the model."""

    name: ClassVar[str] = "gemini.generate"
    operation: ClassVar[str] = "generate_content"
    default_provider: ClassVar[str] = "gcp.gemini"
    parameters: ClassVar[Parameters] = {
        "generationConfig.maxOutputTokens": ("max_tokens", whole_number),
        "generationConfig.temperature": ("temperature", real_number),
        "generationConfig.topP": ("top_p", real_number),
        "generationConfig.topK": ("top_k", whole_number),
        "generationConfig.frequencyPenalty": ("frequency_penalty", real_number),
        "generationConfig.presencePenalty": ("presence_penalty", real_number),
        "generationConfig.seed": ("seed", whole_number),
        "generationConfig.stopSequences": ("stop_sequences", string_tuple),
        "generationConfig.responseMimeType": ("response_format", values.text),
        "generationConfig.candidateCount": ("choice.count", choice_count),
    }

    def model_in_path(self, path: str) -> str | None:
        """Return the model of ``…/models/gemini-2.5-flash:generateContent``."""
        return values.text(path.rpartition("/")[2].partition(":")[0])

    def is_streamed(self, request: Members, path: str) -> bool:  # noqa: ARG002 - the path alone decides
        """Whether the path is that of a stream."""
        return path.endswith(":streamGenerateContent")

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Read id, model, usage and finish reasons under Gemini's names."""
        result.response_id = values.text(reply.get_string("responseId")) or result.response_id
        result.response_model = values.text(reply.get_string("modelVersion")) or result.response_model
        self.apply_usage(reply.get_dict("usageMetadata"), result)
        apply_error(reply, result)
        for candidate in reply.get_typed("candidates", _decode_candidates) or ():
            add_finish_reason(decode_json(candidate.finishReason), result)

    def apply_usage(self, usage: Mapping[str, Any], result: CallResult) -> None:
        """Add up prompt and tool results, answer and thoughts."""
        prompt, answer, thoughts = (
            token_count(usage.get(name)) for name in ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")
        )
        if prompt is not None:
            result.input_tokens = prompt + (token_count(usage.get("toolUsePromptTokenCount")) or 0)
        if answer is not None or thoughts is not None:
            result.output_tokens = (answer or 0) + (thoughts or 0)
        set_count(result, "reasoning_tokens", thoughts)
        set_count(result, "cache_read_tokens", usage.get("cachedContentTokenCount"))

    def input_messages(self, request: Members) -> list[Message]:
        """Return the messages; a turn of the model is one of the assistant."""
        given = request.get("contents")
        return user_messages(given) if isinstance(given, str) else [_turn_message(item) for item in list_objects(given)]

    def system_instructions(self, request: Members) -> list[Part]:
        """Return the system instruction; the API accepts both spellings."""
        given = request.get_dict("systemInstruction") or request.get_dict("system_instruction")
        return _turn_parts(given.get("parts"))

    def tool_definitions(self, request: Members) -> list[Any]:
        """Return the function declarations of all tools."""
        return [
            {"type": "function", **function}
            for tool in list_objects(request.get("tools"))
            for function in list_objects(tool.get("functionDeclarations") or tool.get("function_declarations"))
        ]

    def output_messages(self, reply: Members) -> list[Message]:
        """Return one message for each candidate."""
        return [
            {**_turn_message(values.mapping(candidate.get("content"))), "finish_reason": candidate.get("finishReason")}
            for candidate in list_objects(reply.get("candidates"))
        ]

    def join_stream(self, events: Iterable[Members]) -> list[Message]:
        """Return one message for each candidate; each event has the next parts."""
        messages: dict[Any, Message] = {}
        for event in events:
            for candidate in list_objects(event.get("candidates")):
                message = messages.setdefault(
                    candidate.get("index", 0), build_message("assistant", [], finish_reason=None)
                )
                message["finish_reason"] = candidate.get("finishReason") or message["finish_reason"]
                for part in _turn_parts(values.mapping(candidate.get("content")).get("parts")):
                    _append_part(message["parts"], part)
        return list(messages.values())


class Embed(Generate):
    """``:embedContent`` and ``:batchEmbedContents``."""

    name: ClassVar[str] = "gemini.embed"
    operation: ClassVar[str] = "embeddings"

    def input_messages(self, request: Members) -> list[Message]:
        """Return the texts."""
        texts = [part.get("text") for part in list_objects(request.get_dict("content").get("parts"))]
        return user_messages(texts)

    def output_messages(self, reply: Members) -> list[Message]:  # noqa: ARG002 - embeddings are no text
        """Return none."""
        return []


def _append_part(parts: list[Part], part: Part) -> None:
    last = parts[-1] if parts else None
    if last is not None and part["type"] == last["type"] and part["type"] in ("text", "reasoning"):
        last["content"] = shorten_text(last["content"] + part["content"])
    else:
        parts.append(part)


def _turn_message(item: Mapping[str, Any]) -> Message:
    role = item.get("role", "user")
    return build_message("assistant" if role == "model" else role, _turn_parts(item.get("parts")))


def _turn_parts(given: object) -> list[Part]:
    return [part for item in list_objects(given) if (part := _turn_part(item)) is not None]


def _turn_part(item: Mapping[str, Any]) -> Part | None:
    text, call, response = item.get("text"), item.get("functionCall"), item.get("functionResponse")
    inline = item.get("inlineData") or item.get("inline_data")
    file = values.mapping(item.get("fileData") or item.get("file_data"))
    if isinstance(text, str):
        return reasoning_part(text) if item.get("thought") is True else text_part(text)
    if isinstance(call, Mapping):
        return tool_call_part(call.get("id"), call.get("name"), call.get("args"))
    if isinstance(response, Mapping):
        return tool_response_part(response.get("id") or response.get("name"), response.get("response"))
    if isinstance(inline, Mapping):
        mime = inline.get("mimeType") or inline.get("mime_type")
        return media_part(str(mime).partition("/")[0], mime=mime)
    if file:
        mime = file.get("mimeType") or file.get("mime_type")
        uri = file.get("fileUri") or file.get("file_uri")
        return media_part(str(mime).partition("/")[0], uri=uri, mime=mime)
    return None
