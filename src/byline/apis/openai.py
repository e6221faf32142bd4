"""OpenAI's shapes, which most other providers speak too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import msgspec

from byline.apis.fields import add_finish_reason, real_number, string_list, string_tuple, whole_number
from byline.apis.parser import ApiParser, Usage
from byline.call_result import CallResult
from byline.gateways import values

_PARAMETERS: Final = {
    "max_tokens": ("max_tokens", whole_number),
    "max_completion_tokens": ("max_tokens", whole_number),
    "max_output_tokens": ("max_tokens", whole_number),
    "temperature": ("temperature", real_number),
    "top_p": ("top_p", real_number),
    "top_k": ("top_k", whole_number),
    "frequency_penalty": ("frequency_penalty", real_number),
    "presence_penalty": ("presence_penalty", real_number),
    "seed": ("seed", whole_number),
    "stop": ("stop_sequences", string_tuple),
    "n": ("choice.count", string_list),
    "response_format.type": ("response_format", values.text),
    "text.format.type": ("response_format", values.text),
    "reasoning_effort": ("reasoning.level", values.text),
    "reasoning.effort": ("reasoning.level", values.text),
    "previous_response_id": ("previous_response.id", values.text),
    "encoding_format": ("encoding_formats", string_tuple),
    "dimensions": ("embedding.dimensions", whole_number),
    "service_tier": ("service_tier", values.text),
}

#: Both spellings: of chat completions, and of the Responses API.
_USAGE: Final[Usage] = {
    "input_tokens": (("prompt_tokens",), ("input_tokens",)),
    "output_tokens": (("completion_tokens",), ("output_tokens",)),
    "cache_read_tokens": (("prompt_tokens_details", "cached_tokens"), ("input_tokens_details", "cached_tokens")),
    "cache_write_tokens": (("prompt_tokens_details", "cache_write_tokens"),),
    "reasoning_tokens": (
        ("completion_tokens_details", "reasoning_tokens"),
        ("output_tokens_details", "reasoning_tokens"),
    ),
    "input_audio_tokens": (("prompt_tokens_details", "audio_tokens"),),
    "output_audio_tokens": (("completion_tokens_details", "audio_tokens"),),
}


class _Choice(msgspec.Struct):
    finish_reason: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Choices(msgspec.Struct):
    choices: list[_Choice] = []


class _Said(msgspec.Struct):
    provider_metadata: dict[str, Any] | None = None


class _Told(msgspec.Struct):
    message: _Said | None = None
    delta: _Said | None = None


class _Tellings(msgspec.Struct):
    choices: list[_Told] = []


#: Where some gateways put what they say of a call: within a choice.
_METADATA: Final = b'"provider_metadata"'
_decode_told: Final = msgspec.json.Decoder(_Tellings).decode
_decode_choices: Final = msgspec.json.Decoder(_Choices).decode
_decode_any: Final = msgspec.json.Decoder().decode


class Chat(ApiParser):
    """``/chat/completions``."""

    name: ClassVar[str] = "openai.chat"
    needs: ClassVar[frozenset[str]] = frozenset({"messages"})
    bulky: ClassVar[frozenset[str]] = frozenset({"choices"})
    parameters = _PARAMETERS
    usage = _USAGE

    def read_reply(self, body: bytes, facts: CallResult) -> dict[str, Any] | None:
        """Read a whole reply, with a gateway's own word from within a choice."""
        members = super().read_reply(body, facts)
        if members is not None and _METADATA in body:
            members = {**_told_in(body), **members}
        return members

    def read_stream(self, head: bytes, tail: bytes, facts: CallResult) -> dict[str, Any] | None:
        """Read the beginning and the end of a stream, with a gateway's own word from within a choice."""
        stated = super().read_stream(head, tail, facts)
        if _METADATA in tail:
            for line in tail.splitlines():
                if _METADATA in line:
                    stated = {**(stated or {}), **_told_in(line.removeprefix(b"data:"))}
        return stated

    def finish(self, body: bytes, facts: CallResult) -> None:
        """Take one finish reason a choice, without decoding what was said."""
        try:
            choices = _decode_choices(body).choices
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return
        for choice in choices:
            if choice.finish_reason is not msgspec.UNSET:
                add_finish_reason(_decode_any(choice.finish_reason), facts)

    def finish_event(self, event: Mapping[str, Any], facts: CallResult) -> None:
        """Take the finish reason of a chunk."""
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, Mapping) and choice.get("finish_reason"):
                add_finish_reason(choice["finish_reason"], facts)


def _told_in(text: bytes) -> dict[str, Any]:
    try:
        choices = _decode_told(text).choices
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return {}
    said = [each.provider_metadata for choice in choices for each in (choice.message, choice.delta) if each is not None]
    return next(({"provider_metadata": metadata} for metadata in said if metadata), {})


class Completions(Chat):
    """``/completions``."""

    name: ClassVar[str] = "openai.completions"
    needs: ClassVar[frozenset[str]] = frozenset({"prompt"})
    operation: ClassVar[str] = "text_completion"


class Embeddings(ApiParser):
    """``/embeddings``."""

    name: ClassVar[str] = "openai.embeddings"
    needs: ClassVar[frozenset[str]] = frozenset({"input"})
    operation: ClassVar[str] = "embeddings"
    bulky: ClassVar[frozenset[str]] = frozenset({"data"})
    parameters = _PARAMETERS
    usage = _USAGE


class Responses(ApiParser):
    """``/responses``."""

    name: ClassVar[str] = "openai.responses"
    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    #: The SDK ends its stream at this event, before the body is at its end. Within a text the quotes
    #: would have backslashes.
    end_mark: ClassVar[re.Pattern[bytes] | None] = re.compile(rb'"type": ?"response\.(?:completed|incomplete|failed)"')
    bulky: ClassVar[frozenset[str]] = frozenset({"output", "instructions", "tools", "input"})
    parameters = _PARAMETERS
    usage = _USAGE

    def unwrap(self, event: dict[str, Any]) -> dict[str, Any]:
        """Most events wrap the reply as it stands by then."""
        inner = event.get("response")
        return inner if isinstance(inner, dict) else event if event.get("type") == "error" else {}

    def take(self, members: Mapping[str, Any], facts: CallResult) -> None:
        """The status is what comes nearest to a finish reason."""
        super().take(members, facts)
        status = members.get("status")
        if status in ("completed", "incomplete", "failed", "cancelled"):
            detail = values.mapping(members.get("incomplete_details")).get("reason")
            facts.finish_reasons = (values.text(detail) or str(status),)
