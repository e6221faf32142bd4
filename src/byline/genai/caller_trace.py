"""The trace of a caller that a request must not join: hidden from instrumentations, kept as a link."""

from __future__ import annotations

import re
from collections.abc import Iterable, MutableMapping
from typing import Any, Final, NamedTuple

from opentelemetry import propagate, trace
from opentelemetry.context import Context

from byline import errors

#: The key of an ASGI scope whose trace headers are hidden.
KEY: Final = "byline.caller_trace"
#: W3C's headers, and those of the configured propagators.
_W3C: Final = ("traceparent", "tracestate", "baggage")
#: A well-formed list of usual members.
_TRACE_STATE: Final = re.compile(r"(?:(?:^|,)[a-z][a-z0-9_*/-]{0,99}=[!-+\--<>-~]{1,256})+\Z")


class HiddenTrace(NamedTuple):
    """The trace headers of a request.

    Attributes:
        headers: The value of the scope, or the entries of the environ, that were there before.
        caller: The span of the caller.
    """

    headers: Any
    caller: trace.SpanContext

    def link_from(self, span: trace.Span) -> None:
        """Link the server span to the caller's span, unless the span is in the caller's trace already."""
        own = span.get_span_context()
        if self.caller.is_valid and span.is_recording() and own.trace_id != self.caller.trace_id:
            span.add_link(self.caller)


def hide_in_scope(scope: MutableMapping[str, Any]) -> HiddenTrace:
    """Remove the trace headers from an ASGI scope."""
    headers = scope.get("headers") or []
    if not isinstance(headers, list | tuple):
        # The specification allows any iterable, which may be one that can be read once.
        headers = list(headers)
    hidden = {name.encode() for name in header_names()}
    found = {name.lower().decode("latin-1"): value for name, value in headers if name.lower() in hidden}
    scope["headers"] = [header for header in headers if header[0].lower() not in hidden]
    return HiddenTrace(headers, _extract({name: value.decode("latin-1") for name, value in found.items()}))


def hide_in_environ(environ: MutableMapping[str, Any]) -> HiddenTrace:
    """Remove the trace headers from a WSGI environ."""
    keys = {f"HTTP_{name.upper().replace('-', '_')}": name for name in header_names()}
    entries = {key: environ.pop(key) for key in keys.keys() & environ.keys()}
    return HiddenTrace(entries, _extract({keys[key]: str(value) for key, value in entries.items()}))


def header_names() -> Iterable[str]:
    """Return the names of the headers that carry a trace."""
    return {*_W3C, *(name.lower() for name in propagate.get_global_textmap().fields)}


def _extract(carrier: dict[str, str]) -> trace.SpanContext:
    # OpenTelemetry would log the members that are malformed, with their values.
    carrier.pop("baggage", None)
    if not _TRACE_STATE.match(carrier.get("tracestate", "")):
        carrier.pop("tracestate", None)
    if not carrier:
        return trace.INVALID_SPAN_CONTEXT
    try:
        return trace.get_current_span(propagate.extract(carrier, context=Context())).get_span_context()
    except Exception:
        errors.report_internal_error("server span")
        return trace.INVALID_SPAN_CONTEXT
