"""All attribute names that byline writes.

Sources: OpenTelemetry's GenAI semantic conventions (``gen_ai.*``), Langfuse's OpenTelemetry mapping
(``langfuse.*``), OpenTelemetry's general conventions (``session.id``, ``user.id``, ``error.type``).
Attributes that no convention defines are under ``byline.*``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import compress
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from byline.attribution import Attribution
from byline.call_result import CallResult, RateLimit
from byline.gateways.keys import key_settings

if TYPE_CHECKING:
    from byline.request_context import RequestContext, UsageTotals

AttributeValue = str | bool | int | float | tuple[str, ...]

SESSION_ID: Final = "session.id"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
USER_ID: Final = "user.id"
TRACE_NAME: Final = "langfuse.trace.name"
TAGS: Final = "langfuse.trace.tags"
RELEASE: Final = "langfuse.release"
VERSION: Final = "langfuse.version"
ENVIRONMENT: Final = "langfuse.environment"
METADATA: Final = "langfuse.trace.metadata."
TRACE_ID: Final = "byline.trace.id"
PARENT_ID: Final = "byline.parent.id"
STEP_NAME: Final = "byline.step.name"
GENERATION_NAME: Final = "byline.generation.name"
APP_TRACE_ID: Final = "byline.app.trace_id"
REJECTED: Final = "byline.rejected"
VOUCHED: Final = "byline.vouched"
AFTER_RESPONSE: Final = "byline.after_response"

ORGANIZATION_ID: Final = "byline.organization.id"
ENVIRONMENT_ID: Final = "byline.environment.id"
KEY_HASH: Final = "byline.caller.key.hash"
KEY_ALIAS: Final = "byline.caller.key.alias"
CALLER_ADDRESS: Final = "byline.caller.address"
CALLER_USER_AGENT: Final = "byline.caller.user_agent"
ROUTE: Final = "byline.route"
REQUEST_ID: Final = "byline.request.id"

LLM_CALLS: Final = "byline.llm.calls"
LLM_INPUT_TOKENS: Final = "byline.llm.input_tokens"
LLM_OUTPUT_TOKENS: Final = "byline.llm.output_tokens"
LLM_COST: Final = "byline.llm.cost"
LLM_ERRORS: Final = "byline.llm.errors"

OPERATION_NAME: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
OUTPUT_TYPE: Final = "gen_ai.output.type"
DIMENSIONS: Final = "gen_ai.embeddings.dimension.count"
SERVICE_TIER: Final = "openai.request.service_tier"
RESPONSE_ID: Final = "gen_ai.response.id"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
COST: Final = "gen_ai.usage.cost"
COST_SOURCE: Final = "byline.cost.source"
COST_DETAILS: Final = "byline.cost."
PARAMETERS: Final = "gen_ai.request."
STREAM_CUT: Final = "byline.stream.cut"
ERROR_TYPE: Final = "error.type"
ERROR_MESSAGE: Final = "byline.error.message"

#: Attribution field → attributes, in the order in which they are set.
ATTRIBUTION: Final[dict[str, tuple[str, ...]]] = {
    "session_id": (SESSION_ID, CONVERSATION_ID),
    "user_id": (USER_ID,),
    "trace_name": (TRACE_NAME,),
    "tags": (TAGS,),
    "release": (RELEASE,),
    "version": (VERSION,),
    "environment": (ENVIRONMENT,),
    "trace_id": (TRACE_ID,),
    "parent_span_id": (PARENT_ID,),
    "span_name": (STEP_NAME,),
    "generation_name": (GENERATION_NAME,),
    "organization_id": (ORGANIZATION_ID,),
    "environment_id": (ENVIRONMENT_ID,),
}

#: `CallResult` field → attribute. `call_attributes` adds the fields that are records.
CALL_RESULT: Final[dict[str, str]] = {
    "operation": OPERATION_NAME,
    "provider": PROVIDER_NAME,
    "request_model": REQUEST_MODEL,
    "output_type": OUTPUT_TYPE,
    "dimensions": DIMENSIONS,
    "api_type": "openai.api.type",
    "request_tier": SERVICE_TIER,
    "response_tier": "openai.response.service_tier",
    "system_fingerprint": "openai.response.system_fingerprint",
    "response_model": "gen_ai.response.model",
    "response_id": RESPONSE_ID,
    "finish_reasons": FINISH_REASONS,
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cache_read_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cache_write_tokens": "gen_ai.usage.cache_write.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
    "input_text_tokens": "gen_ai.usage.text.input_tokens",
    "input_image_tokens": "gen_ai.usage.image.input_tokens",
    "input_audio_tokens": "gen_ai.usage.audio.input_tokens",
    "input_video_tokens": "gen_ai.usage.video.input_tokens",
    "output_text_tokens": "gen_ai.usage.text.output_tokens",
    "output_image_tokens": "gen_ai.usage.image.output_tokens",
    "output_audio_tokens": "gen_ai.usage.audio.output_tokens",
    "audio_seconds": "byline.usage.audio_seconds",
    "compute_seconds": "byline.usage.compute_seconds",
    "input_characters": "byline.usage.input_characters",
    "time_to_first_chunk": "gen_ai.response.time_to_first_chunk",
    "duration": "byline.duration",
    "stream_cut": STREAM_CUT,
    "usage_is_partial": "byline.usage.partial",
    "cost": COST,
    "cost_source": COST_SOURCE,
    "gateway": "byline.gateway.name",
    "request_id": "byline.gateway.request.id",
    "gateway_provider": "byline.gateway.provider",
    "model_id": "byline.gateway.model.id",
    "model_group": "byline.gateway.model.group",
    "overhead": "byline.gateway.overhead",
    "attempts": "byline.gateway.attempts",
    "fallbacks": "byline.gateway.fallbacks",
    "key_hash": "byline.gateway.key.hash",
    "key_alias": "byline.gateway.key.alias",
    "key_spend": "byline.gateway.key.spend",
    "key_budget": "byline.gateway.key.budget",
    "key_budget_reset": "byline.gateway.key.budget_reset",
    "cache_hit": "byline.cache.hit",
    "cache_key": "byline.cache.key",
    "cache_savings": "byline.cache.savings",
    "retry_after": "byline.retry_after",
    "error_type": ERROR_TYPE,
    "error_message": ERROR_MESSAGE,
    "status_code": "http.response.status_code",
    "input_messages": "gen_ai.input.messages",
    "output_messages": "gen_ai.output.messages",
    "system_instructions": "gen_ai.system_instructions",
    "tool_definitions": "gen_ai.tool.definitions",
    "server_address": "server.address",
    "server_port": "server.port",
}

_LIMITS: Final = {
    kind: tuple(f"byline.ratelimit.{kind}.{part}" for part in RateLimit.__struct_fields__)
    for kind in ("requests", "tokens")
}
_ATTRIBUTION_NAMES: Final = tuple(ATTRIBUTION.values())
#: First name of a field → the further ones.
_FURTHER_NAMES: Final = {names[0]: names[1:] for names in ATTRIBUTION.values() if len(names) > 1}
#: The metadata stand under their prefix until `field_attributes` has taken them apart.
_first_name: Final = {**{field: names[0] for field, names in ATTRIBUTION.items()}, "metadata": METADATA}.__getitem__
_values_of: Final = attrgetter(*ATTRIBUTION)
_CALL_RESULT_NAMES: Final = tuple(CALL_RESULT.values())
_in_order_of_names: Final = itemgetter(*(CallResult.__struct_fields__.index(field) for field in CALL_RESULT))


def field_attributes(fields: Mapping[str, Any]) -> dict[str, AttributeValue]:
    """Return the span attributes of attribution fields that have a value."""
    # Without a loop in Python, because this is done for each request.
    attributes: dict[str, Any] = dict(zip(map(_first_name, fields), fields.values(), strict=True))
    for name, further in _FURTHER_NAMES.items():
        if name in attributes:
            attributes.update(dict.fromkeys(further, attributes[name]))
    if METADATA in attributes:
        metadata = attributes.pop(METADATA)
        attributes.update(zip(map(METADATA.__add__, metadata), metadata.values(), strict=True))
    return attributes


def context_attributes(context: RequestContext, attribution: Attribution) -> Mapping[str, AttributeValue]:
    """Return the span attributes of the attribution of a request, made once for the server span and the LLM spans."""
    made = context.attribution_attributes
    if made is not None and made[0] is attribution:
        return made[1]
    known = context.claimed_fields
    if known is not None and known[0] is attribution:
        attributes = field_attributes(known[1])
        context.claimed_fields = None
    else:
        attributes = attribution_attributes(attribution)
    context.attribution_attributes = (attribution, attributes)
    return attributes


def attribution_attributes(attribution: Attribution) -> dict[str, AttributeValue]:
    """Return the span attributes of an attribution."""
    attributes: dict[str, AttributeValue] = {}
    values = _values_of(attribution)
    # Most fields are empty.
    for names, value in compress(zip(_ATTRIBUTION_NAMES, values, strict=True), values):
        for name in names:
            attributes[name] = value
    for key, item in attribution.metadata.items():
        attributes[METADATA + key] = item
    return attributes


def usage_attributes(totals: UsageTotals) -> dict[str, AttributeValue]:
    """Return the span attributes of the usage totals of a request."""
    attributes: dict[str, AttributeValue] = {
        LLM_CALLS: totals.calls,
        LLM_INPUT_TOKENS: totals.input_tokens,
        LLM_OUTPUT_TOKENS: totals.output_tokens,
        LLM_ERRORS: totals.errors,
    }
    if totals.cost is not None:
        # Without the noise of added floats: 0.00043499999999999995 is 0.000435.
        attributes[LLM_COST] = round(totals.cost, 12)
    return attributes


def call_attributes(result: CallResult) -> dict[str, AttributeValue]:
    """Return the span attributes of a call result."""
    attributes: dict[str, AttributeValue] = {}
    for name, value in result.parameters.items():
        attributes[PARAMETERS + name] = value
    if result.streamed:
        attributes[PARAMETERS + "stream"] = True
    for part, amount in result.cost_details.items():
        attributes[COST_DETAILS + part] = amount
    for kind, limit_names in _LIMITS.items():
        limit = getattr(result, kind)
        if limit is not None:
            parts = zip(limit_names, msgspec.structs.astuple(limit), strict=True)
            attributes |= {name: value for name, value in parts if value is not None}
    values = _in_order_of_names(msgspec.structs.astuple(result))
    attributes |= {name: value for name, value in zip(_CALL_RESULT_NAMES, values, strict=True) if value is not None}
    if not result.finish_reasons:
        del attributes[FINISH_REASONS]
    if result.key_hash is not None:
        shown = key_settings.shown_hash(result.key_hash, guessable=result.key_is_guessable)
        if shown is None:
            del attributes[CALL_RESULT["key_hash"]]
        else:
            attributes[CALL_RESULT["key_hash"]] = shown
    return attributes


_encode: Final = json.JSONEncoder(ensure_ascii=False, default=str, allow_nan=False).encode


def json_dumps(value: Any) -> str:
    """Return valid JSON: without NaN and infinities, which `json.dumps` writes by default.

    Example:
        >>> json_dumps({"top_p": float("nan"), "max_tokens": 64})
        '{"max_tokens": 64}'
    """
    try:
        return _encode(value)
    except ValueError:
        return json.dumps(_drop_non_finite(value), ensure_ascii=False, default=str)


def _drop_non_finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _drop_non_finite(item) for key, item in value.items() if not _is_non_finite(item)}
    if isinstance(value, list | tuple):
        return [_drop_non_finite(item) for item in value]
    return None if _is_non_finite(value) else value


def _is_non_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
