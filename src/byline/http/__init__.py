"""LLM requests of the app's HTTP clients: hooks that see them, and the results that their responses state."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Literal

from opentelemetry.trace import TracerProvider

from byline import deferred
from byline.gateways.base import Gateway
from byline.genai import cost_overrides, pending_results, usage_ownership
from byline.genai.classify import OWN_SCOPE
from byline.http import aiohttp, botocore, call_config, httpx, pricing, requests, urllib3
from byline.http.fallback_span import LLMSpans
from byline.http.patching import ClientPatches
from byline.settings import SettingError

#: Client name → the module to patch, and the function that patches it.
CLIENTS: Final[dict[str, tuple[str, Callable[[ClientPatches, Any], None]]]] = {
    "httpx": ("httpx", httpx.patch_clients),
    "httpx2": ("httpx2", httpx.patch_clients),
    "requests": ("requests", requests.patch_session),
    "aiohttp": ("aiohttp", aiohttp.patch_session),
    "urllib3": ("urllib3", urllib3.patch_pool_manager),
    "botocore": ("botocore.httpsession", botocore.patch_session),
}
_patches: Final = ClientPatches()


def validate_clients(clients: Literal["auto"] | Collection[str]) -> frozenset[str]:
    """Return the names of the clients to hook. Raises `SettingError` ``byline.E065``."""
    names = frozenset(CLIENTS) if clients == "auto" else frozenset(clients)
    if (isinstance(clients, str) and clients != "auto") or not names <= CLIENTS.keys():
        raise SettingError(
            "byline.E065", f"clients={clients!r}", f'pass "auto", or some of {", ".join(sorted(CLIENTS))}'
        )
    return names


def install(
    *,
    tracer_provider: TracerProvider,
    gateways: Sequence[Gateway],
    clients: Literal["auto"] | Collection[str],
    llm_spans: LLMSpans,
    capture_content: bool,
) -> None:
    """Hook the HTTP clients that are imported now, and the others when they are imported."""
    names = validate_clients(clients)
    tracer = tracer_provider.get_tracer(OWN_SCOPE)
    pricing.preload_prices()
    call_config.set_current(call_config.CallConfig(tracer, gateways, llm_spans, capture_content))
    for name in sorted(names):
        module_name, patch = CLIENTS[name]
        _patches.patch_when_imported(name, module_name, patch)


def uninstall() -> None:
    """Remove the hooks. Results are kept until `clear_results`, because their spans may not be exported yet."""
    deferred.run_deferred()
    call_config.set_current(None)
    _patches.unwrap_all()


def clear_results() -> None:
    """Forget the results that wait for their spans."""
    pending_results.clear()
    cost_overrides.clear()
    usage_ownership.clear()
