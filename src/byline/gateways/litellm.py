"""LiteLLM's proxy: https://docs.litellm.ai."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import ClassVar, Final

from byline.attribution import MASKS, is_asked
from byline.call_result import CallResult, RateLimit
from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse
from byline.gateways.rate_limits import parse_reset

_COSTS: Final = {
    "input": "x-litellm-response-cost-input",
    "output": "x-litellm-response-cost-output",
    "cache_read": "x-litellm-response-cost-cache-read",
    "cache_write": "x-litellm-response-cost-cache-creation",
    "reasoning": "x-litellm-response-cost-reasoning",
    "tool_usage": "x-litellm-response-cost-tool-usage",
}


class LiteLLM(Gateway):
    """A LiteLLM proxy at ``base_url``.

    Sends the ``traceparent`` of the LLM span where that is sampled (LiteLLM exports nothing for an
    unsampled one), so that its own span hangs below; the session, the customer and the tags as
    headers, and trace name and trace user as its Langfuse headers.

    Example:
        >>> LiteLLM("http://llm.internal:4000").base_url
        'http://llm.internal:4000'
    """

    name: ClassVar[str] = "litellm"
    joins: ClassVar[bool] = True
    notes = (
        ("sends", "`traceparent`, `x-litellm-session-id`, `x-litellm-end-user-id`, `x-litellm-tags`", "run for real"),
        (
            "sends",
            (
                "`langfuse_trace_id`, `langfuse_parent_observation_id`, `langfuse_trace_user_id`, "
                "`langfuse_trace_name`, `langfuse_generation_name`, `langfuse_trace_release`, "
                "`langfuse_trace_version`, `langfuse_trace_metadata`; a proxy in between may drop names with "
                "underscores"
            ),
            "run for real",
        ),
        (
            "sends",
            (
                "`langfuse_mask_input`, `langfuse_mask_output` where the caller asks for it, and for either "
                "`x-litellm-enable-message-redaction`"
            ),
            "run for real",
        ),
        (
            "reads",
            (
                "`x-litellm-call-id`, `-model-id`, `-model-group`, `-model-name`, `-response-cost*`, `-cache-key`, "
                "`-key-spend`, `-key-max-budget`, `-overhead-duration-ms`, `-attempted-retries`, "
                "`-attempted-fallbacks`; `usage.cost` of a stream's last chunk, which is there where "
                "`stream_options.include_usage` is asked for"
            ),
            "run for real",
        ),
        (
            "reads",
            (
                "`x-ratelimit-*`, with the reset from `llm_provider-x-ratelimit-reset-*`; else the key's own limits "
                "from `x-ratelimit-api_key-*`, `x-litellm-key-rpm-limit`, `-tpm-limit`, `-key-remaining-*`"
            ),
            "run for real",
        ),
        (
            "joins",
            (
                "its LLM span is a child of the LLM span; with `LITELLM_OTEL_V2` its server span is, and its LLM span "
                "below that"
            ),
            "run for real",
        ),
    )
    remarks = (
        (
            "LiteLLM exports nothing at all for an unsampled parent. Where the app's sampler has dropped the request "
            "no `traceparent` goes out, and LiteLLM's span is a root with the same session and user."
        ),
        (
            "The headers of a stream are sent before it has a price: their `0.0` is not read. Cost and tokens are in "
            "the last chunk where the app asks for `stream_options.include_usage`; without it only LiteLLM's own span "
            "has them."
        ),
        (
            "The headers of a cache hit repeat the cost of the call that filled the cache: byline says cost 0, and "
            "that cost as `byline.cache.savings`."
        ),
        "No header says when a budget starts anew: `byline.gateway.key.budget_reset` stays empty.",
        (
            "`byline.gateway.key.hash` equals LiteLLM's own hash of a virtual key. For its master key LiteLLM says "
            "`litellm_proxy_master_key` instead."
        ),
        (
            "The end user's header does not become the user of LiteLLM's Langfuse trace, `langfuse_trace_user_id` "
            "does. Such names with underscores are dropped by some proxies, by nginx unless `underscores_in_headers` "
            "is on."
        ),
        (
            "Its form for sessions, eight or more letters, digits, dashes and underscores, is asked of `x-session-id` "
            "only; `x-litellm-session-id` takes any."
        ),
        (
            "The environment on LiteLLM's spans is that of the proxy, `OTEL_ENVIRONMENT_NAME`, `production` where "
            "that is not set: nothing in a request changes it."
        ),
        (
            "Of its controls for Langfuse `generation_id` is metadata, for the ids of an observation are those of its "
            "span; `existing_trace_id` is the trace's id, and what the request says of that trace counts; "
            "`update_trace_keys` and `debug_langfuse` say how records of its own are kept, and are left out. What "
            "`mask_input` and `mask_output` do: [destinations](destinations.md#privacy). Its exports by OpenTelemetry "
            "leave both sides out of its LLM span for either; its span of the raw exchange, which only the first of "
            "its two modes makes, has the question all the same, unless the proxy captures no content at all."
        ),
        (
            "With `LITELLM_OTEL_V2`: LiteLLM's own server span stands between ours and its LLM span, as its SDK makes "
            "one for each request; its LLM span takes no generation name, release, version or metadata; a cache hit "
            "makes no LLM span, only `cache.get`; and `cache.set`, which runs after the reply, is a trace of its own."
        ),
    )
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
        # Others call many things tags; beside a model they are LiteLLM's.
        Field("tags", "body", "tags", "tags", needs="model"),
        Field("metadata", "body", "litellm_metadata", "controls"),
    )

    def answered(self, headers: Mapping[str, str]) -> bool:
        """Every reply of LiteLLM names its call."""
        return "x-litellm-call-id" in headers

    def write(self, call: GatewayRequest) -> None:
        """Write ids, tags and names as headers; the body stays as it is."""
        known = call.attribution
        self.join(call)
        self._mask(call)
        # Its rule of eight letters, digits, dashes and underscores is for x-session-id, not for its own header.
        self.put(call, "x-litellm-session-id", known.session_id)
        trace_id = self.trace_of(call)
        if trace_id:
            # Else its Langfuse callbacks take the session for the trace, and a chat becomes one trace.
            self.put(call, "langfuse_trace_id", trace_id)
            self.put(call, "langfuse_parent_observation_id", call.span_id)
        self.put(call, "x-litellm-end-user-id", known.user_id)
        self.put(call, "langfuse_trace_user_id", known.user_id)
        self.put(call, "langfuse_trace_name", known.trace_name)
        self.put(call, "langfuse_generation_name", known.generation_name)
        self.put(call, "x-litellm-tags", known.tags)
        # So that its span says of the trace what ours says: of two Langfuse keeps the later.
        self.put(call, "langfuse_trace_release", known.release)
        self.put(call, "langfuse_trace_version", known.version)
        self.put(call, "langfuse_trace_metadata", self.gather(call, {}))

    def _mask(self, call: GatewayRequest) -> None:
        asked = [mask for mask in MASKS if is_asked(call.attribution.metadata.get(mask))]
        for mask in asked:
            self.put(call, f"langfuse_{mask}", "true")
        if asked:
            # Of the two, its exports by OpenTelemetry take no notice.
            self.put(call, "x-litellm-enable-message-redaction", "true")

    def read(self, reply: GatewayResponse, facts: CallResult) -> None:
        """Read what LiteLLM's headers say, and the usage of its last chunk."""
        headers = reply.headers
        facts.request_id = values.text(headers.get("x-litellm-call-id")) or facts.request_id
        facts.model_id = values.text(headers.get("x-litellm-model-id"))
        facts.model_group = values.text(headers.get("x-litellm-model-group"))
        provider, _, model = (values.text(headers.get("x-litellm-model-name")) or "").partition("/")
        if model:
            facts.gateway_provider = provider
            if facts.response_model == facts.model_group:
                # The body names the group where the caller asked for one, not the model that answered.
                facts.response_model = model
        facts.overhead = values.seconds(headers.get("x-litellm-overhead-duration-ms"))
        retries = values.count(headers.get("x-litellm-attempted-retries"))
        if retries is not None:
            facts.attempts = retries + 1
        facts.fallbacks = values.count(headers.get("x-litellm-attempted-fallbacks"))
        facts.key_budget = values.amount(headers.get("x-litellm-key-max-budget"))
        if not reply.streamed and reply.status < 400:
            # The headers of a stream are sent before it has a price, and an error has none.
            facts.key_spend = values.amount(headers.get("x-litellm-key-spend"))
        self._read_cost(reply, facts)
        self._read_limits(headers, facts)

    def _read_cost(self, reply: GatewayResponse, facts: CallResult) -> None:
        headers = reply.headers
        stated = values.amount(headers.get("x-litellm-response-cost"))
        if reply.streamed:
            # A stream's headers are sent before its tokens are known: 0.0 there is no cost.
            stated = values.amount(values.mapping((reply.body or {}).get("usage")).get("cost"))
        key = values.text(headers.get("x-litellm-cache-key"))
        if key is not None:
            # The header is there on a hit only; the stated cost is what the hit saved.
            facts.cache_hit, facts.cache_key, facts.cache_savings = True, key, stated
            facts.cost, facts.cost_source = 0.0, "gateway"
            return
        if stated is None or reply.status >= 400:
            return
        facts.cost, facts.cost_source = stated, "gateway"
        if not reply.streamed:
            for part, name in _COSTS.items():
                amount = values.amount(headers.get(name))
                if amount is not None:
                    facts.cost_details[part] = amount

    def _read_limits(self, headers: Mapping[str, str], facts: CallResult) -> None:
        for kind, limit, remaining in (
            ("requests", "x-litellm-key-rpm-limit", "x-litellm-key-remaining-requests-"),
            ("tokens", "x-litellm-key-tpm-limit", "x-litellm-key-remaining-tokens-"),
        ):
            provider = getattr(facts, kind)
            if provider is not None:
                if provider.reset is None:
                    # LiteLLM hands on limit and remainder under their own names, the reset under the provider's.
                    reset = headers.get(f"llm_provider-x-ratelimit-reset-{kind}", "")
                    provider.reset = parse_reset(reset, time.time())
                continue
            left = headers.get(f"x-ratelimit-api_key-remaining-{kind}")
            if left is None:
                left = next((value for name, value in headers.items() if name.startswith(remaining)), None)
            allowed = headers.get(f"x-ratelimit-api_key-limit-{kind}") or headers.get(limit)
            found = RateLimit(values.count(allowed), values.count(left))
            if found != RateLimit():
                setattr(facts, kind, found)
