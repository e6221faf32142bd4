"""Gemini's generateContent, embeddings and interactions, in the Gemini API and in Vertex AI."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

import msgspec

from byline.apis.json_body import Members, decode_json
from byline.apis.messages import (
    Message,
    Part,
    build_message,
    generic_part,
    join_pieces,
    list_objects,
    media_part,
    reasoning_part,
    shorten_text,
    system_parts,
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
    set_count,
    set_finish_reason,
    token_count,
    vector_length,
)
from byline.call_result import CallResult
from byline.gateways import values


class _Candidate(msgspec.Struct):
    finishReason: msgspec.Raw = msgspec.Raw()  # noqa: N815 - the API's own name


class _Statistics(msgspec.Struct, frozen=True):
    token_count: msgspec.Raw = msgspec.Raw()


class _Embeddings(msgspec.Struct, frozen=True):
    statistics: _Statistics = _Statistics()


class _Prediction(msgspec.Struct):
    embeddings: _Embeddings = _Embeddings()


_decode_candidates: Final = msgspec.json.Decoder(list[_Candidate]).decode
_decode_predictions: Final = msgspec.json.Decoder(list[_Prediction]).decode
_EMBEDDINGS: Final = ("embeddings", "embedding", "predictions")
#: Modalities that the conventions count apart.
_MODALITIES: Final = {"input": ("text", "image", "audio", "video"), "output": ("text", "image", "audio")}
_FINAL_STATUSES: Final = frozenset({"completed", "requires_action", "failed", "cancelled", "incomplete"})


class Generate(ApiParser):
    """``:generateContent`` and ``:streamGenerateContent``; the path names the model."""

    name: ClassVar[str] = "gemini.generate"
    operation: ClassVar[str] = "generate_content"
    default_provider: ClassVar[str] = "gcp.gemini"
    parameters: ClassVar[Parameters] = {
        "generationConfig.maxOutputTokens": ("max_tokens", int),
        "generationConfig.temperature": ("temperature", float),
        "generationConfig.topP": ("top_p", float),
        "generationConfig.topK": ("top_k", int),
        "generationConfig.frequencyPenalty": ("frequency_penalty", float),
        "generationConfig.presencePenalty": ("presence_penalty", float),
        "generationConfig.seed": ("seed", int),
        "generationConfig.stopSequences": ("stop_sequences", tuple),
        "generationConfig.thinkingConfig.thinkingLevel": ("reasoning.level", str),
        "generationConfig.candidateCount": ("choice.count", int),
    }
    output_types: ClassVar[tuple[str, ...]] = (
        "generationConfig.responseModalities",
        "generationConfig.responseMimeType",
    )

    def model_in_path(self, path: str) -> str | None:
        """Return the model of ``…/models/gemini-2.5-flash:generateContent``."""
        return values.text(path.rpartition("/")[2].partition(":")[0])

    def is_streamed(self, request: Members, path: str) -> bool:  # noqa: ARG002 - the path alone decides
        """Return whether the path is that of a stream."""
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
        for side, name in (("input", "promptTokensDetails"), ("output", "candidatesTokensDetails")):
            for item in list_objects(usage.get(name)):
                modality = str(item.get("modality")).lower()
                if modality in _MODALITIES[side]:
                    set_count(result, f"{side}_{modality}_tokens", item.get("tokenCount"))

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
    dimensions: ClassVar[str | None] = "outputDimensionality"

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Read also the dimensions, unless the request states them."""
        super().apply_reply(reply, result)
        embeddings = next((reply.raw[name] for name in _EMBEDDINGS if name in reply.raw), None)
        result.dimensions = result.dimensions or vector_length(embeddings)

    def input_messages(self, request: Members) -> list[Message]:
        """Return the texts."""
        several = [values.mapping(item.get("content")) for item in list_objects(request.get("requests"))]
        contents = [request.get_dict("content"), *several]
        return user_messages([part.get("text") for item in contents for part in list_objects(item.get("parts"))])

    def output_messages(self, reply: Members) -> list[Message]:  # noqa: ARG002 - embeddings are no text
        """Return none."""
        return []


class VertexEmbed(Embed):
    """``:predict`` of the embedding models on Vertex AI."""

    name: ClassVar[str] = "gemini.vertex_embed"
    default_provider: ClassVar[str] = "gcp.vertex_ai"
    #: Other models at this end of the path make images, or are the user's own.
    path_pattern: ClassVar[re.Pattern[str] | None] = re.compile("/publishers/google/models/[^/:]*embedding")
    required_members: ClassVar[frozenset[str]] = frozenset({"instances"})
    parameters: ClassVar[Parameters] = {}
    dimensions: ClassVar[str | None] = "parameters.outputDimensionality"

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Add up the token counts of all predictions."""
        super().apply_reply(reply, result)
        predictions = reply.get_typed("predictions", _decode_predictions) or ()
        counts = [token_count(decode_json(item.embeddings.statistics.token_count)) for item in predictions]
        if counts and None not in counts:
            set_count(result, "input_tokens", sum(filter(None, counts)))

    def input_messages(self, request: Members) -> list[Message]:
        """Return the texts."""
        return user_messages([item.get("content") for item in list_objects(request.get("instances"))])


class Interactions(ApiParser):
    """``/interactions``: a request names a model or an agent."""

    name: ClassVar[str] = "gemini.interactions"
    operation: ClassVar[str] = "generate_content"
    default_provider: ClassVar[str] = "gcp.gemini"
    required_members: ClassVar[frozenset[str]] = frozenset({"input"})
    shares_path: ClassVar[bool] = True
    parameters: ClassVar[Parameters] = {
        "generation_config.max_output_tokens": ("max_tokens", int),
        "generation_config.temperature": ("temperature", float),
        "generation_config.top_p": ("top_p", float),
        "generation_config.seed": ("seed", int),
        "generation_config.stop_sequences": ("stop_sequences", tuple),
        "generation_config.thinking_level": ("reasoning.level", str),
        "previous_interaction_id": ("previous_response.id", str),
    }
    output_types: ClassVar[tuple[str, ...]] = ("response_modalities", "response_mime_type")

    def has_required_members(self, request: Members) -> bool:
        """Return whether the body has an input, and a model or an agent."""
        return super().has_required_members(request) and ("model" in request or "agent" in request)

    def reply_in(self, event: Members) -> Members:
        """Return the interaction that the first and the last event of a stream contain."""
        interaction = event.get_object("interaction")
        return interaction if interaction is not None else event if "error" in event else Members({})

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Read also the status, which stands for a finish reason."""
        super().apply_reply(reply, result)
        status = reply.get_string("status")
        if status in _FINAL_STATUSES:
            set_finish_reason(status, result)

    def apply_usage(self, usage: Mapping[str, Any], result: CallResult) -> None:
        """Add up prompt and tool results, answer and thoughts."""
        prompt, tools, answer, thoughts, total = (
            token_count(usage.get(f"total_{name}tokens")) for name in ("input_", "tool_use_", "output_", "thought_", "")
        )
        if prompt is not None:
            result.input_tokens = prompt + (tools or 0)
        if answer is not None:
            # The total shows whether the answer includes the thoughts.
            included = total is not None and total == (prompt or 0) + (tools or 0) + answer
            result.output_tokens = answer if included else answer + (thoughts or 0)
        set_count(result, "reasoning_tokens", thoughts)
        set_count(result, "cache_read_tokens", usage.get("total_cached_tokens"))

    def input_messages(self, request: Members) -> list[Message]:
        """Return the input: a text, contents of the user, or the steps of a conversation."""
        given = request.get("input")
        if isinstance(given, str):
            return user_messages(given)
        items = [given] if isinstance(given, Mapping) else list_objects(given)
        return [message for item in items if (message := _step_message(item, "user"))["parts"]]

    def system_instructions(self, request: Members) -> list[Part]:
        """Return the system instruction."""
        return system_parts(request.get("system_instruction"))

    def output_messages(self, reply: Members) -> list[Message]:
        """Return one message with the parts of all steps."""
        steps = list_objects(reply.get("steps") or reply.get("outputs"))
        parts = [part for step in steps for part in _step_message(step, "assistant")["parts"]]
        return [build_message("assistant", parts, finish_reason=reply.get("status"))] if parts else []

    def join_stream(self, events: Iterable[Members]) -> list[Message]:
        """Return the output of the last event, if the event has the steps; otherwise the texts of the deltas."""
        messages: list[Message] = []
        pieces: list[tuple[object, object]] = []
        for event in events:
            reply = self.reply_in(event)
            messages = self.output_messages(reply) or messages
            delta = event.get_dict("delta")
            pieces.append((delta.get("text") if delta.get("type") == "text" else None, reply.get_string("status")))
        return messages or join_pieces(pieces)


def _step_message(item: Mapping[str, Any], default_role: str) -> Message:
    kind = item.get("type")
    if kind == "function_call":
        call = tool_call_part(item.get("id"), item.get("name"), item.get("arguments"))
        return build_message("assistant", [call])
    if kind == "function_result":
        return build_message("tool", [tool_response_part(item.get("call_id"), item.get("result"), _interaction_media)])
    if kind in ("thought", "thought_summary"):
        texts = [part.get("text") for part in list_objects(item.get("summary"))]
        return build_message("assistant", [reasoning_part(text) for text in texts if isinstance(text, str)])
    role = {"model": "assistant", "user": "user", "model_output": "assistant", "user_input": "user"}.get(
        str(item.get("role") or kind), default_role
    )
    content = item.get("content")
    if content is None:
        return build_message(role, [_interaction_part(item)])
    parts = [text_part(content)] if isinstance(content, str) else [_interaction_part(x) for x in list_objects(content)]
    return build_message(role, parts)


def _interaction_part(part: Mapping[str, Any]) -> Part:
    if part.get("type") == "text":
        return text_part(part.get("text"))
    return _interaction_media(part) or generic_part(part)


def _interaction_media(part: Mapping[str, Any]) -> Part | None:
    kind = str(part.get("type"))
    if kind not in ("image", "audio", "document", "video"):
        return None
    return media_part(kind, uri=part.get("uri"), mime=part.get("mime_type"), data=part.get("data"))


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


def _inline_part(item: Mapping[str, Any]) -> Part | None:
    inline = item.get("inlineData") or item.get("inline_data")
    if not isinstance(inline, Mapping):
        return None
    mime = inline.get("mimeType") or inline.get("mime_type")
    return media_part(str(mime).partition("/")[0], mime=mime, data=inline.get("data"))


def _turn_part(item: Mapping[str, Any]) -> Part | None:
    text, call, response = item.get("text"), item.get("functionCall"), item.get("functionResponse")
    inline = item.get("inlineData") or item.get("inline_data")
    file = values.mapping(item.get("fileData") or item.get("file_data"))
    if isinstance(text, str):
        return reasoning_part(text) if item.get("thought") is True else text_part(text)
    if isinstance(call, Mapping):
        return tool_call_part(call.get("id"), call.get("name"), call.get("args"))
    if isinstance(response, Mapping):
        returned = response.get("response")
        parts = list_objects(response.get("parts"))
        return tool_response_part(
            response.get("id") or response.get("name"), [returned, *parts] if parts else returned, _inline_part
        )
    if isinstance(inline, Mapping):
        return _inline_part(item)
    if file:
        mime = file.get("mimeType") or file.get("mime_type")
        uri = file.get("fileUri") or file.get("file_uri")
        return media_part(str(mime).partition("/")[0], uri=uri, mime=mime)
    return None
