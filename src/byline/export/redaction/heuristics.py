"""What a destination may see where a name alone does not say it: metadata, parameters, unknown texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from byline.export.redaction.content import is_content
from byline.genai import attributes as names
from byline.genai.json_text import json_dumps

#: Attributes that hold request parameters as one JSON text.
PARAMETERS: Final = frozenset(
    {"embedding.invocation_parameters", "langfuse.observation.model.parameters", "llm.invocation_parameters"}
)
#: Parameters whose texts are choices of a few, and no content.
_CHOICES: Final = frozenset(
    {
        "encoding_format",
        "encoding_formats",
        "model",
        "reasoning.level",
        "reasoning_effort",
        "response_format",
        "service_tier",
        "stream",
        "tool_choice",
        "truncation",
        "verbosity",
    }
)
_SHORT: Final = 64

#: Longer than an id or a name, a text under a name that nobody knows is more likely content than not.
_LONG: Final = 200
#: Names that are known and no content: byline's own, the conventions', and those of the backends.
_KNOWN: Final = (
    "byline.",
    "gen_ai.",
    "langfuse.",
    "llm.finish_reason",
    "llm.model_name",
    "llm.provider",
    "llm.system",
    "llm.token_count.",
    "llm.usage.",
    "llm.cost.",
    "openinference.",
    "traceloop.",
    "session.",
    "user.",
    "tag.",
    "server.",
    "client.",
    "network.",
    "http.",
    "url.",
    "code.",
    "thread.",
    "service.",
    "telemetry.",
    "deployment.",
    "error.type",
    "exception.type",
)
#: What custom metadata is called elsewhere.
_METADATA: Final = ("metadata.", "trace.metadata.", "traceloop.association.properties.")
#: litellm writes every member of a request and a reply as ``llm.<provider>.<member>``; these are no content.
_RAW_KEPT: Final = frozenset(
    {
        "created",
        "id",
        "is_streaming",
        "max_tokens",
        "model",
        "n",
        "object",
        "role",
        "seed",
        "service_tier",
        "stop_reason",
        "stream",
        "system_fingerprint",
        "temperature",
        "top_k",
        "top_p",
        "type",
    }
)


def is_metadata(key: str) -> bool:
    """Whether custom metadata stands under this name, in any dialect."""
    return key.startswith((names.METADATA, *_METADATA)) or key == "metadata" or ".metadata." in key


def repeats_content(key: str, value: Any, attributes: Mapping[str, Any]) -> bool:
    """Whether this is custom metadata, which stays, told once more in another dialect."""
    return any(
        key.startswith(dialect) and attributes.get(names.METADATA + key[len(dialect) :]) == value
        for dialect in _METADATA
    )


def is_unknown_text(key: str, value: Any) -> bool:
    """Whether a text of an LLM span is content for all that is known: long or structured, under an unknown name."""
    if not isinstance(value, str):
        return not isinstance(value, bool | int | float) and _is_raw(key)
    if is_metadata(key) or key in PARAMETERS:
        return False
    if _is_raw(key):
        return True
    if key.startswith(_KNOWN) and not is_content(key):
        return False
    return len(value) > _LONG or value.lstrip()[:1] in ("{", "[")


def _is_raw(key: str) -> bool:
    parts = key.split(".")
    return (
        len(parts) > 2
        and parts[0] == "llm"
        and not key.startswith(_KNOWN)
        and parts[2] not in _RAW_KEPT
        and parts[1] not in ("request", "response", "invocation_parameters")
    )


def strip_text(parameters: str) -> str:
    """Return request parameters without the texts that may be content.

    Example:
        >>> strip_text('{"temperature": 0.5, "top_p": NaN, "service_tier": "flex", "preamble": "You are …"}')
        '{"temperature": 0.5, "service_tier": "flex"}'
    """
    try:
        found = json.loads(parameters)
    except (ValueError, RecursionError):
        return "{}"
    if not isinstance(found, dict):
        return "{}"
    return json_dumps({name: value for name, value in found.items() if _is_choice(name, value)})


def _is_choice(name: str, value: Any) -> bool:
    if value is None or isinstance(value, bool | int | float):
        return True
    return name in _CHOICES and isinstance(value, str) and len(value) <= _SHORT
