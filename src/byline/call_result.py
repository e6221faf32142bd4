"""The result of one LLM call: model, tokens, cost, cache, rate limits, ids, timing, error."""

from __future__ import annotations

import msgspec


class RateLimit(msgspec.Struct, omit_defaults=True):
    """A rate limit of a provider or gateway.

    Attributes:
        limit: Requests or tokens allowed in the window.
        remaining: Requests or tokens left in the window.
        reset: Seconds until the full limit is available again.
    """

    limit: int | None = None
    remaining: int | None = None
    reset: float | None = None


class CallResult(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The values that the request and the response of one LLM call state. Values that neither states are ``None``.

    API parsers fill in the values of the provider's body, gateways those of their headers and of their own
    body members. ``genai/attributes.py`` has the attribute of each field.

    Attributes:
        operation: ``chat``, ``text_completion``, ``embeddings`` or ``generate_content``.
        provider: The provider as OpenTelemetry names it: ``openai``, ``anthropic``, ``gcp.gemini`` …
        request_model: The requested model.
        parameters: Request parameters by their GenAI name (``max_tokens``, ``temperature`` …).
        output_type: The requested type of output: ``text``, ``json``, ``image`` or ``speech``.
        dimensions: Dimensions of the embeddings, as requested or as in the response.
        api_type: OpenAI's API: ``chat_completions`` or ``responses``.
        request_tier: The requested service tier of OpenAI, unless that is ``auto``.
        response_tier: The service tier with which OpenAI answered.
        system_fingerprint: OpenAI's fingerprint of the backend that answered.
        response_model: The model that created the response.
        response_id: The id of the response, by which spans that arrive late are found.
        finish_reasons: Why the model stopped, one for each choice.
        input_tokens: Prompt tokens, including cached ones.
        output_tokens: Completion tokens, including reasoning.
        cache_read_tokens: Input tokens that were read from the provider's prompt cache.
        cache_write_tokens: Input tokens that were written to the prompt cache.
        reasoning_tokens: Output tokens for reasoning.
        input_text_tokens: Text tokens of the input, if the provider tells the modalities apart; like the next ones.
        input_image_tokens: Image tokens of the input.
        input_audio_tokens: Audio tokens of the input.
        input_video_tokens: Video tokens of the input.
        output_text_tokens: Text tokens of the output.
        output_image_tokens: Image tokens of the output.
        output_audio_tokens: Audio tokens of the output.
        audio_seconds: Seconds of audio, if the provider states its usage so (transcriptions).
        compute_seconds: Seconds of computing, if the provider states its usage so (Replicate).
        input_characters: Characters of the text that a request for speech contains.
        streamed: Whether the response is a stream.
        time_to_first_chunk: Seconds from sending the request to the first chunk of the body.
        duration: Seconds from sending the request to the end of the body.
        stream_cut: Set if a stream ended before the model had finished: ``app`` (the app closed the response),
            ``cancelled`` (its task was cancelled) or ``network`` (the connection failed).
        usage_is_partial: ``true`` if the token counts are those of a stream that was cut.
        cost: Cost of the call in USD, as stated or estimated.
        cost_source: ``gateway``, ``response`` (a provider's ``usage.cost``) or ``estimate``.
        cost_details: Cost in USD by part: ``input``, ``output``, ``cache_read``, ``cache_write``, ``reasoning`` …
        gateway: The gateway's name, e.g. ``openrouter``.
        request_id: The gateway's or provider's id of the request.
        gateway_provider: The provider that the gateway chose.
        model_id: The gateway's id of the deployment.
        model_group: The gateway's name for the group of deployments.
        overhead: Seconds spent in the gateway itself.
        attempts: Number of upstream attempts.
        fallbacks: Number of fallbacks.
        key_hash: SHA-256 of the API key; on spans in the form that ``BYLINE_KEY_HASH`` says.
        key_is_guessable: Whether the API key can be found by hashing likely keys.
        key_alias: The key's name.
        key_spend: USD that the key has spent.
        key_budget: USD that the key may spend.
        key_budget_reset: When the budget is reset, in the gateway's format.
        cache_hit: Whether the response is from the gateway's response cache.
        cache_key: The key of that cache entry.
        cache_savings: Cost in USD that the cache hit saved.
        requests: Rate limit of requests.
        tokens: Rate limit of tokens.
        retry_after: Seconds that the response asks to wait before the next attempt.
        status_code: HTTP status of the response.
        error_type: The class of the error; the HTTP status if the response has no class.
        error_message: The error message. Providers quote prompts in it: on spans only if content is captured.
        input_messages: Input messages as JSON in the format of the GenAI conventions, only if content is captured.
        output_messages: The same for the output messages.
        system_instructions: The same for the system instructions.
        tool_definitions: The same for the tool definitions.
        server_address: Host of the request.
        server_port: Port of the request.
    """

    operation: str | None = None
    provider: str | None = None
    request_model: str | None = None
    parameters: dict[str, str | int | float | bool | tuple[str, ...]] = {}
    output_type: str | None = None
    dimensions: int | None = None
    api_type: str | None = None
    request_tier: str | None = None
    response_tier: str | None = None
    system_fingerprint: str | None = None
    response_model: str | None = None
    response_id: str | None = None
    finish_reasons: tuple[str, ...] = ()

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    input_text_tokens: int | None = None
    input_image_tokens: int | None = None
    input_audio_tokens: int | None = None
    input_video_tokens: int | None = None
    output_text_tokens: int | None = None
    output_image_tokens: int | None = None
    output_audio_tokens: int | None = None
    audio_seconds: float | None = None
    compute_seconds: float | None = None
    input_characters: int | None = None

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
    key_is_guessable: bool = False
    key_alias: str | None = None
    key_spend: float | None = None
    key_budget: float | None = None
    key_budget_reset: str | None = None

    cache_hit: bool | None = None
    cache_key: str | None = None
    cache_savings: float | None = None

    requests: RateLimit | None = None
    tokens: RateLimit | None = None

    retry_after: float | None = None
    status_code: int | None = None
    error_type: str | None = None
    error_message: str | None = None

    input_messages: str | None = None
    output_messages: str | None = None
    system_instructions: str | None = None
    tool_definitions: str | None = None

    server_address: str | None = None
    server_port: int | None = None
