"""What OpenRouter does around a reply: routing metadata, a response cache, and answers about keys and generations."""

from __future__ import annotations

import hashlib
import time
from typing import Any, Final

from byline.testing.replies.model import Ask
from byline.testing.server import Request

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


class Around:
    """What one gateway remembers between calls."""

    def __init__(self) -> None:
        self._cached: dict[str, tuple[str, float]] = {}
        self._generations: dict[str, dict[str, Any]] = {}

    def routing(self, request: Request, model: str) -> dict[str, Any]:
        """Return the routing metadata for those who ask for it."""
        if request.headers.get("x-openrouter-metadata", "").lower() != "enabled":
            return {}
        routed = {"provider": "OpenAI", "model": model, "selected": True}
        return {
            "openrouter_metadata": {
                "requested": model,
                "strategy": "direct",
                "region": "us-east",
                "summary": "OpenAI",
                "attempt": 1,
                "is_byok": False,
                "endpoints": {"total": 1, "available": [routed]},
                "attempts": [{"provider": "OpenAI", "model": model, "status": 200}],
            }
        }

    def cache(self, request: Request, identifier: str) -> dict[str, str]:
        """Return the headers of the response cache; empty where it was not asked for.

        The key is the caller's, the endpoint and the bytes of the body: a body that differs in one
        id is another one.
        """
        if request.headers.get("x-openrouter-cache", "").lower() != "true":
            return {}
        asked = "\n".join((request.headers.get("authorization", ""), request.path)).encode() + request.body
        key = hashlib.sha256(asked).hexdigest()
        lifetime = request.headers.get("x-openrouter-cache-ttl", "300")
        if request.headers.get("x-openrouter-cache-clear", "").lower() == "true":
            self._cached.pop(key, None)
        found = self._cached.get(key)
        if found is None:
            self._cached[key] = (identifier, time.monotonic())
            return {"x-openrouter-cache-status": "MISS", "x-openrouter-cache-ttl": lifetime}
        source, since = found
        return {
            "x-openrouter-cache-status": "HIT",
            "x-openrouter-cache-age": str(int(time.monotonic() - since)),
            "x-openrouter-cache-ttl": lifetime,
            "x-openrouter-cache-source-id": source,
        }

    def remember(self, request: Request, ask: Ask) -> None:
        """Keep what can be asked of a generation later."""
        prompt, answer = ask.tokens
        self._generations[ask.id] = {
            "id": ask.id,
            "model": ask.model,
            "provider_name": "OpenAI",
            "total_cost": ask.cost.get("cost", 0.0),
            "usage": ask.cost.get("cost", 0.0),
            "cache_discount": None,
            "latency": 120,
            "generation_time": 80,
            "native_tokens_prompt": prompt,
            "native_tokens_completion": answer,
            "session_id": ask.body.get("session_id") or request.headers.get("x-session-id"),
            "external_user": ask.body.get("user"),
            "streamed": bool(ask.body.get("stream")),
        }

    def question(self, request: Request) -> dict[str, Any] | None:
        """Answer a GET; ``None`` where there is nothing at that path."""
        if request.path.endswith("/models"):
            return {"data": [{"id": "openai/gpt-4o", "object": "model", "name": "OpenAI: GPT-4o"}], "object": "list"}
        if request.path.endswith("/key"):
            return {"data": _KEY}
        if request.path.endswith("/generation"):
            found = self._generations.get((request.query.get("id") or [""])[0])
            return None if found is None else {"data": found}
        return None
