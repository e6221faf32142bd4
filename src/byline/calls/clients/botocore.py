"""botocore, on which Amazon's SDK for Bedrock rests: ``URLLib3Session.send``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from byline import guard
from byline.calls import call as calls
from byline.calls import rules
from byline.calls.call import Call
from byline.calls.clients import patches
from byline.calls.clients.urllib3 import tee


def patch(module: Any) -> None:
    """Hook the session of ``botocore.httpsession``."""
    patches.replace(module.URLLib3Session, "send", _send)


def _send(original: Callable[..., Any]) -> Callable[..., Any]:
    def send(self: Any, request: Any) -> Any:
        if rules.in_force is None or request.method != "POST":
            return original(self, request)
        try:
            parts = urlsplit(request.url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            return original(self, request)
        body = request.body
        # Its requests are signed, so that nothing can be written on them.
        call = calls.begin(
            parts.hostname or "",
            port,
            parts.path,
            lambda: {name.lower(): _text(value) for name, value in request.headers.items()},
            lambda: body.encode() if isinstance(body, str) else bytes(body) if isinstance(body, _BYTES) else None,
        )
        if call is None:
            return original(self, request)
        with call.under_way():
            response = original(self, request)
        _answered(call, request, response)
        return response

    return send


_BYTES = (bytes, bytearray)


def _answered(call: Call, request: Any, response: Any) -> None:
    try:
        call.answered(response.status_code, {name.lower(): value for name, value in response.headers.items()})
        if request.stream_output:
            tee(response.raw, call)
        else:
            call.end(response.content)
    except Exception:
        call.end()
        guard.report("botocore")


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
