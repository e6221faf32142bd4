"""httpx and httpx2: ``Client.send`` and ``AsyncClient.send``, which see every transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from byline import errors
from byline.http import call_config, patching
from byline.http import llm_request as calls
from byline.http.httpx_streams import make_stream_classes
from byline.http.llm_request import LLMRequest

_EXTENSION: Final = "byline.call"
_REDIRECT: Final = "_build_redirect_request"


def patch(module: Any) -> None:
    """Hook the clients of one of the two modules."""
    tee, async_tee = make_stream_classes(module)
    patching.wrap_method(module.Client, "send", lambda original: _send(original, module, tee))
    patching.wrap_method(module.AsyncClient, "send", lambda original: _send_async(original, module, async_tee))
    owners = {*module.Client.__mro__, *module.AsyncClient.__mro__}
    # Without it ids would be led to other hosts: a client that has it nowhere is left alone.
    for owner in [each for each in owners if _REDIRECT in vars(each)] or [module.Client]:
        patching.wrap_method(owner, _REDIRECT, _redirect)


def _begin(request: Any, module: Any) -> LLMRequest | None:
    if call_config.current is None or request.method != "POST":
        return None
    url = request.url
    path = url.raw_path.partition(b"?")[0].decode("ascii", "replace")
    port = url.port or (443 if url.scheme == "https" else 80)
    call = calls.begin_llm_request(url.host, port, path, lambda: _headers(request), lambda: _content(request))
    if call is None:
        return None
    if call.headers or call.body is not None:
        written = _Written(call, url.host, port, request.stream)
        request.extensions = {**request.extensions, _EXTENSION: written}
        request.headers.update(call.headers)
        if call.body is not None:
            written.stream = module.ByteStream(call.body)
            _set_body(request, written.stream, call.body)
    return call


class _Written:
    """What was written on a request, so that it can be taken back."""

    def __init__(self, call: LLMRequest, host: str, port: int, own: Any) -> None:
        self.call = call
        self.host = host
        self.port = port
        self.own = own
        self.stream: Any = None

    def take_back(self, request: Any) -> None:
        """Leave what the app, its hooks and its authentication have set since."""
        request.extensions = {name: value for name, value in request.extensions.items() if name != _EXTENSION}
        self.call.restore_headers(request.headers)
        if self.stream is not None and request.stream is self.stream:
            _set_body(request, self.own, self.call.content)


def _set_body(request: Any, stream: Any, content: bytes | None) -> None:
    request.stream = stream
    # Transports of others send what `Request.content` gives.
    if hasattr(request, "_content"):
        request._content = content
    if content is not None and "content-length" in request.headers:
        request.headers["content-length"] = str(len(content))


def _restore(request: Any, response: Any = None) -> None:
    """Give the app its requests back as they were, for it may send them again on behalf of somebody else."""
    try:
        requests = [request]
        if response is not None:
            requests += [response.request, response.next_request, *(hop.request for hop in response.history)]
        for each in requests:
            written = None if each is None else each.extensions.get(_EXTENSION)
            if written is not None:
                written.take_back(each)
    except Exception:
        errors.report_internal_error("httpx")


def _headers(request: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in request.headers.items()}


def _content(request: Any) -> bytes | None:
    # A body that is produced while it is sent is not there to be read.
    content = getattr(request, "_content", None)
    return content if isinstance(content, bytes) else None


def _send(original: Callable[..., Any], module: Any, tee: Callable[[Any, LLMRequest], Any]) -> Callable[..., Any]:
    def send(self: Any, request: Any, **options: Any) -> Any:
        call = _begin(request, module)
        if call is None:
            return original(self, request, **options)
        response = None
        try:
            with call.activate():
                response = original(self, request, **options)
        finally:
            _restore(request, response)
        _answered(call, response, tee if options.get("stream") else None)
        return response

    return send


def _send_async(original: Callable[..., Any], module: Any, tee: Callable[[Any, LLMRequest], Any]) -> Callable[..., Any]:
    async def send(self: Any, request: Any, **options: Any) -> Any:
        call = _begin(request, module)
        if call is None:
            return await original(self, request, **options)
        response = None
        try:
            with call.activate():
                response = await original(self, request, **options)
        finally:
            _restore(request, response)
        _answered(call, response, tee if options.get("stream") else None)
        return response

    return send


def _answered(call: LLMRequest, response: Any, tee: Callable[[Any, LLMRequest], Any] | None) -> None:
    try:
        call.on_response(response.status_code, {name.lower(): value for name, value in response.headers.items()})
        if tee is None or response.is_stream_consumed:
            call.end(response.content)
        else:
            response.stream = tee(response.stream, call)
    except Exception:
        call.end()
        errors.report_internal_error("httpx")


def _redirect(original: Callable[..., Any]) -> Callable[..., Any]:
    """Take back what was written for a gateway when a redirect leads to another origin."""

    def build(self: Any, request: Any, response: Any) -> Any:
        following = original(self, request, response)
        try:
            written = request.extensions.get(_EXTENSION)
            if written is not None:
                url = following.url
                port = url.port or (443 if url.scheme == "https" else 80)
                if (url.host, port) != (written.host, written.port):
                    written.take_back(following)
        except Exception:
            errors.report_internal_error("redirect")
        return following

    return build
