"""OpenRouter: https://openrouter.ai/docs/guides/features/broadcast."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Final

from byline.call_result import CallResult
from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse
from byline.gateways.header_values import is_sendable
from byline.gateways.json_splice import top_level_members
from byline.gateways.keys import KeyStatus, bearer_token

_MAX_USER: Final = 128
#: Keys of the trace object; metadata cannot use these names.
_TRACE_KEYS: Final = (
    "trace_id",
    "trace_name",
    "span_name",
    "generation_name",
    "parent_span_id",
    "environment",
    "release",
)
_ID_KEYS: Final = frozenset({"trace_id", "parent_span_id"})
#: Endpoints whose bodies take ``user``, ``session_id`` and ``trace``.
_PATHS_WITH_TRACE: Final = ("/chat/completions", "/responses", "/messages", "/completions")
#: Part of the cost → its names in ``usage.cost_details``: of chat completions, and of the Responses API.
_COST_DETAILS: Final = (
    ("input", ("upstream_inference_prompt_cost", "upstream_inference_input_cost")),
    ("output", ("upstream_inference_completions_cost", "upstream_inference_output_cost")),
    ("upstream", ("upstream_inference_cost",)),
)


class OpenRouter(Gateway):
    """OpenRouter, or a compatible gateway at ``base_url``.

    Sends ``x-session-id``, and in the body ``user`` and ``trace`` with the ids of the LLM span, so
    that OpenRouter's own spans become children of the LLM span. The body is not changed if the app
    uses OpenRouter's response cache, because the body is the cache key.

    Args:
        base_url: The URL, if not OpenRouter's own.
        broadcasts: As for every gateway.
        key_aliases: As for every gateway.
        forward_claims: As for every gateway.
        key_status: Whether to get the spend and budget of the API key in use from OpenRouter in the
            background, because responses do not have them. The key is sent to OpenRouter only.

    Example:
        >>> OpenRouter(key_status=True).name
        'openrouter'
    """

    name: ClassVar[str] = "openrouter"
    #: OpenRouter's generation id, which is in every response.
    response_headers: ClassVar[frozenset[str]] = frozenset({"x-generation-id"})
    hosts: ClassVar[tuple[str, ...]] = ("openrouter.ai",)
    max_header_value: ClassVar[int] = 256
    fields: ClassVar[tuple[Field, ...]] = ()

    def __init__(
        self,
        base_url: str | None = None,
        *,
        broadcasts: bool = False,
        key_aliases: Mapping[str, str] | None = None,
        forward_claims: Collection[str] = (),
        key_status: bool = False,
    ) -> None:
        super().__init__(base_url, broadcasts=broadcasts, key_aliases=key_aliases, forward_claims=forward_claims)
        self.key_status = KeyStatus(self.name, _status_url(base_url)) if key_status else None

    def inject(self, request: GatewayRequest) -> None:
        """Set the session header, and add user and trace to the body."""
        if self.key_status is not None:
            token = bearer_token(request.headers)
            if token is not None:
                self.key_status.refresh(token)
        attribution = request.attribution
        self.set_header(request, "x-session-id", attribution.session_id)
        if not request.path.endswith(_PATHS_WITH_TRACE):
            return
        if request.headers.get("x-openrouter-cache", "").lower() == "true":
            self.log_omitted("trace", "the body is the key of the response cache")
            return
        members: dict[str, Any] = {}
        if attribution.session_id and not is_sendable(attribution.session_id):
            # JSON can carry the characters that a header cannot.
            members["session_id"] = attribution.session_id
        if attribution.user_id and len(attribution.user_id) > _MAX_USER:
            self.log_omitted("user", "too long")
        elif attribution.user_id:
            members["user"] = attribution.user_id
        self._add_trace(request)
        request.add_members(members)

    def _add_trace(self, request: GatewayRequest) -> None:
        trace = self._trace_object(request)
        present = (request.raw_members() or {}).get("trace")
        app_trace = {} if present is None else top_level_members(bytes(present)) or {}
        if not app_trace.keys().isdisjoint(_ID_KEYS):
            # The app's trace id with byline's parent span id, or the reverse, would name a span that does not exist.
            trace = {key: value for key, value in trace.items() if key not in _ID_KEYS}
        request.add_to_object("trace", trace)

    def _trace_object(self, request: GatewayRequest) -> dict[str, Any]:
        attribution = request.attribution
        names = {name: getattr(attribution, name) for name in _TRACE_KEYS if name not in _ID_KEYS}
        trace: dict[str, Any] = self.metadata_for(request, names, reserved=_TRACE_KEYS)
        trace_id = self.gateway_trace_id(request)
        if trace_id:
            trace["trace_id"] = trace_id
            trace["parent_span_id"] = request.span_id
        return trace

    def extract(self, response: GatewayResponse, result: CallResult) -> None:
        """Extract generation id, provider, cost and its parts, key status, response cache and routing."""
        headers, body = response.headers, response.body or {}
        result.request_id = values.text(headers.get("x-generation-id")) or result.request_id
        routing = values.mapping(body.get("openrouter_metadata"))
        result.gateway_provider = values.text(body.get("provider")) or self._selected_provider(routing)
        usage = values.mapping(body.get("usage"))
        cost = values.cost(usage.get("cost"))
        if cost is not None:
            result.cost, result.cost_source = cost, "gateway"
        details = values.mapping(usage.get("cost_details"))
        for part, names in _COST_DETAILS if details else ():
            for name in names:
                amount = values.cost(details.get(name))
                if amount is not None:
                    result.cost_details[part] = amount
        if self.key_status is not None:
            result.key_spend, result.key_budget, result.key_budget_reset = self.key_status.status_of(result.key_hash)
        status = headers.get("x-openrouter-cache-status", "").upper()
        if status in ("HIT", "MISS"):
            result.cache_hit = status == "HIT"
            result.cache_key = values.text(headers.get("x-openrouter-cache-source-id"))
        attempt = values.count(routing.get("attempt"))
        if attempt:
            result.attempts = attempt
            result.fallbacks = attempt - 1

    def _selected_provider(self, routing: Mapping[str, Any]) -> str | None:
        available = values.mapping(routing.get("endpoints")).get("available")
        for endpoint in available if isinstance(available, list) else ():
            if values.mapping(endpoint).get("selected") is True:
                return values.text(endpoint.get("provider"))
        return None


def _status_url(base_url: str | None) -> str:
    base = (base_url or "https://openrouter.ai").rstrip("/")
    return f"{base}/key" if base.endswith("/v1") else f"{base}/api/v1/key"
