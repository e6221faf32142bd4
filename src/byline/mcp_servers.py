"""MCP servers: each message runs in the HTTP request that brought the message, not in the one that opened the session.

A stateful server of MCP's Python SDK 1.x handles all messages of a session in a task that the first request started, so
that calls of later callers would be attributed to the first one. Version 2 of the SDK keeps callers apart by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from opentelemetry import trace

from byline import errors, request_context
from byline.bound import NO_SPAN, Contexts, run_part
from byline.carrier import HEADER, find_signing
from byline.carry import carried
from byline.patching import Patches
from byline.request_context import CONTEXT_KEY, RequestContext

_patches: Final = Patches(
    "byline.E142: calls of tools of %s servers may be attributed to the first caller of a session, because this "
    "version cannot be hooked (%s); make the server stateless, e.g. FastMCP(stateless_http=True)"
)
_MODULE: Final = "mcp.server.lowlevel.server"


def install() -> None:
    """Hook the servers, now or when the SDK is imported."""
    _patches.patch_when_imported("MCP", _MODULE, _patch_server)


def uninstall() -> None:
    """Unhook the servers."""
    _patches.unwrap_all()


def _patch_server(patches: Patches, module: Any) -> None:
    # Version 2 has no such method.
    if hasattr(module.Server, "_handle_request"):
        patches.wrap_method(module.Server, "_handle_request", _wrap_handle_request)


def _wrap_handle_request(original: Callable[..., Any]) -> Callable[..., Any]:
    async def handle_request(self: Any, message: Any, *args: Any, **kwargs: Any) -> Any:
        with _context_of(message):
            return await original(self, message, *args, **kwargs)

    return handle_request


def _context_of(message: Any) -> AbstractContextManager[Any]:
    """Return the block of a message: its HTTP request, else what its own ``_meta`` says, else nothing.

    Any client can send a ``_meta``: over HTTP it counts only if it is signed, and over a websocket never, if the
    middleware has read the handshake.
    """
    headers: dict[str, Any] = {}
    try:
        request = getattr(message.message_metadata, "request_context", None)
        context = getattr(request, "scope", {}).get(CONTEXT_KEY)
        if isinstance(context, RequestContext):
            span = context.server_span
            return run_part(Contexts(context, NO_SPAN if span is None else trace.set_span_in_context(span, NO_SPAN)))
        attached = request_context.current_context()
        handshake = None if attached is None else attached.request()
        if request is None and handshake is not None and handshake.is_handshake():
            return nullcontext()
        meta = message.request_meta
        headers = {} if meta is None else meta.model_dump()
        if request is not None:
            signing = find_signing()
            if signing is None or not signing.keys:
                headers = {name: value for name, value in headers.items() if name.lower() != HEADER}
    except Exception:
        errors.report_internal_error("mcp")
    return carried(headers)
