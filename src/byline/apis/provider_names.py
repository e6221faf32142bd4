"""The providers that are known by their hosts."""

from __future__ import annotations

from typing import Final

_PROVIDERS: Final = (
    ("openai.azure.com", "azure.ai.openai"),
    ("openai.com", "openai"),
    ("anthropic.com", "anthropic"),
    ("aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("googleapis.com", "gcp.gemini"),
    ("mistral.ai", "mistral_ai"),
    ("groq.com", "groq"),
    ("deepseek.com", "deepseek"),
    ("x.ai", "x_ai"),
    ("cohere.com", "cohere"),
    ("cohere.ai", "cohere"),
    ("perplexity.ai", "perplexity"),
)


def provider_for_host(host: str) -> str | None:
    """Return the provider at a host, by its GenAI name."""
    for ending, name in _PROVIDERS:
        if host == ending or host.endswith("." + ending):
            return name
    return None
