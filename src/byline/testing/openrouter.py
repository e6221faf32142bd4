"""OpenRouter's additions to a model's response: routing metadata, response cache, and the GET endpoints."""

from __future__ import annotations

import hashlib
import time
from typing import Any, Final

from byline.testing.server import Request
from byline.testing.simulated_model import ModelCall

_KEY: Final = {
    "label": "sk-or-v1-tes...ing",
    "limit": 10.0,
    "limit_reset": "monthly",
    "limit_remaining": 8.5,
    "include_byok_in_limit": False,
    "usage": 1.5,
    "usage_daily": 0.5,
    "usage_weekly": 1.0,
    "usage_monthly": 1.5,
    "byok_usage": 0.0,
    "is_free_tier": False,
}


class OpenRouterState:
    """The response cache and the past generations of one `Gateway`."""

    def __init__(self) -> None:
        self._cached: dict[str, tuple[str, float]] = {}
        self._generations: dict[str, dict[str, Any]] = {}

    def routing_metadata(self, request: Request, model: str) -> dict[str, Any]:
        """Return the routing metadata if the request asks for it with its header."""
        if request.headers.get("x-openrouter-metadata", "").lower() != "enabled":
            return {}
        endpoint = {"provider": "OpenAI", "model": model, "selected": True}
        return {
            "openrouter_metadata": {
                "requested": model,
                "strategy": "direct",
                "region": "us-east",
                "summary": "OpenAI",
                "attempt": 1,
                "is_byok": False,
                "endpoints": {"total": 1, "available": [endpoint]},
                "attempts": [{"provider": "OpenAI", "model": model, "status": 200}],
            }
        }

    def cache_headers(self, request: Request, identifier: str) -> dict[str, str]:
        """Return the headers of the response cache; empty if the request does not use the cache.

        The cache key consists of the API key, the path and the bytes of the body, so bodies that
        differ in one id are two entries.
        """
        if request.headers.get("x-openrouter-cache", "").lower() != "true":
            return {}
        key_source = "\n".join((request.headers.get("authorization", ""), request.path)).encode() + request.body
        key = hashlib.sha256(key_source).hexdigest()
        lifetime = request.headers.get("x-openrouter-cache-ttl", "300")
        if request.headers.get("x-openrouter-cache-clear", "").lower() == "true":
            self._cached.pop(key, None)
        entry = self._cached.get(key)
        if entry is None:
            self._cached[key] = (identifier, time.monotonic())
            return {"x-openrouter-cache-status": "MISS", "x-openrouter-cache-ttl": lifetime}
        source, since = entry
        return {
            "x-openrouter-cache-status": "HIT",
            "x-openrouter-cache-age": str(int(time.monotonic() - since)),
            "x-openrouter-cache-ttl": lifetime,
            "x-openrouter-cache-source-id": source,
        }

    def store_generation(self, request: Request, call: ModelCall) -> None:
        """Store the answer to ``GET /generation?id=``."""
        input_tokens, output_tokens = call.tokens
        self._generations[call.id] = {
            "id": call.id,
            "model": call.model,
            "provider_name": "OpenAI",
            "total_cost": call.cost.get("cost", 0.0),
            "usage": call.cost.get("cost", 0.0),
            "cache_discount": None,
            "latency": 120,
            "generation_time": 80,
            "native_tokens_prompt": input_tokens,
            "native_tokens_completion": output_tokens,
            "session_id": call.body.get("session_id") or request.headers.get("x-session-id"),
            "external_user": call.body.get("user"),
            "streamed": bool(call.body.get("stream")),
        }

    def answer_get(self, request: Request) -> dict[str, Any] | None:
        """Return the response body for a GET; ``None`` for an unknown path."""
        if request.path.endswith("/models"):
            return {"data": [{"id": "openai/gpt-4o", "object": "model", "name": "OpenAI: GPT-4o"}], "object": "list"}
        if request.path.endswith("/key"):
            return {"data": _KEY}
        if request.path.endswith("/generation"):
            generation = self._generations.get((request.query.get("id") or [""])[0])
            return None if generation is None else {"data": generation}
        return None
