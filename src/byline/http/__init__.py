"""Calls: the exchanges with model providers and gateways, as the app's own HTTP clients make them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Literal

from opentelemetry.trace import TracerProvider

from byline import deferred
from byline.gateways.base import Gateway
from byline.genai import cost_overrides, pending_results, usage_ownership
from byline.genai.classify import OWN_SCOPE
from byline.http import aiohttp, botocore, call_config, httpx, patching, pricing, requests, urllib3
from byline.http.fallback_span import LLMSpans
from byline.settings import SettingError

#: The name of a client → the module that is hooked, and how.
CLIENTS: Final[dict[str, tuple[str, Callable[[Any], None]]]] = {
    "httpx": ("httpx", httpx.patch),
    "httpx2": ("httpx2", httpx.patch),
    "requests": ("requests", requests.patch),
    "aiohttp": ("aiohttp", aiohttp.patch),
    "urllib3": ("urllib3", urllib3.patch),
    "botocore": ("botocore.httpsession", botocore.patch),
}


def validate_clients(clients: Literal["auto"] | Collection[str]) -> frozenset[str]:
    """Return the names of the clients to hook. Raises `SettingError` ``byline.E065``."""
    wanted = frozenset(CLIENTS) if clients == "auto" else frozenset(clients)
    if (isinstance(clients, str) and clients != "auto") or not wanted <= CLIENTS.keys():
        raise SettingError(
            "byline.E065", f"clients={clients!r}", f'pass "auto", or some of {", ".join(sorted(CLIENTS))}'
        )
    return wanted


def install(
    *,
    tracer_provider: TracerProvider,
    gateways: Sequence[Gateway],
    clients: Literal["auto"] | Collection[str],
    llm_spans: LLMSpans,
    capture_content: bool,
) -> None:
    """Hook the HTTP clients, now or when they are imported."""
    wanted = validate_clients(clients)
    tracer = tracer_provider.get_tracer(OWN_SCOPE)
    pricing.preload_prices()
    call_config.set_current(call_config.CallConfig(tracer, gateways, llm_spans, capture_content))
    for name in sorted(wanted):
        module, patch = CLIENTS[name]
        patching.when_imported(name, module, patch)


def uninstall() -> None:
    """Remove the hooks. Call results are kept for spans that are not sent yet, until `clear_results`."""
    deferred.run_deferred()
    call_config.set_current(None)
    patching.unwrap_all()


def clear_results() -> None:
    """Let go of what is known of calls."""
    pending_results.clear()
    cost_overrides.clear()
    usage_ownership.clear()
