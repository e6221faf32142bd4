"""Which gateway a call goes to, and which one answered."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from byline import gateways
from byline.gateways.base import Gateway
from byline.settings import SettingError


class GatewayRegistry:
    """The gateways of an app: the configured ones first, then those that have hosts of their own."""

    def __init__(self, configured: Sequence[Gateway] = ()) -> None:
        self._configured = tuple(configured)
        named = {type(gateway) for gateway in configured if gateway.base_url is None}
        others = [made() for made in gateways.ALL if made not in named]
        self._all = (*configured, *others)
        self._by_host = {host: gateway for gateway in reversed(self._all) for host in gateway.hosts}
        self._ends = tuple(host for host in self._by_host if host.startswith("."))

    def find(self, host: str, port: int | None, path: str) -> Gateway | None:
        """Return the gateway at a place, ``None`` where none is known there."""
        for gateway in self._configured:
            if gateway.recognises(host, port, path):
                return gateway
        found = self._by_host.get(host)
        if found is None and host.endswith(self._ends):
            found = next(self._by_host[end] for end in self._ends if host.endswith(end))
        return found if found is not None and found.recognises(host, port, path) else None

    def answered(self, headers: Mapping[str, str]) -> Gateway | None:
        """Return the kind of gateway that a reply's headers show, for one that nobody named."""
        for gateway in self._all:
            if gateway.answered(headers):
                return gateway
        return None


def validate_gateways(configured: Any) -> Collection[Gateway]:
    """Return the gateways of an app. Raises `SettingError` ``byline.E030`` where something else is among them."""
    advice = 'pass a list of byline.gateways objects, e.g. [LiteLLM("http://llm.internal:4000")]'
    if isinstance(configured, str) or not isinstance(configured, Collection):
        raise SettingError("byline.E030", f"gateways is {type(configured).__name__}", advice)
    for gateway in configured:
        if not isinstance(gateway, Gateway):
            # Not the thing itself: it may be a URL with a password in it.
            what = f"the class {gateway.__name__}" if isinstance(gateway, type) else type(gateway).__name__
            raise SettingError("byline.E030", f"gateways has {what} in it", advice)
    return configured


def parse_gateways(text: str) -> list[Gateway]:
    """Read ``BYLINE_GATEWAYS``: names, or ``name=base URL``, separated by commas.

    Raises:
        SettingError: ``byline.E031`` for a name that is none, and for a gateway without hosts of its own
            whose base URL is missing: nothing would be sent to it.

    Example:
        >>> [gateway.name for gateway in parse_gateways("openrouter, litellm=http://llm.internal:4000")]
        ['openrouter', 'litellm']
    """
    by_name: Final = {made.name: made for made in gateways.ALL}
    found: list[Gateway] = []
    for number, part in enumerate(text.split(","), 1):
        name, _, url = part.strip().partition("=")
        if not name:
            continue
        made = by_name.get(name.strip().lower())
        if made is None:
            # A URL without a name may have a password in it.
            what = f"names {name!r}" if name.replace("_", "").isalnum() else f"has no name in its entry {number}"
            raise SettingError("byline.E031", f"BYLINE_GATEWAYS {what}", f"use some of {', '.join(sorted(by_name))}")
        if not url.strip() and not made.hosts:
            raise SettingError(
                "byline.E031",
                f"BYLINE_GATEWAYS names {made.name} without its base URL",
                f"write {made.name}=http://host:port",
            )
        found.append(made(url.strip() or None))
    return found
