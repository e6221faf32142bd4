"""Hooks for requests: ``Session.send``, and the methods of ``Response`` that read and close the body."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from byline.http.client_hooks import RedirectingClient, RunExchange, SentRequest, decode_headers, watch_chunks
from byline.http.llm_request import LLMRequest
from byline.http.patching import LLM_REQUEST, abandon_when_released
from byline.patching import Patches

#: requests follows a redirect by calling ``send`` again.
_client: Final = RedirectingClient("requests")


def patch_session(patches: Patches, module: Any) -> None:
    """Hook the sessions and the responses of requests."""
    patches.wrap_method(module.Session, "send", _wrap_send)
    patches.wrap_method(module.Response, "iter_content", _wrap_iter_content)
    patches.wrap_method(module.Response, "close", _wrap_close)


def _wrap_send(original: Callable[..., Any]) -> Callable[..., Any]:
    def send(self: Any, request: Any, **options: Any) -> Any:
        sent = _client.begin_request(
            request.method,
            request.url,
            lambda: request.headers,
            request.body,
            lambda outer: _remove_ids(request, outer),
        )
        if sent is None:
            return original(self, request, **options)

        def restore_request(response: Any) -> None:
            # The app may send any of them again, on behalf of another user.
            prepared = [request]
            if response is not None:
                prepared += [response.request, response.next, *(redirect.request for redirect in response.history)]
            for each in prepared:
                if each is not None:
                    _remove_ids(each, sent)

        with (
            RunExchange("requests", sent.llm_request, _read_response, restore_request) as exchange,
            _client.follow_redirects(sent),
        ):
            _add_ids(request, sent.llm_request)
            exchange.response = original(self, request, **options)
        return exchange.response

    return send


def _add_ids(request: Any, llm_request: LLMRequest) -> None:
    request.headers.update(llm_request.headers)
    if llm_request.body is not None:
        _set_body(request, llm_request.body, llm_request.body)


def _remove_ids(request: Any, sent: SentRequest) -> None:
    llm_request = sent.llm_request
    llm_request.restore_headers(request.headers)
    if llm_request.body is not None and request.body is llm_request.body:
        _set_body(request, sent.body, llm_request.content or b"")


def _set_body(request: Any, body: Any, content: bytes) -> None:
    request.body = body
    request.headers["Content-Length"] = str(len(content))


def _read_response(llm_request: LLMRequest, response: Any) -> None:
    llm_request.on_response(response.status_code, decode_headers(response.headers))
    # `stream` may be set on the call or on the session, and a hook may have read the body of a stream.
    if response._content_consumed:
        llm_request.end(response.content)
        return
    # iter_content() yields decompressed chunks.
    llm_request.buffer.disable_decompression()
    setattr(response, LLM_REQUEST, llm_request)
    abandon_when_released(response, llm_request)


def _wrap_iter_content(original: Callable[..., Any]) -> Callable[..., Any]:
    def iter_content(self: Any, *arguments: Any, **options: Any) -> Any:
        chunks = original(self, *arguments, **options)
        llm_request = self.__dict__.get(LLM_REQUEST)
        return chunks if llm_request is None else watch_chunks(chunks, llm_request)

    return iter_content


def _wrap_close(original: Callable[..., Any]) -> Callable[..., Any]:
    def close(self: Any) -> None:
        llm_request = self.__dict__.get(LLM_REQUEST)
        if llm_request is not None:
            llm_request.abandon()
        original(self)

    return close
