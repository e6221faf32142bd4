"""botocore, on which Amazon's SDK for Bedrock rests: ``URLLib3Session.send``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from byline import errors
from byline.http import call_config, patching
from byline.http import llm_request as calls
from byline.http.llm_request import LLMRequest
from byline.http.urllib3 import tee


def patch(module: Any) -> None:
    """Hook the session of ``botocore.httpsession``."""
    patching.wrap_method(module.URLLib3Session, "send", _send)


def _send(original: Callable[..., Any]) -> Callable[..., Any]:
    def send(self: Any, request: Any) -> Any:
        if call_config.current is None or request.method != "POST":
            return original(self, request)
        try:
            parts = urlsplit(request.url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            return original(self, request)
        body = request.body
        # Its requests are signed, so that nothing can be written on them.
        call = calls.begin_llm_request(
            parts.hostname or "",
            port,
            parts.path,
            lambda: {name.lower(): _text(value) for name, value in request.headers.items()},
            lambda: body.encode() if isinstance(body, str) else bytes(body) if isinstance(body, _BYTES) else None,
        )
        if call is None:
            return original(self, request)
        with call.activate():
            response = original(self, request)
        _answered(call, request, response)
        return response

    return send


_BYTES = (bytes, bytearray)


def _answered(call: LLMRequest, request: Any, response: Any) -> None:
    try:
        call.on_response(response.status_code, {name.lower(): value for name, value in response.headers.items()})
        if request.stream_output:
            tee(response.raw, call)
        else:
            call.end(response.content)
    except Exception:
        call.end()
        errors.report_internal_error("botocore")


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
