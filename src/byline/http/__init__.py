"""LLM requests of the app's HTTP clients: hooks that see them, and the results that their responses state."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Literal

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import TracerProvider

from byline import deferred
from byline.gateways.base import Gateway
from byline.genai import price_library
from byline.genai.call_results import results
from byline.genai.classify import OWN_SCOPE
from byline.genai.pricing import prices
from byline.genai.tracer_provider import SideTracer
from byline.http import aiohttp, botocore, httpx, propagation, requests, urllib3
from byline.http.call_config import CallConfig, LLMSpans, configs
from byline.http.propagation import OwnServices
from byline.media import MediaBudget
from byline.patching import Patches
from byline.settings import SettingError

#: Client name → the module to patch, and the patching function.
CLIENTS: Final[dict[str, tuple[str, Callable[[Patches, Any], None]]]] = {
    "httpx": ("httpx", httpx.patch_clients),
    "httpx2": ("httpx2", httpx.patch_clients),
    "requests": ("requests", requests.patch_session),
    "aiohttp": ("aiohttp", aiohttp.patch_session),
    "urllib3": ("urllib3", urllib3.patch_pool_manager),
    "botocore": ("botocore.httpsession", botocore.patch_session),
}
_patches: Final = Patches(
    "byline.E092: calls through %s get no LLM span and no ids, because this version cannot be hooked (%s); "
    "use an older version of the client"
)
_propagation_patches: Final = Patches(
    "byline.E131: requests through %s to own services get no attribution, because this version cannot be hooked (%s); "
    "use an older version of the client, or byline.inject"
)


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
    media: MediaBudget | None = None,
    side_tracer: SideTracer | None = None,
    processor: SpanProcessor | None = None,
    own_services: OwnServices | None = None,
    exports_late: bool = False,
) -> CallConfig:
    """Hook the HTTP clients, now or when they are imported, and return the settings that are now in force.

    Without ``clients`` these settings keep the calls of the provider from those of other providers. ``exports_late``
    says that only destinations read the ended spans: a cost may be added to these before the export.
    """
    wanted = validate_clients(clients)
    if wanted and not (exports_late and price_library.is_compiled()):
        # Otherwise with the first call.
        prices.load()
    config = CallConfig(
        tracer_provider=tracer_provider,
        tracer=tracer_provider.get_tracer(OWN_SCOPE),
        gateways=gateways,
        llm_spans=llm_spans,
        capture_content=capture_content,
        media=media,
        side_tracer=side_tracer,
        processor=processor,
        enabled=bool(wanted),
        own_services=own_services or None,
    )
    configs.add(config)
    for name in sorted(wanted):
        module, patch = CLIENTS[name]
        _patches.patch_when_imported(name, module, patch)
    if own_services:
        for name in sorted(wanted & propagation.CLIENTS.keys()):
            module, patch = propagation.CLIENTS[name]
            _propagation_patches.patch_when_imported(name, module, patch)
    return config


def uninstall(config: CallConfig | None = None) -> None:
    """Put settings out of force, by default all of them, and unhook the clients after the last ones.

    Call results stay for spans that are not exported yet, until `clear_results`.
    """
    deferred.run_deferred()
    configs.remove(config)
    if not configs.active:
        _propagation_patches.unwrap_all()
        _patches.unwrap_all()


def clear_results() -> None:
    """Drop all results that wait for a span."""
    results.clear()
