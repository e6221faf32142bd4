"""Gemini's generateContent and its stream, in the Gemini API and in Vertex AI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from byline.apis.fields import (
    add_finish_reason,
    apply_error,
    real_number,
    string_list,
    string_tuple,
    token_count,
    whole_number,
)
from byline.apis.parser import ApiParser
from byline.apis.provider_names import provider_for_host
from byline.apis.sse import decode_event
from byline.call_result import CallResult
from byline.gateways import values


class Generate(ApiParser):
    """``:generateContent`` and ``:streamGenerateContent``; the path names the model."""

    name: ClassVar[str] = "gemini.generate"
    operation: ClassVar[str] = "generate_content"
    bulky: ClassVar[frozenset[str]] = frozenset({"candidates"})
    parameters = {  # noqa: RUF012 - a class variable, as the base class says
        "generationConfig.maxOutputTokens": ("max_tokens", whole_number),
        "generationConfig.temperature": ("temperature", real_number),
        "generationConfig.topP": ("top_p", real_number),
        "generationConfig.topK": ("top_k", whole_number),
        "generationConfig.frequencyPenalty": ("frequency_penalty", real_number),
        "generationConfig.presencePenalty": ("presence_penalty", real_number),
        "generationConfig.seed": ("seed", whole_number),
        "generationConfig.stopSequences": ("stop_sequences", string_tuple),
        "generationConfig.responseMimeType": ("response_format", values.text),
        "generationConfig.candidateCount": ("choice.count", string_list),
    }

    def provider(self, host: str) -> str:
        """The Gemini API where the host says nothing else."""
        return provider_for_host(host) or "gcp.gemini"

    def model_of(self, path: str) -> str | None:
        """``…/models/gemini-2.5-flash:generateContent`` names it."""
        return values.text(path.rpartition("/")[2].partition(":")[0])

    def is_streamed(self, members: Mapping[str, Any], path: str) -> bool:  # noqa: ARG002 - the path says it
        """The path says it."""
        return path.endswith(":streamGenerateContent")

    def take(self, members: Mapping[str, Any], facts: CallResult) -> None:
        """Take id, model and usage under Gemini's names."""
        facts.response_id = values.text(members.get("responseId")) or facts.response_id
        facts.response_model = values.text(members.get("modelVersion")) or facts.response_model
        usage = values.mapping(members.get("usageMetadata"))
        prompt, said, thought = (
            token_count(usage.get(name)) for name in ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")
        )
        if prompt is not None:
            facts.input_tokens = prompt + (token_count(usage.get("toolUsePromptTokenCount")) or 0)
        if said is not None or thought is not None:
            facts.output_tokens = (said or 0) + (thought or 0)
        facts.reasoning_tokens = thought if thought is not None else facts.reasoning_tokens
        cached = token_count(usage.get("cachedContentTokenCount"))
        facts.cache_read_tokens = cached if cached is not None else facts.cache_read_tokens
        apply_error(members, facts)

    def finish(self, body: bytes, facts: CallResult) -> None:
        """Take one finish reason a candidate."""
        self.finish_event(values.mapping(decode_event(body)), facts)

    def finish_event(self, event: Mapping[str, Any], facts: CallResult) -> None:
        """Take the finish reason of a chunk."""
        candidates = event.get("candidates")
        for candidate in candidates if isinstance(candidates, list) else ():
            if isinstance(candidate, Mapping) and candidate.get("finishReason"):
                add_finish_reason(candidate["finishReason"], facts)


class Embed(Generate):
    """``:embedContent`` and ``:batchEmbedContents``."""

    name: ClassVar[str] = "gemini.embed"
    operation: ClassVar[str] = "embeddings"
    bulky: ClassVar[frozenset[str]] = frozenset({"embedding", "embeddings"})
