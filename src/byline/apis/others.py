"""The own shapes of Ollama and Cohere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from byline.apis.fields import real_number, string_tuple, token_count, whole_number
from byline.apis.parser import ApiParser, Usage
from byline.apis.provider_names import provider_for_host
from byline.call_result import CallResult
from byline.gateways import values


class OllamaChat(ApiParser):
    """``/api/chat``: streams lines of JSON unless told not to."""

    name: ClassVar[str] = "ollama.chat"
    needs: ClassVar[frozenset[str]] = frozenset({"model", "messages"})
    bulky: ClassVar[frozenset[str]] = frozenset({"message", "response", "context", "embeddings"})
    parameters = {  # noqa: RUF012 - a class variable, as the base class says
        "options.num_predict": ("max_tokens", whole_number),
        "options.temperature": ("temperature", real_number),
        "options.top_p": ("top_p", real_number),
        "options.top_k": ("top_k", whole_number),
        "options.seed": ("seed", whole_number),
        "options.stop": ("stop_sequences", string_tuple),
    }

    def provider(self, host: str) -> str:
        """Ollama has no name in the conventions; this is what its instrumentations use."""
        return provider_for_host(host) or "ollama"

    def is_streamed(self, members: Mapping[str, Any], path: str) -> bool:  # noqa: ARG002 - the members say it
        """Streaming is the default."""
        return members.get("stream") is not False

    def take(self, members: Mapping[str, Any], facts: CallResult) -> None:
        """Ollama states its counts at the top of the last object."""
        super().take(members, facts)
        read, written = token_count(members.get("prompt_eval_count")), token_count(members.get("eval_count"))
        facts.input_tokens = read if read is not None else facts.input_tokens
        facts.output_tokens = written if written is not None else facts.output_tokens
        reason = values.text(members.get("done_reason"))
        if reason:
            facts.finish_reasons = (reason,)


class OllamaGenerate(OllamaChat):
    """``/api/generate``."""

    name: ClassVar[str] = "ollama.generate"
    needs: ClassVar[frozenset[str]] = frozenset({"model", "prompt"})
    operation: ClassVar[str] = "text_completion"


class OllamaEmbed(OllamaChat):
    """``/api/embed``."""

    name: ClassVar[str] = "ollama.embed"
    needs: ClassVar[frozenset[str]] = frozenset({"model", "input"})
    operation: ClassVar[str] = "embeddings"

    def is_streamed(self, members: Mapping[str, Any], path: str) -> bool:  # noqa: ARG002 - it never is
        """It never streams."""
        return False


class CohereChat(ApiParser):
    """Cohere's ``/v2/chat``."""

    name: ClassVar[str] = "cohere.chat"
    needs: ClassVar[frozenset[str]] = frozenset({"model", "messages"})
    bulky: ClassVar[frozenset[str]] = frozenset({"message"})
    parameters = {  # noqa: RUF012 - a class variable, as the base class says
        "max_tokens": ("max_tokens", whole_number),
        "temperature": ("temperature", real_number),
        "p": ("top_p", real_number),
        "k": ("top_k", whole_number),
        "seed": ("seed", whole_number),
        "frequency_penalty": ("frequency_penalty", real_number),
        "presence_penalty": ("presence_penalty", real_number),
        "stop_sequences": ("stop_sequences", string_tuple),
        "response_format.type": ("response_format", values.text),
    }
    usage: ClassVar[Usage] = {
        "input_tokens": (("tokens", "input_tokens"), ("billed_units", "input_tokens")),
        "output_tokens": (("tokens", "output_tokens"), ("billed_units", "output_tokens")),
        "cache_read_tokens": (("cached_tokens",),),
    }

    def provider(self, host: str) -> str:
        """Cohere wherever this shape is spoken."""
        return provider_for_host(host) or "cohere"

    def unwrap(self, event: dict[str, Any]) -> dict[str, Any]:
        """The last event's delta has what a whole reply has."""
        delta = event.get("delta")
        return {**event, **delta} if isinstance(delta, dict) else event

    def take(self, members: Mapping[str, Any], facts: CallResult) -> None:
        """Take the finish reason besides."""
        super().take({key: value for key, value in members.items() if key != "type"}, facts)
        reason = values.text(members.get("finish_reason"))
        if reason:
            facts.finish_reasons = (reason,)


class CohereEmbed(CohereChat):
    """Cohere's ``/v2/embed``."""

    name: ClassVar[str] = "cohere.embed"
    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    operation: ClassVar[str] = "embeddings"
    bulky: ClassVar[frozenset[str]] = frozenset({"embeddings", "texts", "images"})
