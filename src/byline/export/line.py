"""The line to a destination: one HTTP session, patient with what passes, plain about what does not."""

from __future__ import annotations

import contextlib
import math
import os
import random
import sys
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple

import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from requests.adapters import HTTPAdapter

from byline import counters, guard, settings
from byline.export import troubles
from byline.export.scrubbing import scrub

_TIMEOUT: Final = 10.0
#: Too large, or with something in it that displeases.
_DIVISIBLE: Final = frozenset({400, 413})
_MAX_WAIT: Final = 60.0
#: What an exporter may say of a batch by itself.
_OF_EXPORTERS: Final = frozenset({"accept", "accept-encoding", "content-encoding", "content-type", "user-agent"})
_MAX_BODY: Final = 64 * 1024
#: What a later try may mend: OTLP's own list, and whatever else a server says of itself.
_PASSING: Final = frozenset({408, 425, 429})


class Undelivered(Exception):  # noqa: N818 - it is an answer, not an error
    """A batch that was not taken.

    Attributes:
        passing: Whether a later try may succeed.
        hopeless: Whether it is the batch itself that is refused, and not all of them.
        divisible: Whether a part of it may be taken.
        wait: Seconds that the server asks to wait.
    """

    def __init__(
        self,
        reason: str,
        *,
        passing: bool,
        hopeless: bool = False,
        divisible: bool = False,
        wait: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.divisible = divisible
        self.passing = passing
        self.hopeless = hopeless
        self.wait = wait


class _Answer(NamedTuple):
    status: int | None
    reason: str
    response: requests.Response | None

    @property
    def is_page(self) -> bool:
        return self.response is not None and troubles.is_page(self.response)


class Line(requests.Session):
    """The session of one destination's exporter.

    Args:
        name: The destination's name, for counters and messages.
        patience: Seconds for which a batch is tried again where trying again may help.
        headers: Headers of each post, besides those that say what is in it. Whatever else exporters
            find in the environment is for another endpoint.
    """

    def __init__(self, name: str, *, patience: float = _TIMEOUT, headers: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._wanted = dict(headers or {})
        # Else requests would put in what stands in ~/.netrc for the host.
        self.auth = _no_auth
        self._name = name
        self._patience = patience
        self._deadline = math.inf
        self._hurried = threading.Event()
        #: How many posts were made, whether a part of the last batch may be taken although the whole was
        #: not, and how many of its spans were rejected though it was taken.
        self.posts = 0
        self.divisible = False
        self.rejected = 0
        #: What was answered last, and what to do about it where nothing was taken.
        self.told = ""
        self.advice = ""
        self.verify = authority()

    def hurry(self, seconds: float) -> None:
        """Try each batch once from now on, and none after so many seconds."""
        self._deadline = time.monotonic() + seconds
        self._hurried.set()

    def after_fork(self) -> None:
        """Leave the parent's connections to the parent."""
        self.adapters.clear()
        self.mount("https://", HTTPAdapter())
        self.mount("http://", HTTPAdapter())
        self._hurried = threading.Event()
        self._deadline = math.inf

    def request(self, method: Any, url: Any, *args: Any, **options: Any) -> requests.Response:
        """Send a batch until it is taken. Raises `Undelivered` where it is not."""
        # A redirect would carry credentials and content to wherever it points.
        options["allow_redirects"] = False
        # Some exporters say theirs once, on the session, others with each batch.
        for name in [name for name in self.headers if name.lower() not in _OF_EXPORTERS]:
            del self.headers[name]
        given = options.get("headers") or {}
        options["headers"] = {
            **{name: value for name, value in given.items() if name.lower() in _OF_EXPORTERS},
            **self._wanted,
        }
        # An answer is read here, and no more of it than there is use for.
        options["stream"] = True
        self.divisible = False
        self.rejected = 0
        until = time.monotonic() + self._patience
        attempt = 0
        while True:
            left = min(until + _TIMEOUT, self._deadline) - time.monotonic()
            if left <= 0:
                raise Undelivered("no time is left", passing=True)
            options["timeout"] = min(options.get("timeout") or _TIMEOUT, left)
            started = time.monotonic()
            answer = self._try(method, url, *args, **options)
            self.posts += 1
            counters.count(f"{self._name}.submissions")
            self.told = _told(answer)
            took = f"{time.monotonic() - started:.2f} s"
            say(f"{self._name}: {method} {url}, {len(options.get('data') or b'')} bytes: {self.told} in {took}")
            if answer.response is not None and 200 <= answer.response.status_code < 300 and not answer.is_page:
                self._note_rejected(answer.response)
                return answer.response
            self.advice = (
                troubles.advise(answer.reason, url)
                if answer.status is None
                else troubles.advise_on(answer.status, page=answer.is_page)
            )
            undelivered = self._judge(answer)
            counters.count(f"{self._name}.submissions.failed")
            self.divisible = undelivered.divisible
            if not undelivered.passing:
                raise undelivered
            # "At once" is no time to wait for a server that has just refused.
            wait = max(undelivered.wait or 0.0, backoff(attempt))
            if self._hurried.is_set() or time.monotonic() + wait >= min(until, self._deadline):
                raise undelivered
            self._hurried.wait(wait)
            attempt += 1

    def _try(self, *args: Any, **options: Any) -> _Answer:
        try:
            response = super().request(*args, **options)
            _read(response)
        except (requests.RequestException, OSError) as error:
            return _Answer(None, troubles.name(error), None)
        return _Answer(response.status_code, str(response.reason or ""), response)

    def _judge(self, answer: _Answer) -> Undelivered:
        status = answer.status
        if status is None or status in _PASSING or status >= 500:
            guard.warn_once(
                f"unreachable.{self._name}",
                "byline.E059: %s takes no spans at the moment (%s): %s. They are tried again",
                self._name,
                answer.reason if status is None else f"HTTP {status}",
                self.advice,
            )
            return Undelivered(_told(answer), passing=True, wait=_retry_after(answer.response))
        advice = troubles.of_settings(status, page=answer.is_page)
        if advice is not None:
            guard.error_once(
                f"refused.{self._name}.{status}",
                "byline.E057: %s refuses all spans (HTTP %d): %s",
                self._name,
                status,
                advice,
            )
            return Undelivered(_told(answer), passing=False)
        guard.error_once(
            f"refused.{self._name}.{status}",
            "byline.E058: %s refuses a batch of spans (HTTP %d), and it is dropped: "
            "check that it takes OTLP over HTTP as protobuf, and how large a request may be",
            self._name,
            status,
        )
        return Undelivered(_told(answer), passing=False, hopeless=True, divisible=status in _DIVISIBLE)

    def _note_rejected(self, response: requests.Response) -> None:
        # A destination may take a batch and reject some of its spans.
        if "protobuf" not in response.headers.get("content-type", "") or not 0 < len(response.content) < _MAX_BODY:
            return
        with contextlib.suppress(Exception):
            rejected = ExportTraceServiceResponse.FromString(response.content).partial_success.rejected_spans
            if rejected > 0:
                self.rejected = rejected
                counters.count(f"{self._name}.spans.dropped.rejected", rejected)


def authority() -> str | bool:
    """Return the file of the authorities that are trusted, ``True`` for those that are by default."""
    return (
        os.environ.get("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE")
        or os.environ.get("OTEL_EXPORTER_OTLP_CERTIFICATE")
        or True
    )


def _no_auth(request: Any) -> Any:
    return request


def _read(response: requests.Response) -> None:
    """Read the body, as far as there is use for it; one that comes by drips, or without an end, is left."""
    kept: list[bytes] = []
    until = time.monotonic() + _TIMEOUT
    for chunk in response.iter_content(8192):
        kept.append(chunk)
        if sum(map(len, kept)) > _MAX_BODY or time.monotonic() > until:
            response.close()
            break
    response._content = b"".join(kept)
    response._content_consumed = True  # type: ignore[attr-defined]


def backoff(attempt: int) -> float:
    """Return how many seconds to wait before the next try: longer each time, and never for all at once."""
    return float(min(2**attempt, _MAX_WAIT) * random.uniform(0.7, 1.3))  # noqa: S311 - no secret


def say(text: str) -> None:
    """Say on standard error what is sent where, if ``BYLINE_DEBUG`` is set."""
    with contextlib.suppress(Exception):
        if settings.find("debug").value:
            sys.stderr.write(f"byline: {scrub(text)}\n")


def _told(answer: _Answer) -> str:
    if answer.status is None:
        return answer.reason
    return f"HTTP {answer.status} {answer.reason}".rstrip() + (", a web page" if answer.is_page else "")


def _retry_after(response: requests.Response | None) -> float | None:
    value = None if response is None else response.headers.get("retry-after")
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return min(max(seconds, 0.0), 3600.0) if math.isfinite(seconds) else None
