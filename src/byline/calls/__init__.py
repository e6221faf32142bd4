"""Calls: the exchanges with model providers and gateways, as the app's own HTTP clients make them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Literal

from opentelemetry.trace import TracerProvider

from byline import afterwards
from byline.calls import prices, rules
from byline.calls.clients import aiohttp, botocore, httpx, patches, requests, urllib3
from byline.calls.own import LLMSpans
from byline.gateways.gateway import Gateway
from byline.settings import SettingError
from byline.spans import carriers, late, stated
from byline.spans.recognition import OWN_SCOPE

#: The name of a client → the module that is hooked, and how.
CLIENTS: Final[dict[str, tuple[str, Callable[[Any], None]]]] = {
    "httpx": ("httpx", httpx.patch),
    "httpx2": ("httpx2", httpx.patch),
    "requests": ("requests", requests.patch),
    "aiohttp": ("aiohttp", aiohttp.patch),
    "urllib3": ("urllib3", urllib3.patch),
    "botocore": ("botocore.httpsession", botocore.patch),
}


def check_clients(clients: Literal["auto"] | Collection[str]) -> frozenset[str]:
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
    wanted = check_clients(clients)
    tracer = tracer_provider.get_tracer(OWN_SCOPE)
    prices.warm_up()
    rules.put_in_force(rules.Rules(tracer, gateways, llm_spans, capture_content))
    for name in sorted(wanted):
        module, patch = CLIENTS[name]
        patches.when_imported(name, module, patch)


def uninstall() -> None:
    """Take the hooks off. What is known of calls is kept for the spans that are yet to be sent, until `forget`."""
    afterwards.run()
    rules.put_in_force(None)
    patches.take_off()


def forget() -> None:
    """Let go of what is known of calls."""
    late.clear()
    stated.clear()
    carriers.clear()
