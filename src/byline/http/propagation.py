"""The attribution on HTTP requests to own services: ``instrument(propagate_to=…)``.

The hooks of this module are installed only if hosts are named. Each adds the headers of `byline.inject` to a request
before the client sends the request, and removes them afterwards, because the app may send the same object to another
host. A redirect to another origin gets none of them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from byline import errors
from byline.carrier import HEADER
from byline.carry import inject
from byline.http.call_config import configs
from byline.http.client_hooks import Exchange, default_port, parse_url
from byline.http.urllib3 import copy_headers
from byline.patching import Patches
from byline.settings import SettingError

_NAME: Final = r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?"
_PATTERN: Final = re.compile(rf"(\*\.)?{_NAME}(:\d{{1,5}})?\Z")
_HOST: Final = re.compile(rf"{_NAME}\Z")
#: An app calls few hosts; a crawler calls many, and only the latest of them are kept.
_MAX_REMEMBERED: Final = 1024

Origin = tuple[str, int]


class OwnServices:
    """The hosts that get the attribution.

    Args:
        patterns: Hosts, each ``name``, ``name:port``, ``*.suffix``, an IP address or a network such as ``10.0.0.0/8``.

    Raises:
        SettingError: ``byline.E130`` for anything else, and for ``*``.

    Example:
        >>> services = OwnServices(["*.svc.internal", "10.0.0.0/8", "localhost:8000"])
        >>> services.include("rag.svc.internal", 443), services.include("10.1.2.3", 80), services.include("10.a.io", 80)
        (True, True, False)
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._hosts: set[str] = set()
        self._suffixes: tuple[str, ...] = ()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        self._known: dict[Origin, bool] = {}
        if isinstance(patterns, str):
            patterns = [patterns]
        for pattern in patterns:
            self._add(pattern)

    def __bool__(self) -> bool:
        """Return whether any host is named."""
        return bool(self._hosts or self._suffixes or self._networks)

    def _add(self, pattern: object) -> None:
        text = pattern.strip().lower().rstrip(".") if isinstance(pattern, str) else ""
        try:
            self._networks.append(ipaddress.ip_network(text, strict=False))
            return
        except ValueError:
            pass
        if not _PATTERN.match(text):
            raise SettingError(
                "byline.E130",
                f"propagate_to names {pattern!r}, which is no host of your own",
                'name hosts such as "rag.internal", "rag.internal:8000", "*.svc.internal" or "10.0.0.0/8"',
            )
        if text.startswith("*."):
            self._suffixes += (text[1:],)
        else:
            self._hosts.add(text)

    def include(self, host: str, port: int) -> bool:
        """Return whether a host is one of the own services. Names are compared as they are, and not resolved."""
        known = self._known.get((host, port))
        if known is None:
            known = self._include(host.lower().rstrip("."), port)
            if len(self._known) >= _MAX_REMEMBERED:
                self._known.clear()
            self._known[host, port] = known
        return known

    def _include(self, host: str, port: int) -> bool:
        if host in self._hosts or f"{host}:{port}" in self._hosts:
            return True
        # A proxy may decode evil.io%2f.svc.internal.
        if host.endswith(self._suffixes) and _HOST.match(host):
            return True
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def _headers_for(origin: Origin | None, present: Callable[[], Iterable[str]]) -> dict[str, str]:
    """Return the headers to add to a request, none if the host is not one of the own services."""
    if origin is None or not configs.propagates(*origin):
        return {}
    try:
        if _sends_for_others():
            return {}
        # `inject` writes no traceparent beside that of the app, and none of its other headers replaces one of the app.
        names = {str(name).lower() for name in present()}
        headers = dict.fromkeys(names, "")
        inject(headers)
        return {name: value for name, value in headers.items() if name not in names}
    except Exception:
        errors.report_internal_error("propagation")
        return {}


def _sends_for_others() -> bool:
    """Return whether the current task sends the messages of other tasks, whose attributions it does not have.

    The transport over SSE of MCP's SDK 1.x, whose messages have the attribution in themselves (`byline.mcp_clients`).
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task.get_name() == "mcp.client.sse.sse_client.<locals>.post_writer"


def _parse_origin(url: Any) -> Origin | None:
    parsed = parse_url(url)
    return None if parsed is None else parsed[:2]


class _Sent:
    """The request under way: its origin, and the headers that were added.

    Another origin that redirects chooses the next request, so that one gets no headers, even if it leads back.
    """

    def __init__(self, origin: Origin | None, added: Mapping[str, str]) -> None:
        self._origin = origin
        self._added = added
        self._has_left = False

    def note(self, origin: Origin | None) -> None:
        """Note the origin of a request that was sent."""
        self._has_left = self._has_left or origin != self._origin

    def follow(self, origin: Origin | None, headers: Any) -> None:
        """Sign the headers of a redirect within the origin again, or remove what was added."""
        self.note(origin)
        (_remove if self._has_left else _renew)(headers, self._added)

    def __bool__(self) -> bool:
        return bool(self._added)


_sent: Final[ContextVar[_Sent | None]] = ContextVar("byline_propagated", default=None)


# httpx and httpx2


def patch_httpx(patches: Patches, module: Any) -> None:
    """Hook the clients of ``httpx`` or ``httpx2``."""
    patches.wrap_method(module.Client, "send", _wrap_send)
    patches.wrap_method(module.AsyncClient, "send", _wrap_async_send)
    for owner in {*module.Client.__mro__, *module.AsyncClient.__mro__}:
        if "_build_redirect_request" in vars(owner):
            patches.wrap_method(owner, "_build_redirect_request", _wrap_build_redirect)


def _origin_of(url: Any) -> Origin:
    return url.host, url.port or default_port(url.scheme)


def _add(request: Any) -> Mapping[str, str]:
    added = _headers_for(_origin_of(request.url), lambda: request.headers)
    request.headers.update(added)
    return added


@contextmanager
def _sending(request: Any, added: Mapping[str, str]) -> Iterator[Exchange]:
    """Note what the request of httpx got while it is sent, and remove that afterwards."""
    exchange = Exchange()
    token = _sent.set(_Sent(_origin_of(request.url), added))
    try:
        yield exchange
    finally:
        _sent.reset(token)
        response = exchange.response
        sent = [request]
        if response is not None:
            sent += [response.request, response.next_request, *(redirect.request for redirect in response.history)]
        for each in sent:
            if each is not None:
                _remove(each.headers, added)


def _wrap_send(original: Callable[..., Any]) -> Callable[..., Any]:
    def send(self: Any, request: Any, **options: Any) -> Any:
        added = _add(request)
        if not added:
            return original(self, request, **options)
        with _sending(request, added) as exchange:
            exchange.response = original(self, request, **options)
        return exchange.response

    return send


def _wrap_async_send(original: Callable[..., Any]) -> Callable[..., Any]:
    async def send(self: Any, request: Any, **options: Any) -> Any:
        added = _add(request)
        if not added:
            return await original(self, request, **options)
        with _sending(request, added) as exchange:
            exchange.response = await original(self, request, **options)
        return exchange.response

    return send


def _wrap_build_redirect(original: Callable[..., Any]) -> Callable[..., Any]:
    def build_redirect_request(self: Any, request: Any, response: Any) -> Any:
        redirect = original(self, request, response)
        sent = _sent.get()
        if sent is not None:
            sent.note(_origin_of(request.url))
            sent.follow(_origin_of(redirect.url), redirect.headers)
        return redirect

    return build_redirect_request


# requests and urllib3 follow a redirect by calling the hooked method again.


def patch_requests(patches: Patches, module: Any) -> None:
    """Hook the sessions of requests."""
    patches.wrap_method(module.Session, "send", _wrap_session_send)


def _wrap_session_send(original: Callable[..., Any]) -> Callable[..., Any]:
    def send(self: Any, request: Any, **options: Any) -> Any:
        headers = request.headers
        origin = _parse_origin(request.url)
        outer = _sent.get()
        if outer is not None:
            outer.follow(origin, headers)
            return original(self, request, **options)
        added = _headers_for(origin, lambda: headers)
        headers.update(added)
        token = _sent.set(_Sent(origin, added))
        try:
            response = original(self, request, **options)
        finally:
            _sent.reset(token)
            _remove(headers, added)
        for each in (response.next, response.request, *(redirect.request for redirect in response.history)):
            if each is not None:
                _remove(each.headers, added)
        return response

    return send


def patch_urllib3(patches: Patches, module: Any) -> None:
    """Hook the pool manager of urllib3."""
    patches.wrap_method(module.PoolManager, "urlopen", _wrap_urlopen)


def _wrap_urlopen(original: Callable[..., Any]) -> Callable[..., Any]:
    def urlopen(self: Any, method: str, url: str, redirect: bool = True, **options: Any) -> Any:
        origin = _parse_origin(url)
        outer = _sent.get()
        app_headers = options.get("headers")
        if app_headers is None:
            app_headers = self.headers
        if outer is not None:
            if outer:
                options["headers"] = copy_headers(app_headers)
                outer.follow(origin, options["headers"])
            return original(self, method, url, redirect, **options)
        added = _headers_for(origin, lambda: app_headers or ())
        if added:
            options["headers"] = copy_headers(app_headers)
            options["headers"].update(added)
        token = _sent.set(_Sent(origin, added))
        try:
            return original(self, method, url, redirect, **options)
        finally:
            _sent.reset(token)

    return urlopen


# aiohttp


def patch_aiohttp(patches: Patches, module: Any) -> None:
    """Hook the sessions of aiohttp."""
    patches.wrap_method(module.ClientSession, "_request", _wrap_request)


def _wrap_request(original: Callable[..., Any]) -> Callable[..., Any]:
    async def request(self: Any, method: str, url: Any, **options: Any) -> Any:
        try:
            _add_middleware(self, url, options)
        except (TypeError, ValueError, AttributeError):
            # aiohttp raises an error for an invalid URL.
            pass
        except Exception:
            errors.report_internal_error("propagation")
        return await original(self, method, url, **options)

    return request


def _add_middleware(session: Any, url: Any, options: dict[str, Any]) -> None:
    """Add the headers in a middleware, which aiohttp calls for the request of each redirect."""
    from yarl import URL

    target = URL(url) if isinstance(url, str) else url
    if not target.absolute and session._base_url is not None:
        target = session._base_url.join(target)
    host = target.host or "", target.port or 0
    # aiohttp before 3.12 has no middlewares, so that headers could not be removed from redirects.
    if not configs.propagates(*host) or not hasattr(session, "_middlewares"):
        return
    origin = target.origin()

    has_left = False

    async def add_headers(request: Any, handler: Any) -> Any:
        nonlocal has_left
        has_left = has_left or request.url.origin() != origin
        if not has_left:
            request.headers.update(_headers_for(host, lambda: request.headers))
        return await handler(request)

    middlewares = options.get("middlewares")
    options["middlewares"] = (*(session._middlewares if middlewares is None else middlewares), add_headers)


def _remove(headers: Any, added: Mapping[str, str]) -> None:
    for name, value in added.items():
        # An instrumentation below may have written a traceparent of its own.
        if name in headers and (name == HEADER or headers[name] == value):
            del headers[name]


def _renew(headers: Any, added: Mapping[str, str]) -> None:
    """Sign again for a redirect within the origin, because a receiver accepts a signed value once."""
    if HEADER in added:
        renewed: dict[str, str] = {}
        inject(renewed)
        headers[HEADER] = renewed.get(HEADER, added[HEADER])


#: Client name → the module to patch, and the patching function. The signature of botocore's requests covers headers.
CLIENTS: Final[dict[str, tuple[str, Callable[[Patches, Any], None]]]] = {
    "httpx": ("httpx", patch_httpx),
    "httpx2": ("httpx2", patch_httpx),
    "requests": ("requests", patch_requests),
    "aiohttp": ("aiohttp", patch_aiohttp),
    "urllib3": ("urllib3", patch_urllib3),
}
