"""Hooks for urllib3: ``PoolManager.urlopen``, which requests and botocore do not use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from byline.http.client_hooks import RedirectingClient, RunExchange, SentRequest, decode_headers, watch_chunks
from byline.http.llm_request import LLMRequest
from byline.http.patching import LLM_REQUEST, watch_response
from byline.patching import Patches

#: The pool manager follows a redirect by calling ``urlopen`` again.
_client: Final = RedirectingClient("urllib3")


def patch_pool_manager(patches: Patches, module: Any) -> None:
    """Hook the pool manager."""
    patches.wrap_method(module.PoolManager, "urlopen", _wrap_urlopen)


def _wrap_urlopen(original: Callable[..., Any]) -> Callable[..., Any]:
    def urlopen(self: Any, method: str, url: str, redirect: bool = True, **options: Any) -> Any:
        app_headers = options.get("headers", self.headers)
        sent = _client.begin_request(
            method.upper(), url, lambda: app_headers, options.get("body"), lambda outer: _remove_ids(options, outer)
        )
        if sent is None:
            return original(self, method, url, redirect, **options)
        llm_request = sent.llm_request
        if llm_request.headers:
            options["headers"] = copy_headers(app_headers)
            options["headers"].update(llm_request.headers)
        if llm_request.body is not None:
            options["body"] = llm_request.body

        def read_response(llm_request: LLMRequest, response: Any) -> None:
            llm_request.on_response(response.status, decode_headers(response.headers))
            if options.get("preload_content", True):
                llm_request.end(response.data)
                return
            if options.get("decode_content") is not False:
                llm_request.buffer.disable_decompression()
            watch_body(response, llm_request)

        with RunExchange("urllib3", llm_request, read_response) as exchange, _client.follow_redirects(sent):
            exchange.response = original(self, method, url, redirect, **options)
        return exchange.response

    return urlopen


def copy_headers(headers: Any) -> Any:
    """Return a copy of the same class, because urllib3's own can hold a name several times."""
    return headers.copy() if hasattr(headers, "copy") else dict(headers or {})


def _remove_ids(options: dict[str, Any], sent: SentRequest) -> None:
    llm_request = sent.llm_request
    if options.get("headers") is not None and llm_request.headers:
        options["headers"] = copy_headers(options["headers"])
        llm_request.restore_headers(options["headers"])
    if llm_request.body is not None and options.get("body") is llm_request.body:
        options["body"] = sent.body


def watch_body(response: Any, llm_request: LLMRequest) -> None:
    """Report the reads of a urllib3 response's body to the LLM request."""
    watch_response(response, llm_request, _make_watched_response)


def _make_watched_response(response_class: Any) -> type:
    class WatchedResponse(response_class):  # type: ignore[misc]
        # `stream` and all other methods read through these.
        def read(self, amt: int | None = None, *arguments: Any, **options: Any) -> Any:
            return _read_chunk(self, super().read, amt, *arguments, **options)

        def read1(self, amt: int | None = None, *arguments: Any, **options: Any) -> Any:
            return _read_chunk(self, super().read1, amt, *arguments, **options)

        def read_chunked(self, *arguments: Any, **options: Any) -> Iterator[Any]:
            return watch_chunks(super().read_chunked(*arguments, **options), getattr(self, LLM_REQUEST))

        def close(self) -> None:
            getattr(self, LLM_REQUEST).abandon()
            super().close()

    return WatchedResponse


def _read_chunk(response: Any, read: Callable[..., Any], amt: int | None, *arguments: Any, **options: Any) -> Any:
    llm_request: LLMRequest = getattr(response, LLM_REQUEST)
    llm_request.is_reading = True
    try:
        data = read(amt, *arguments, **options)
    except BaseException as error:
        llm_request.fail(error)
        raise
    llm_request.is_reading = False
    if data:
        llm_request.on_chunk(data)
    if amt is None or (not data and amt != 0) or response.isclosed():
        llm_request.end()
    return data
