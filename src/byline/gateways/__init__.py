"""The gateways that byline knows, one file each, and the registry that finds the gateway of a call."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from byline.gateways.aptible import Aptible
from byline.gateways.azure_apim import AzureAPIM
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse
from byline.gateways.bifrost import Bifrost
from byline.gateways.braintrust import Braintrust
from byline.gateways.cloudflare import Cloudflare
from byline.gateways.databricks import Databricks, MLflow
from byline.gateways.envoy import Envoy
from byline.gateways.helicone import Helicone
from byline.gateways.kong import Kong
from byline.gateways.langfuse import LangfuseGateway
from byline.gateways.litellm import LiteLLM
from byline.gateways.openrouter import OpenRouter
from byline.gateways.portkey import Portkey
from byline.gateways.providers import Anthropic, Gemini, OpenAI
from byline.gateways.tensorzero import TensorZero
from byline.gateways.vercel import Vercel
from byline.settings import SettingError

#: Every gateway, in the order in which response headers are compared with them.
ALL: Final[tuple[type[Gateway], ...]] = (
    OpenRouter,
    LiteLLM,
    Aptible,
    LangfuseGateway,
    Portkey,
    Helicone,
    Cloudflare,
    Vercel,
    Envoy,
    Bifrost,
    TensorZero,
    Kong,
    Databricks,
    MLflow,
    Braintrust,
    AzureAPIM,
    OpenAI,
    Anthropic,
    Gemini,
)

#: Every name that a gateway has for an attribution field.
FIELDS: Final[tuple[Field, ...]] = tuple(field for kind in ALL for field in kind.fields)

__all__ = [
    "ALL",
    "FIELDS",
    "Anthropic",
    "Aptible",
    "AzureAPIM",
    "Bifrost",
    "Braintrust",
    "Cloudflare",
    "Databricks",
    "Envoy",
    "Field",
    "Gateway",
    "GatewayRequest",
    "GatewayResponse",
    "Gemini",
    "Helicone",
    "Kong",
    "LangfuseGateway",
    "LiteLLM",
    "MLflow",
    "OpenAI",
    "OpenRouter",
    "Portkey",
    "TensorZero",
    "Vercel",
]


class GatewayRegistry:
    """The gateways of an app: the configured ones first, then all others that have public hosts or known responses."""

    def __init__(self, configured: Sequence[Gateway] = ()) -> None:
        #: The gateways that the app named.
        self.configured = tuple(configured)
        named = {type(gateway) for gateway in configured if gateway.base_url is None}
        self._all = (*configured, *(kind() for kind in ALL if kind not in named))
        self._by_host = {host: gateway for gateway in reversed(self._all) for host in gateway.hosts}
        self._suffixes = tuple(host for host in self._by_host if host.startswith("."))
        #: The headers without which no response shows a gateway; ``None`` if a gateway decides by something else.
        self._response_headers: frozenset[str] | None = frozenset().union(
            *(each.response_headers for each in self._all)
        )
        if any(type(each).matches_response is not Gateway.matches_response for each in self._all):
            self._response_headers = None

    def find(self, host: str, port: int | None, path: str) -> Gateway | None:
        """Return the gateway at a URL, ``None`` if no gateway is known there."""
        for gateway in self.configured:
            if gateway.recognises(host, port, path):
                return gateway
        found = self._by_host.get(host)
        if found is None and host.endswith(self._suffixes):
            found = next(self._by_host[suffix] for suffix in self._suffixes if host.endswith(suffix))
        return found if found is not None and found.recognises(host, port, path) else None

    def detect_from_response(self, headers: Mapping[str, str]) -> Gateway | None:
        """Return the gateway that response headers show, for calls to a URL that no gateway is known at."""
        if self._response_headers is not None and self._response_headers.isdisjoint(headers):
            return None
        return next((gateway for gateway in self._all if gateway.matches_response(headers)), None)


def validate_gateways(configured: Any) -> Collection[Gateway]:
    """Return the gateways of an app. Raises `SettingError` ``byline.E030`` if one of them is not a gateway."""
    advice = 'pass a list of byline.gateways objects, e.g. [LiteLLM("http://llm.internal:4000")]'
    if isinstance(configured, str) or not isinstance(configured, Collection):
        raise SettingError("byline.E030", f"gateways is {type(configured).__name__}", advice)
    for gateway in configured:
        if not isinstance(gateway, Gateway):
            # Only the type: the value may be a URL with a password.
            shown = f"the class {gateway.__name__}" if isinstance(gateway, type) else type(gateway).__name__
            raise SettingError("byline.E030", f"gateways contains {shown}", advice)
    return configured


def parse_gateways(text: str, broadcasts: Collection[str] = ()) -> list[Gateway]:
    """Parse ``BYLINE_GATEWAYS``: names, or ``name=base URL``, separated by commas.

    Args:
        text: The value.
        broadcasts: ``BYLINE_BROADCASTS``: the names of gateways that export their own traces.

    Raises:
        SettingError: ``byline.E031`` for an unknown name, and for a gateway without public hosts whose
            base URL is missing, because nothing would be sent to it.

    Example:
        >>> [gateway.name for gateway in parse_gateways("openrouter, litellm=http://llm.internal:4000")]
        ['openrouter', 'litellm']
    """
    by_name: Final = {kind.name: kind for kind in ALL}
    parsed: list[Gateway] = []
    names = {part.partition("=")[0].strip().lower() for part in text.split(",")}
    text = ",".join([text, *(name for name in broadcasts if name.lower() not in names)])
    for number, part in enumerate(text.split(","), 1):
        name, _, url = part.strip().partition("=")
        if not name:
            continue
        kind = by_name.get(name.strip().lower())
        if kind is None:
            # A URL without a name may contain a password.
            problem = f"names {name!r}" if name.replace("_", "").isalnum() else f"has no name in its entry {number}"
            raise SettingError("byline.E031", f"BYLINE_GATEWAYS {problem}", f"use one of {', '.join(sorted(by_name))}")
        if not url.strip() and not kind.hosts:
            raise SettingError(
                "byline.E031",
                f"BYLINE_GATEWAYS names {kind.name} without its base URL",
                f"write {kind.name}=http://host:port",
            )
        parsed.append(kind(url.strip() or None, broadcasts=kind.name in {each.lower() for each in broadcasts}))
    return parsed
