"""Steps that the hooks of all HTTP clients share: begin an LLM request, send the request, read the response."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from byline import errors
from byline.apis import find_api
from byline.http.call_config import configs
from byline.http.llm_request import LLMRequest, begin_llm_request
from byline.urls import AMBIGUOUS, split_url


class SentRequest(NamedTuple):
    """An LLM request, with the origin and the body of the app's own request."""

    llm_request: LLMRequest
    host: str
    port: int
    body: Any


class Exchange:
    """The response of an LLM request, set by the hook when the client returns."""

    response: Any = None


class RunExchange(Exchange):
    """Runs a client's own send method while the LLM request is in flight; an exception ends the LLM request.

    Args:
        client: Name of the client, for error reports.
        llm_request: The LLM request that is sent.
        read_response: Reads status and headers, then ends the LLM request or watches the body.
        restore_request: Takes ids off the app's request again, called with the response or ``None``.
    """

    def __init__(
        self,
        client: str,
        llm_request: LLMRequest,
        read_response: Callable[[LLMRequest, Any], None],
        restore_request: Callable[[Any], None] | None = None,
    ) -> None:
        self._client = client
        self._llm_request = llm_request
        self._read_response = read_response
        self._restore_request = restore_request

    def __enter__(self) -> RunExchange:
        self._in_flight = self._llm_request.begin_sending()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        llm_request, response = self._llm_request, self.response
        self._in_flight.end()
        if error is not None:
            llm_request.fail(error)
        if self._restore_request is not None:
            try:
                self._restore_request(response)
            except Exception:
                errors.report_internal_error(self._client)
        if error is None:
            try:
                self._read_response(llm_request, response)
            except Exception:
                llm_request.end()
                errors.report_internal_error(self._client)


def begin_request(method: Any, url: Any, headers: Callable[[], Any], body: Any) -> SentRequest | None:
    """Begin an LLM request if a request with a text URL is one."""
    if not configs.active or (method != "POST" and (method != "GET" or not may_be_retrieval(str(url)))):
        return None
    origin = parse_url(url)
    if origin is None:
        return None
    host, port, path = origin
    api = find_api(method, path)
    if api is None:
        return None
    llm_request = begin_llm_request(
        api, host, port, path, lambda: decode_headers(headers()), lambda: encode_body(body), method
    )
    return None if llm_request is None else SentRequest(llm_request, host, port, body)


def may_be_retrieval(path: str) -> bool:
    """Return whether a GET may ask for a response that a model has made before; this runs for every GET of the app."""
    return "/responses/" in path or "/predictions/" in path


class RedirectingClient:
    """Begins the LLM requests of a client that follows redirects by calling the hooked method again.

    Args:
        client: Name of the client.
    """

    def __init__(self, client: str) -> None:
        self._sent: ContextVar[SentRequest | None] = ContextVar(f"byline_{client}_request", default=None)

    def begin_request(
        self, method: Any, url: Any, headers: Callable[[], Any], body: Any, remove_ids: Callable[[SentRequest], None]
    ) -> SentRequest | None:
        """Begin an LLM request, or call ``remove_ids`` if this is a redirect of one to another origin."""
        sent = self._sent.get()
        if sent is None:
            return begin_request(method, url, headers, body)
        # Redirects of any method: the GET that follows a 303 keeps the headers of the POST. Of a URL without a clear
        # origin the client may read another host.
        origin = parse_url(url)
        if origin is None or origin[:2] != (sent.host, sent.port):
            remove_ids(sent)
        return None

    @contextmanager
    def follow_redirects(self, sent: SentRequest) -> Iterator[None]:
        """Treat calls of the hooked method as redirects of this request."""
        token = self._sent.set(sent)
        try:
            yield
        finally:
            self._sent.reset(token)


def watch_chunks(chunks: Iterable[Any], llm_request: LLMRequest) -> Iterator[Any]:
    """Yield the chunks of a body and report each to the LLM request first."""
    iterator = iter(chunks)
    try:
        while True:
            llm_request.is_reading = True
            chunk = next(iterator, None)
            llm_request.is_reading = False
            if chunk is None:
                break
            llm_request.on_chunk(chunk if isinstance(chunk, bytes) else str(chunk).encode())
            yield chunk
    except BaseException as error:
        llm_request.fail(error)
        raise
    llm_request.end()


def decode_headers(headers: Mapping[Any, Any] | None) -> dict[str, str]:
    """Return headers as text, names in lower case."""
    return {_decode_text(name).lower(): _decode_text(value) for name, value in (headers or {}).items()}


def encode_body(body: Any) -> bytes | None:
    """Return a request body as bytes, ``None`` if the client produces the body while sending."""
    if isinstance(body, str):
        return body.encode()
    return bytes(body) if isinstance(body, bytes | bytearray) else None


def default_port(scheme: str) -> int:
    """Return the port of a URL that states none."""
    return 443 if scheme == "https" else 80


def _decode_text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def parse_url(url: Any) -> tuple[str, int, str] | None:
    """Return host, port and path of a URL; ``None`` if it is no valid text."""
    # The client raises an error for an invalid URL, and may connect to another host than byline would read.
    if not isinstance(url, str) or AMBIGUOUS.search(url) is not None:
        return None
    try:
        parts = split_url(url) if "[" in url else urlsplit(url)
        return None if parts is None else (parts.hostname or "", parts.port or default_port(parts.scheme), parts.path)
    except ValueError:
        return None
