"""MCP servers: each message runs in the HTTP request that brought the message, not in the one that opened the session.

A stateful server of MCP's Python SDK 1.x handles all messages of a session in a task that the first request started, so
that calls of later callers would be attributed to the first one. Version 2 of the SDK keeps callers apart by itself.

Without an HTTP request that byline's middleware has seen, the ``_meta`` of the message names its caller. The middleware
reads the ``_meta`` of its requests itself (`byline.inbound.claim_names`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from opentelemetry import trace

from byline import carrier, errors, request_context
from byline.attribution import EMPTY, Attribution, merge
from byline.bound import NO_SPAN, Contexts, run_part
from byline.carrier import HEADER, find_signing
from byline.carry import carried
from byline.genai import caller_trace
from byline.inbound.claim_set import ClaimSet
from byline.inbound.reader import ClaimReader
from byline.mcp_clients import SENDER
from byline.patching import Patches
from byline.request_context import CONTEXT_KEY, RequestContext
from byline.settings import SettingError

_patches: Final = Patches(
    "byline.E142: calls of tools of %s servers may be attributed to the first caller of a session, because this "
    "version cannot be hooked (%s); make the server stateless, e.g. FastMCP(stateless_http=True)"
)
_BAGGAGE: Final = "baggage"


def install() -> None:
    """Hook the servers, now or when the SDK is imported."""
    _patches.patch_when_imported("MCP", "mcp.server.lowlevel.server", _patch_server)
    _patches.patch_when_imported("MCP", "mcp.server.runner", _patch_runner)
    _patches.patch_when_imported("MCP", "mcp.shared.message", _patch_metadata)


def uninstall() -> None:
    """Unhook the servers."""
    _patches.unwrap_all()


def _patch_server(patches: Patches, module: Any) -> None:
    # Version 2 has no such method.
    if hasattr(module.Server, "_handle_request"):
        patches.wrap_method(module.Server, "_handle_request", _wrap_handle_request)


def _wrap_handle_request(original: Callable[..., Any]) -> Callable[..., Any]:
    async def handle_request(self: Any, message: Any, *args: Any, **kwargs: Any) -> Any:
        with _context_of(message.message_metadata, lambda: message.request_meta):
            return await original(self, message, *args, **kwargs)

    return handle_request


def _patch_metadata(patches: Patches, module: Any) -> None:
    """Note the request context of a message: over SSE, the HTTP request ends before its message is handled."""

    def make_wrapper(original: Callable[..., None]) -> Callable[..., None]:
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            try:
                context = getattr(self.request_context, "scope", {}).get(CONTEXT_KEY)
                if isinstance(context, RequestContext):
                    span = context.server_span
                    otel = NO_SPAN if span is None else trace.set_span_in_context(span, NO_SPAN)
                    setattr(self, SENDER, Contexts(context, otel))
            except Exception:
                errors.report_internal_error("mcp")

        return init

    patches.wrap_method(module.ServerMessageMetadata, "__init__", make_wrapper)


def _patch_runner(patches: Patches, module: Any) -> None:
    """Hook version 2."""
    patches.wrap_method(module.ServerRunner, "_on_request", _wrap_on_request)


def _wrap_on_request(original: Callable[..., Any]) -> Callable[..., Any]:
    async def on_request(self: Any, dispatch: Any, method: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        meta = params.get("_meta") if isinstance(params, Mapping) else None
        block: AbstractContextManager[Any] = nullcontext()
        # The context is that of the sender already, and only `_meta` may say more.
        if isinstance(meta, Mapping):
            if HEADER in meta or _BAGGAGE in meta:
                block = _context_of(getattr(dispatch, "message_metadata", None), lambda: meta)
            context = request_context.current_context()
            if context is not None and context.root().is_isolated:
                # The SDK would continue the trace that a stranger names.
                hidden = caller_trace.header_names()
                params = {**params, "_meta": {name: value for name, value in meta.items() if name not in hidden}}
        with block:
            return await original(self, dispatch, method, params, *args, **kwargs)

    return on_request


def _context_of(metadata: Any, read_meta: Callable[[], Any]) -> AbstractContextManager[Any]:
    """Return the block of a message: its HTTP request, its caller in this process, or its own ``_meta``.

    Any client can send a ``_meta``: over HTTP it counts only if it is signed, and over a websocket never, if the
    middleware has read the handshake.
    """
    try:
        sender = getattr(metadata, SENDER, None)
        if sender is not None:
            return run_part(sender)
        request = getattr(metadata, "request_context", None)
        attached = request_context.current_context()
        handshake = None if attached is None else attached.request()
        if request is None and handshake is not None and handshake.is_handshake():
            return nullcontext()
        return _Message(_texts(read_meta()), is_local=request is None)
    except Exception:
        errors.report_internal_error("mcp")
        return carried({})


def _texts(meta: Any) -> dict[str, str]:
    """Return the members of a ``_meta`` that are texts, names in lower case."""
    if meta is None:
        return {}
    members = meta if isinstance(meta, Mapping) else meta.model_dump()
    return {str(name).lower(): value for name, value in members.items() if isinstance(value, str)}


class _Message(carried):
    """The block of a message whose ``_meta`` alone names the caller."""

    def __init__(self, meta: dict[str, str], *, is_local: bool) -> None:
        if not is_local:
            meta = {name: value for name, value in meta.items() if name != HEADER or _is_verified(value)}
        super().__init__(meta)
        # A server on stdio has a client that started it, and that sends it the trace alone.
        self._needs_signed_trace = not is_local
        self._baggage = meta.get(_BAGGAGE) if is_local else None

    def _new_contexts(self) -> Contexts:
        contexts = super()._new_contexts()
        if self._baggage is not None and not contexts.request.attribution():
            contexts.request.accept(_claims_in(self._baggage))
        return contexts


def _is_verified(value: str) -> bool:
    """Return whether an own service has signed a value lately, and this process sees it for the first time."""
    signing = find_signing()
    if signing is None or not signing.keys:
        carrier.drop("unsigned")
        return False
    found = carrier.decode(value, signing, signing.http_max_age)
    if found.fields is not None and not carrier.seen.is_first(value, signing.http_max_age):
        carrier.drop("replayed")
        return False
    return found.fields is not None


def _claims_in(baggage: str) -> Attribution:
    """Return the claims in W3C baggage as far as the settings of the environment trust them; none in public mode."""
    try:
        policy = ClaimReader().policy
    except SettingError as error:
        errors.error_once("mcp claims", "%s No claim of an MCP message is accepted until then", error)
        return EMPTY
    if policy.public:
        return EMPTY
    claims = ClaimSet([])
    claims.add_baggage_claims([baggage])
    policy.apply((claims,), None, None, {})
    return merge([claims])
