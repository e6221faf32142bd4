"""Messages about exports: the cause and remedy of a failed request, and the output of ``BYLINE_DEBUG``."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from byline import errors, settings
from byline.secrets import scrub

#: Statuses by which a destination refuses every batch until a setting is corrected, with advice.
_MISCONFIGURED: Final[dict[int, str]] = {
    401: "check its keys, and that they belong to this server or region",
    403: "check that its keys may write, and that the account is not suspended",
    404: "check its URL, at which nothing accepts OTLP; Langfuse does since version 3.22",
    405: "check its URL, which is not an OTLP endpoint",
    407: "check the credentials of the proxy",
}
_PROTOCOL: Final = "check that it accepts OTLP over HTTP as protobuf, and its maximum request size"
_GRPC_PORT: Final = 4317
NO_ANSWER: Final = "no answer in time"
#: Also the reason if the server closed a connection that was kept open.
CLOSED: Final = "it closed the connection without a response"


class ConnectTimeoutError(TimeoutError):
    """No connection was made in time, so that nothing was sent."""


class ProxyError(OSError):
    """The proxy cannot be reached or opens no tunnel."""


class CertificateFileError(OSError):
    """A file that OpenTelemetry's variables name cannot be read."""


#: The first class that an error, or one of its causes, is an instance of: the reason, and the advice.
_REASONS: Final[tuple[tuple[type[BaseException], str, str], ...]] = (
    (
        CertificateFileError,
        "a certificate file cannot be read",
        "check ca_file and client_cert, or the files named by OTEL_EXPORTER_OTLP_CERTIFICATE and the other variables",
    ),
    (ProxyError, "the proxy cannot be reached", "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"),
    (ConnectTimeoutError, "it cannot be reached", "check its host and port, and the network in between"),
    (TimeoutError, NO_ANSWER, "it accepted the connection but sent no response: check its log"),
    (
        ssl.SSLCertVerificationError,
        "its TLS certificate cannot be verified",
        "check the host name, or pass ca_file or set OTEL_EXPORTER_OTLP_CERTIFICATE to your certificate authority",
    ),
    (ssl.SSLEOFError, CLOSED, "check its port and its log"),
    (ssl.SSLError, "it does not speak TLS", "check its port, or use http://"),
    (socket.gaierror, "no such host", "check the spelling of the host name, and this machine's DNS"),
    (ConnectionRefusedError, "connection refused", "check its port, and that it is running"),
    (ConnectionError, CLOSED, "check its port and its log"),
    (http.client.HTTPException, "it does not speak HTTP", "check its port, and that it accepts OTLP over HTTP"),
)
_ADVICE: Final = {reason: advice for _, reason, advice in _REASONS}
#: Reasons that no retry removes by itself.
_LASTING: Final = frozenset(
    reason
    for kind, reason, _ in _REASONS
    if issubclass(kind, (ssl.SSLError, CertificateFileError)) and reason != CLOSED
)
#: Reasons that concern the destination and not one batch, which was not even sent.
UNREACHABLE: Final = _LASTING | {
    reason
    for kind, reason, _ in _REASONS
    if issubclass(kind, (ProxyError, ConnectTimeoutError, socket.gaierror, ConnectionRefusedError))
}


#: Statuses by which a part of the batch may be accepted: too large, or one span is invalid.
_SPLITTABLE: Final = frozenset({400, 413})
#: Statuses after which a retry may succeed: those of OTLP, and every 5xx.
_RETRYABLE: Final = frozenset({408, 425, 429})


class Outcome(NamedTuple):
    """The result of one attempt to send a batch.

    Attributes:
        reason: Why the batch was not accepted; empty if it was.
        is_retryable: Whether a later attempt may succeed. Otherwise the batch itself, or a setting, is at fault.
        is_destination_wide: Whether every other batch would fare the same.
        is_misconfigured: Whether a setting has to be corrected before any batch is accepted.
        are_keys_refused: Whether that setting is the keys.
        is_splittable: Whether parts of the batch may be accepted.
        wait: Seconds that the server asks to wait.
        rejected: Spans of an accepted batch that the server rejected.
        advice: The remedy.
    """

    reason: str = ""
    is_retryable: bool = False
    is_destination_wide: bool = False
    is_misconfigured: bool = False
    are_keys_refused: bool = False
    is_splittable: bool = False
    wait: float | None = None
    rejected: int = 0
    advice: str = ""

    @property
    def is_accepted(self) -> bool:
        """Whether the destination took the batch."""
        return not self.reason


def judge_failure(
    name: str, url: str, *, status: int | None, reason: str, is_html_page: bool, wait: float | None
) -> Outcome:
    """Return the outcome of a response that accepted nothing, and log each reason once.

    Args:
        name: The destination's name.
        url: The URL of the batch's request.
        status: HTTP status, ``None`` without a response.
        reason: As `describe_error` returns it, if there was no response.
        is_html_page: Whether the response is a web page.
        wait: Seconds that the server asks to wait.
    """
    if status is None:
        advice = advice_for_error(reason, url)
    else:
        reason, advice = f"HTTP {status}", advice_for_status(status, page=is_html_page)
    if is_misconfiguration(status, reason, page=is_html_page):
        errors.error_once(
            f"refused.{name}.{reason}", "byline.E057: %s refuses all spans (%s): %s", name, reason, advice
        )
        # Without a status the fault is in TLS, which may be corrected on the server.
        return Outcome(
            reason,
            is_retryable=status is None,
            is_destination_wide=True,
            is_misconfigured=True,
            are_keys_refused=status in (401, 403),
            advice=advice,
        )
    if status is None or status in _RETRYABLE or status >= 500:
        errors.warn_once(
            f"unreachable.{name}",
            "byline.E059: %s accepts no spans at the moment (%s): %s. They are retried",
            name,
            reason,
            advice,
        )
        is_destination_wide = reason in UNREACHABLE or status == 429 or bool(wait)
        return Outcome(reason, is_retryable=True, is_destination_wide=is_destination_wide, wait=wait, advice=advice)
    errors.error_once(
        f"refused.{name}.{reason}",
        "byline.E058: %s refuses a batch of spans (%s); spans that it refuses on their own are dropped: %s",
        name,
        reason,
        advice,
    )
    return Outcome(reason, is_splittable=status in _SPLITTABLE, advice=advice)


def describe_error(error: BaseException) -> str:
    """Return why there was no response, without the error's own text, which may contain a URL or a key.

    Example:
        >>> describe_error(TimeoutError())
        'no answer in time'
    """
    causes = list(_list_causes(error))
    for kind, reason, _ in _REASONS:
        if any(isinstance(cause, kind) for cause in causes):
            return reason
    return type(error).__name__


def _list_causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]


def is_misconfiguration(status: int | None, reason: str, *, page: bool) -> bool:
    """Return whether a setting, here or on the server, has to be corrected before any span is accepted."""
    return reason in _LASTING if status is None else _misconfiguration_advice(status, page=page) is not None


def _misconfiguration_advice(status: int, *, page: bool) -> str | None:
    if page and 200 <= status < 300:
        return "check its URL, where a web page answers"
    if 300 <= status < 400:
        return "name the URL that it redirects to"
    return _MISCONFIGURED.get(status)


def advice_for_error(reason: str, url: str) -> str:
    """Return advice if there was no response.

    Args:
        reason: As `describe_error` returns it.
        url: The URL of the request.
    """
    with contextlib.suppress(ValueError):
        if urlsplit(url).port == _GRPC_PORT:
            return "4317 is the port of OTLP over gRPC; OTLP over HTTP has 4318, unless it was changed"
    return _ADVICE.get(reason, "check its address, and that this machine reaches it")


def advice_for_status(status: int, *, page: bool = False) -> str:
    """Return advice on a response that accepted nothing."""
    if status in (408, 425, 429) or status >= 500:
        return "the server has a problem: check its log, or try again later"
    return _misconfiguration_advice(status, page=page) or _PROTOCOL


def reason_key(reason: str) -> str:
    """Return a reason as part of a counter's name.

    Example:
        >>> reason_key("HTTP 503")
        'http_503'
    """
    return re.sub(r"[^a-z0-9]+", "_", reason.lower()).strip("_")


def one_line(text: object) -> str:
    r"""Return a text of a server for a terminal or a log: at most 100 printable characters.

    Example:
        >>> one_line("\x1b[31mOK\n")
        '[31mOK'
    """
    return "".join(character for character in str(text or "")[:100] if character.isprintable())


def debug_print(text: str) -> None:
    """Write a line to standard error, without credentials, if ``BYLINE_DEBUG`` is set."""
    with contextlib.suppress(Exception):
        if settings.find("debug").value:
            sys.stderr.write(f"byline: {scrub(text)}\n")
