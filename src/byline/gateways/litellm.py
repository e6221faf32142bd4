"""LiteLLM's proxy: https://docs.litellm.ai."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import ClassVar, Final

from byline.attribution import MASKS, is_switched_on
from byline.call_result import CallResult, RateLimit
from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse
from byline.gateways.rate_limits import parse_reset

_COST_HEADERS: Final = {
    "input": "x-litellm-response-cost-input",
    "output": "x-litellm-response-cost-output",
    "cache_read": "x-litellm-response-cost-cache-read",
    "cache_write": "x-litellm-response-cost-cache-creation",
    "reasoning": "x-litellm-response-cost-reasoning",
    "tool_usage": "x-litellm-response-cost-tool-usage",
}


class LiteLLM(Gateway):
    """A LiteLLM proxy at ``base_url``.

    Sends the ``traceparent`` of a sampled LLM span, so that LiteLLM's own span becomes a child
    (LiteLLM exports nothing for an unsampled parent). Sends session, end user and tags in LiteLLM's
    headers; trace name, trace user and other labels in the headers of LiteLLM's Langfuse callback.

    Example:
        >>> LiteLLM("http://llm.internal:4000").base_url
        'http://llm.internal:4000'
    """

    name: ClassVar[str] = "litellm"
    #: LiteLLM's call id, which is in every response.
    response_headers: ClassVar[frozenset[str]] = frozenset({"x-litellm-call-id"})
    routes_on: ClassVar[frozenset[str]] = frozenset({"tags"})
    sends_traceparent: ClassVar[bool] = True
    fields: ClassVar[tuple[Field, ...]] = (
        Field("session_id", "header", "x-litellm-session-id"),
        Field("session_id", "header", "x-litellm-trace-id"),
        Field("user_id", "header", "x-litellm-end-user-id"),
        Field("user_id", "header", "x-litellm-customer-id"),
        Field("user_id", "header", "langfuse_trace_user_id"),
        Field("generation_name", "header", "langfuse_generation_name"),
        Field("trace_id", "header", "langfuse_existing_trace_id"),
        Field("trace_id", "header", "langfuse_trace_id"),
        Field("parent_span_id", "header", "langfuse_parent_observation_id"),
        Field("release", "header", "langfuse_trace_release"),
        Field("version", "header", "langfuse_trace_version"),
        Field("version", "header", "langfuse_version"),
        Field("tags", "header", "x-litellm-tags", "tags"),
        Field("metadata", "header", "x-litellm-spend-logs-metadata", "metadata"),
        Field("metadata", "header", "langfuse_trace_metadata", "metadata"),
        Field("metadata", "header", "langfuse_generation_id", "entry"),
        Field("metadata", "header", "langfuse_mask_input", "entry"),
        Field("metadata", "header", "langfuse_mask_output", "entry"),
        Field("session_id", "body", "litellm_session_id"),
        # The name "tags" has many uses; next to a model these are LiteLLM's.
        Field("tags", "body", "tags", "tags", needs="model"),
        Field("metadata", "body", "litellm_metadata", "controls"),
    )

    def inject(self, request: GatewayRequest) -> None:
        """Set headers for ids, tags, names and metadata; the body is not changed."""
        attribution = request.attribution
        self.set_traceparent(request)
        self._set_masks(request)
        # LiteLLM requires eight letters, digits, dashes or underscores of x-session-id only, not of this header.
        self.set_header(request, "x-litellm-session-id", attribution.session_id)
        trace_id = self.gateway_trace_id(request)
        if trace_id:
            # Without these, LiteLLM's Langfuse callbacks use the session as trace id, so that a chat is one trace.
            self.set_header(request, "langfuse_trace_id", trace_id)
            self.set_header(request, "langfuse_parent_observation_id", request.span_id)
        self.set_header(request, "x-litellm-end-user-id", attribution.user_id)
        self.set_header(request, "langfuse_trace_user_id", attribution.user_id)
        self.set_header(request, "langfuse_trace_name", attribution.trace_name)
        self.set_header(request, "langfuse_generation_name", attribution.generation_name)
        self.set_header(request, "x-litellm-tags", attribution.tags)
        # Equal to the values on byline's span, because Langfuse keeps those of the span that arrives last.
        self.set_header(request, "langfuse_trace_release", attribution.release)
        self.set_header(request, "langfuse_trace_version", attribution.version)
        self.set_header(request, "langfuse_trace_metadata", self.metadata_for(request, {}))

    def _set_masks(self, request: GatewayRequest) -> None:
        masks = [mask for mask in MASKS if is_switched_on(request.attribution.metadata.get(mask))]
        for mask in masks:
            self.set_header(request, f"langfuse_{mask}", "true")
        if masks:
            # LiteLLM's OpenTelemetry exporter ignores the two mask headers.
            self.set_header(request, "x-litellm-enable-message-redaction", "true")

    def extract(self, response: GatewayResponse, result: CallResult) -> None:
        """Extract ids, model, retries, key, cost and limits from the headers, and the cost in a stream's last chunk."""
        headers = response.headers
        result.request_id = values.text(headers.get("x-litellm-call-id")) or result.request_id
        result.model_id = values.text(headers.get("x-litellm-model-id"))
        result.model_group = values.text(headers.get("x-litellm-model-group"))
        provider, _, model = (values.text(headers.get("x-litellm-model-name")) or "").partition("/")
        if model:
            result.gateway_provider = provider
            if result.response_model == result.model_group:
                # If the caller asked for a model group, the body names the group instead of the model.
                result.response_model = model
        result.overhead = values.seconds(headers.get("x-litellm-overhead-duration-ms"))
        retries = values.count(headers.get("x-litellm-attempted-retries"))
        if retries is not None:
            result.attempts = retries + 1
        result.fallbacks = values.count(headers.get("x-litellm-attempted-fallbacks"))
        result.key_budget = values.amount(headers.get("x-litellm-key-max-budget"))
        if not response.streamed and response.status < 400:
            # The headers of a stream are sent before the cost is known, and an error has no cost.
            result.key_spend = values.amount(headers.get("x-litellm-key-spend"))
        self._extract_cost(response, result)
        self._extract_limits(headers, result)

    def _extract_cost(self, response: GatewayResponse, result: CallResult) -> None:
        headers = response.headers
        stated = values.cost(headers.get("x-litellm-response-cost"))
        if response.streamed:
            # The headers of a stream say 0.0, because they are sent before the tokens are counted.
            stated = values.cost(values.mapping((response.body or {}).get("usage")).get("cost"))
        key = values.text(headers.get("x-litellm-cache-key"))
        if key is not None:
            # Only cache hits have this header; the stated cost is that of the call that filled the cache.
            result.cache_hit, result.cache_key, result.cache_savings = True, key, stated
            result.cost, result.cost_source = 0.0, "gateway"
            return
        if stated is None or response.status >= 400:
            return
        result.cost, result.cost_source = stated, "gateway"
        if not response.streamed:
            for part, name in _COST_HEADERS.items():
                amount = values.cost(headers.get(name))
                if amount is not None:
                    result.cost_details[part] = amount

    def _extract_limits(self, headers: Mapping[str, str], result: CallResult) -> None:
        for kind, limit, remaining in (
            ("requests", "x-litellm-key-rpm-limit", "x-litellm-key-remaining-requests-"),
            ("tokens", "x-litellm-key-tpm-limit", "x-litellm-key-remaining-tokens-"),
        ):
            provider_limit = getattr(result, kind)
            if provider_limit is not None:
                if provider_limit.reset is None:
                    # LiteLLM renames the provider's limit and remaining headers, but not the reset.
                    reset = headers.get(f"llm_provider-x-ratelimit-reset-{kind}", "")
                    provider_limit.reset = parse_reset(reset, time.time())
                continue
            remainder = headers.get(f"x-ratelimit-api_key-remaining-{kind}")
            if remainder is None:
                remainder = next((value for name, value in headers.items() if name.startswith(remaining)), None)
            allowed = headers.get(f"x-ratelimit-api_key-limit-{kind}") or headers.get(limit)
            key_limit = RateLimit(values.count(allowed), values.count(remainder))
            if key_limit != RateLimit():
                setattr(result, kind, key_limit)
