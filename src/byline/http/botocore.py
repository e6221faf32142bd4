"""Hooks for botocore, on which Amazon's SDK for Bedrock is built: ``URLLib3Session.send``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from byline.http.client_hooks import RunExchange, begin_request, decode_headers
from byline.http.llm_request import LLMRequest
from byline.http.urllib3 import watch_body
from byline.patching import Patches


def patch_session(patches: Patches, module: Any) -> None:
    """Hook the session of ``botocore.httpsession``."""
    patches.wrap_method(module.URLLib3Session, "send", _wrap_send)


def _wrap_send(original: Callable[..., Any]) -> Callable[..., Any]:
    def send(self: Any, request: Any) -> Any:
        sent = begin_request(request.method, request.url, lambda: request.headers, request.body)
        if sent is None:
            return original(self, request)

        def read_response(llm_request: LLMRequest, response: Any) -> None:
            llm_request.on_response(response.status_code, decode_headers(response.headers))
            if request.stream_output:
                watch_body(response.raw, llm_request)
            else:
                llm_request.end(response.content)

        # No ids are added, because the signature of the request covers headers and body.
        with RunExchange("botocore", sent.llm_request, read_response) as exchange:
            exchange.response = original(self, request)
        return exchange.response

    return send
