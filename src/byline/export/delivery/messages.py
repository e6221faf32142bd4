"""Says in plain words what came of a post, and what to do about it."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import requests

#: What the settings have to mend before any span is taken.
_SETTINGS: Final[dict[int, str]] = {
    401: "check its keys, and that they are of this server or region",
    403: "check that its keys may write, and that the account is not suspended",
    404: "check its URL, where nothing takes OTLP; Langfuse does from version 3.22 on",
    405: "check its URL, which is no OTLP endpoint",
    407: "check the credentials of the proxy",
}
_PROTOCOL: Final = "check that it takes OTLP over HTTP as protobuf, and how large a request may be"
_GRPC_PORT: Final = 4317
NO_ANSWER: Final = "no answer in time"
#: Also of a connection that was kept for long.
CLOSED: Final = "it closed the connection without an answer"
_NO_FILE: Final = "a certificate's file cannot be read"
#: The first that is found in an error, or in what led to it, says it best; and what to do about it.
_WORDS: Final[tuple[tuple[type[BaseException], str, str], ...]] = (
    (requests.ReadTimeout, NO_ANSWER, "it has taken the connection and is silent: look at its log"),
    (requests.ConnectTimeout, "it cannot be reached", "check its host and port, and what stands in between"),
    (requests.exceptions.ProxyError, "the proxy cannot be reached", "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"),
    (
        ssl.SSLCertVerificationError,
        "its TLS certificate cannot be verified",
        "check its name, or name your own authority's file in OTEL_EXPORTER_OTLP_CERTIFICATE",
    ),
    (ssl.SSLError, "it does not speak TLS", "check its port, or whether it wants http://"),
    (socket.gaierror, "no such host", "check how its name is written, and that this machine knows it"),
    (ConnectionRefusedError, "connection refused", "check its port, and that it is running"),
    (ConnectionError, CLOSED, "check its port, and look at its log"),
)
_ADVICE: Final = {
    **{words: advice for _, words, advice in _WORDS},
    _NO_FILE: "check the files that OTEL_EXPORTER_OTLP_CERTIFICATE and its like name",
}
#: What no later try mends by itself.
_LASTING: Final = frozenset({_NO_FILE, *(words for kind, words, _ in _WORDS if issubclass(kind, ssl.SSLError))})


def describe_error(error: BaseException) -> str:
    """Say why there was no answer, without what the error itself says: that may have a URL in it.

    Example:
        >>> describe_error(requests.ReadTimeout())
        'no answer in time'
    """
    causes = list(_causes(error))
    for kind, words, _ in _WORDS:
        if any(isinstance(cause, kind) for cause in causes):
            return words
    # As requests says it.
    return _NO_FILE if type(error) is OSError else type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            # urllib3 keeps what led to an error as its reason, requests as an argument.
            waiting += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]


def is_html_page(response: requests.Response) -> bool:
    """Whether a web page came back: no OTLP endpoint answers with one, whatever the status says."""
    return "html" in response.headers.get("content-type", "") and response.content.lstrip().startswith(b"<")


def is_misconfiguration(status: int | None, reason: str, *, page: bool) -> bool:
    """Whether the settings, or the server's own, have to be mended before any span is taken."""
    return reason in _LASTING if status is None else _of_settings(status, page=page) is not None


def _of_settings(status: int, *, page: bool) -> str | None:
    if page and 200 <= status < 300:
        return "check its URL, where a web page answers"
    if 300 <= status < 400:
        return "name the URL that it redirects to"
    return _SETTINGS.get(status)


def advice_for_error(reason: str, url: str) -> str:
    """Say what to do where nothing was answered.

    Args:
        reason: As `describe_error` has said it.
        url: Where it was sent.
    """
    with contextlib.suppress(ValueError):
        if urlsplit(url).port == _GRPC_PORT:
            return "4317 is the port of OTLP over gRPC; OTLP over HTTP has 4318, unless it was changed"
    return _ADVICE.get(reason, "check its address, and that this machine reaches it")


def advice_for_status(status: int, *, page: bool = False) -> str:
    """Say what to do about an answer by which nothing was taken."""
    if status in (408, 425, 429) or status >= 500:
        return "the server has trouble of its own: look at its log, or try again later"
    return _of_settings(status, page=page) or _PROTOCOL
