"""MCP clients: each message carries the trace of its caller in ``_meta``, and to own servers the attribution too.

The transports of MCP's Python SDK 1.x send all messages of a session in tasks of the request that opened the session,
so that a session which several requests share would send the identity of the first one. Here a message gets the
``_meta`` where it is created, which is in the context of its caller, and the transport sends the message in that
context. Version 2 of the SDK keeps the context of the caller by itself.

A server is one of the own services if ``propagate_to`` names its host; ``stdio`` names the servers that this process
starts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final, cast

from opentelemetry import context as otel_context
from opentelemetry import propagate
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from byline import errors, request_context
from byline.bound import Contexts, run_part
from byline.carrier import HEADER
from byline.carry import inject
from byline.http.call_config import configs
from byline.http.client_hooks import parse_url
from byline.patching import Patches

#: The name of servers that this process starts, in ``propagate_to``.
STDIO: Final = "stdio"
#: Attribute of the metadata of a message of SDK 1.x with the contexts of its caller.
SENDER: Final = "_byline_contexts"
#: Attribute of the stream to a server with its host and port.
_SERVER: Final = "_byline_server"
_META: Final = "_meta"
_TRACEPARENT: Final = "traceparent"

_propagator: Final = TraceContextTextMapPropagator()
_patches: Final = Patches(
    "byline.E115: calls of MCP servers by %s carry neither the trace nor the attribution of their callers, because "
    "this version cannot be hooked (%s); pass meta= with the headers of byline.inject"
)


def install() -> None:
    """Hook the clients, now or when the SDK is imported."""
    for module, patch in (
        ("mcp.client.session", _patch_session),
        ("mcp.shared.message", _patch_message),
        ("mcp.client.streamable_http", _patch_streamable_http),
        ("mcp.client.sse", lambda patches, module: _patch_function(patches, module, "sse_client")),
        ("mcp.client.websocket", lambda patches, module: _patch_function(patches, module, "websocket_client")),
        ("mcp.client.stdio", lambda patches, module: _patch_function(patches, module, "stdio_client")),
    ):
        _patches.patch_when_imported("MCP", module, patch)


def uninstall() -> None:
    """Unhook the clients."""
    _patches.unwrap_all()


class _Call:
    """A call under way, until its message is created.

    Attributes:
        server: Host and port of the server, ``None`` if they are not known.
        sender: The contexts of the caller, ``None`` if the SDK keeps them.
    """

    def __init__(self, server: tuple[str, int] | None, sender: Contexts | None) -> None:
        self.server = server
        self.sender = sender
        self.is_written = False


_call: Final[ContextVar[_Call | None]] = ContextVar("byline_mcp_call", default=None)


def _patch_session(patches: Patches, module: Any) -> None:
    session = module.ClientSession
    owner = next((each for each in session.__mro__ if "send_request" in vars(each)), session)
    # The sessions of servers ask their clients, who are not own services, with the same method.
    patches.wrap_method(owner, "send_request", lambda original: _wrap_send_request(original, session))


def _wrap_send_request(original: Callable[..., Any], session: type) -> Callable[..., Any]:
    async def send_request(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = _begin_call(self) if isinstance(self, session) else None
        if call is None:
            return await original(self, *args, **kwargs)
        token = _call.set(call)
        try:
            return await original(self, *args, **kwargs)
        finally:
            # A coroutine that is never finished is closed in another context.
            with suppress(ValueError):
                _call.reset(token)

    return send_request


def _begin_call(session: Any) -> _Call | None:
    try:
        # Version 2 has a dispatcher, whose streams keep the context of the sender.
        dispatcher = getattr(session, "_dispatcher", None)
        stream = getattr(session if dispatcher is None else dispatcher, "_write_stream", None)
        sender = None
        if dispatcher is None:
            # Outside a request, the context variable is set to `None`, which is its value outside requests.
            sender = Contexts(cast("Any", request_context.attached()), otel_context.get_current())
        return _Call(getattr(_inner(stream), _SERVER, None), sender)
    except Exception:
        errors.report_internal_error("mcp client")
        return None


def _inner(stream: Any) -> Any:
    """Return the stream of anyio in one of version 2, which takes no attributes."""
    return getattr(stream, "_inner", stream)


def _patch_message(patches: Patches, module: Any) -> None:
    metadata = module.ClientMessageMetadata

    def make_wrapper(original: Callable[..., None]) -> Callable[..., None]:
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            call = _call.get()
            if call is not None and not call.is_written:
                try:
                    _write(self, call, metadata)
                except Exception:
                    errors.report_internal_error("mcp client")

        return init

    patches.wrap_method(module.SessionMessage, "__init__", make_wrapper)


def _write(message: Any, call: _Call, metadata_type: Callable[[], Any]) -> None:
    """Add the caller's ids, as far as the server may know them, to the message of a call."""
    # Version 1 has one class around all kinds of messages.
    request = getattr(message.message, "root", message.message)
    if getattr(request, "method", None) is None or getattr(request, "id", None) is None:
        return
    call.is_written = True
    params = request.params or {}
    meta = dict(params.get(_META) or {})
    _add_headers(meta, call.server)
    if meta:
        request.params = {**params, _META: meta}
    if call.sender is not None:
        # A copy, because the app may pass the same object with several calls.
        given = message.metadata
        message.metadata = metadata_type() if given is None else dataclasses.replace(given)
        setattr(message.metadata, SENDER, call.sender)


def _add_headers(meta: MutableMapping[str, Any], server: tuple[str, int] | None) -> None:
    if server is not None and HEADER not in meta and configs.propagates(*server):
        inject(meta)
    elif _TRACEPARENT not in meta and _TRACEPARENT in propagate.get_global_textmap().fields:
        # The trace alone is for every server, as in version 2 (SEP-414).
        _propagator.inject(meta)


def _parse_server(url: Any) -> tuple[str, int] | None:
    parsed = parse_url(str(url))
    return None if parsed is None else parsed[:2]


def _patch_streamable_http(patches: Patches, module: Any) -> None:
    transport = module.StreamableHTTPTransport
    if _keeps_origin(module):
        patches.wrap_method(transport, "post_writer", _wrap_post_writer)
    patches.wrap_method(transport, "_handle_post_request", _wrap_handle_post_request)


def _wrap_post_writer(original: Callable[..., Any]) -> Callable[..., Any]:
    async def post_writer(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            server = _parse_server(self.url)
            for stream in (*args, *kwargs.values()):
                if hasattr(stream, "send") and hasattr(stream, "clone"):
                    setattr(_inner(stream), _SERVER, server)
        except Exception:
            errors.report_internal_error("mcp client")
        return await original(self, *args, **kwargs)

    return post_writer


def _wrap_handle_post_request(original: Callable[..., Any]) -> Callable[..., Any]:
    async def handle_post_request(self: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
        metadata = getattr(context, "metadata", None)
        sender = getattr(metadata, SENDER, None)
        if sender is None:
            return await original(self, context, *args, **kwargs)
        with run_part(sender):
            return await original(self, context, *args, **kwargs)

    return handle_post_request


def _patch_function(patches: Patches, module: Any, name: str) -> None:
    """Note the server of the streams that a function opens."""
    is_local = name == "stdio_client"
    if not is_local and not _keeps_origin(module):
        return

    def make_wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        def connect(*args: Any, **kwargs: Any) -> Any:
            url = args[0] if args else kwargs.get("url")
            return _Connection(original(*args, **kwargs), (STDIO, 0) if is_local else _parse_server(url))

        return connect

    patches.wrap_method(module, name, make_wrapper)


def _keeps_origin(module: Any) -> bool:
    """Return whether a transport refuses redirects to other origins, to which it would send the same message."""
    return module.__name__.endswith("websocket") or any(name.endswith("_within_origin") for name in vars(module))


class _Connection:
    """The block of a connection, whose second stream leads to the server."""

    def __init__(self, block: Any, server: tuple[str, int] | None) -> None:
        self._block = block
        self._server = server

    async def __aenter__(self) -> Any:
        streams = await self._block.__aenter__()
        try:
            setattr(_inner(streams[1]), _SERVER, self._server)
        except Exception:
            errors.report_internal_error("mcp client")
        return streams

    async def __aexit__(self, *error: Any) -> Any:
        return await self._block.__aexit__(*error)
