"""What a reply said of its call: model, tokens, cost, cache, limits, ids, timing, error."""

from __future__ import annotations

import msgspec


class RateLimit(msgspec.Struct, omit_defaults=True):
    """One allowance of a provider or gateway.

    Attributes:
        limit: What is allowed in the window.
        remaining: What is left of it.
        reset: Seconds until the allowance is whole again.
    """

    limit: int | None = None
    remaining: int | None = None
    reset: float | None = None


class CallResult(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Everything that one exchange told about itself. What was not told stays ``None``.

    ApiParser readers fill in what the provider's body says, gateways what their headers and their own
    body fields say. Which attribute a fact becomes stands in ``spans/attributes.py`` alone.

    Attributes:
        operation: ``chat``, ``text_completion``, ``embeddings`` or ``generate_content``.
        provider: The provider as OpenTelemetry names it: ``openai``, ``anthropic``, ``gcp.gemini`` …
        request_model: The model asked for.
        parameters: Request parameters by their GenAI name (``max_tokens``, ``temperature`` …).
        response_model: The model that answered.
        response_id: The id that the reply carries, by which late spans are joined.
        finish_reasons: Why the model stopped, one for each choice.
        input_tokens: Prompt tokens, cached ones included.
        output_tokens: Completion tokens, reasoning included.
        cache_read_tokens: Of the input, read from the provider's prompt cache.
        cache_write_tokens: Of the input, written to it.
        reasoning_tokens: Of the output, spent on reasoning.
        input_audio_tokens: Of the input, audio.
        output_audio_tokens: Of the output, audio.
        streamed: Whether the reply came as a stream.
        time_to_first_chunk: Seconds from sending the request to the first chunk of the body.
        duration: Seconds from sending the request to the end of the body.
        stream_cut: Who ended a stream before the model had finished: ``app``, ``cancelled`` or ``network``.
        usage_is_partial: True if the token counts are those of a stream that was cut.
        cost: USD for the call, as stated or estimated.
        cost_source: ``gateway``, ``response`` or ``estimate``.
        cost_details: USD by part: ``input``, ``output``, ``cache_read``, ``cache_write``, ``reasoning`` …
        gateway: The gateway's name, e.g. ``openrouter``.
        request_id: The gateway's or provider's id of the exchange.
        gateway_provider: The provider that the gateway chose.
        model_id: The gateway's id of the deployment.
        model_group: The gateway's name for the group of deployments.
        overhead: Seconds that the gateway itself took.
        attempts: How many upstream attempts were made.
        fallbacks: How many fallbacks were taken.
        key_hash: Hash of the API key in use, never the key.
        key_alias: The key's name.
        key_spend: USD that the key has spent.
        key_budget: USD that the key may spend.
        key_budget_reset: When the budget starts anew, as the gateway wrote it.
        cache_hit: Whether the gateway answered from its own response cache.
        cache_key: The key of that cache entry.
        cache_savings: USD that the hit saved.
        requests: Allowance of requests.
        tokens: Allowance of tokens.
        status_code: HTTP status of the reply.
        error_type: The class of the error, one of a few; the HTTP status where nothing says more.
        error_message: The error's detail.
        input_messages: JSON text in the GenAI shape, only where content is captured.
        output_messages: The same for the reply.
        system_instructions: The same for the system prompt.
        tool_definitions: The same for the tools that were offered.
        server_address: Host that was called.
        server_port: Its port.
    """

    operation: str | None = None
    provider: str | None = None
    request_model: str | None = None
    parameters: dict[str, str | int | float | bool | tuple[str, ...]] = {}
    response_model: str | None = None
    response_id: str | None = None
    finish_reasons: tuple[str, ...] = ()

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    input_audio_tokens: int | None = None
    output_audio_tokens: int | None = None

    streamed: bool = False
    time_to_first_chunk: float | None = None
    duration: float | None = None

    stream_cut: str | None = None
    usage_is_partial: bool | None = None

    cost: float | None = None
    cost_source: str | None = None
    cost_details: dict[str, float] = {}

    gateway: str | None = None
    request_id: str | None = None
    gateway_provider: str | None = None
    model_id: str | None = None
    model_group: str | None = None
    overhead: float | None = None
    attempts: int | None = None
    fallbacks: int | None = None
    key_hash: str | None = None
    key_alias: str | None = None
    key_spend: float | None = None
    key_budget: float | None = None
    key_budget_reset: str | None = None

    cache_hit: bool | None = None
    cache_key: str | None = None
    cache_savings: float | None = None

    requests: RateLimit | None = None
    tokens: RateLimit | None = None

    status_code: int | None = None
    error_type: str | None = None
    error_message: str | None = None

    input_messages: str | None = None
    output_messages: str | None = None
    system_instructions: str | None = None
    tool_definitions: str | None = None

    server_address: str | None = None
    server_port: int | None = None
