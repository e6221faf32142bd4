"""The line to a destination: one HTTP session, patient with what passes, plain about what does not."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter

from byline import errors, internal_metrics
from byline.export.debug import debug_print
from byline.export.delivery import messages, tls
from byline.export.delivery.response import ExportResponse

_TIMEOUT: Final = 10.0
#: Too large, or with something in it that displeases.
_DIVISIBLE: Final = frozenset({400, 413})
_MAX_WAIT: Final = 60.0
#: What an exporter may say of a batch by itself.
_OF_EXPORTERS: Final = frozenset({"accept", "accept-encoding", "content-encoding", "content-type", "user-agent"})
#: What a later try may mend: OTLP's own list, and whatever else a server says of itself.
_PASSING: Final = frozenset({408, 425, 429})


class ExportError(Exception):
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


class OTLPHttpSession(requests.Session):
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
        self._keeps = False
        #: How many posts were made, whether a part of the last batch may be taken although the whole was
        #: not, and how many of its spans were rejected though it was taken.
        self.posts = 0
        self.divisible = False
        self.rejected = 0
        #: What was answered last, and what to do about it where nothing was taken.
        self.told = ""
        self.advice = ""
        self.verify = tls.ca_file()
        self.cert = tls.client_cert()

    def hurry(self, seconds: float) -> None:
        """Try each batch once from now on, and none after so many seconds."""
        self._deadline = min(self._deadline, time.monotonic() + seconds)
        self._hurried.set()

    @property
    def left(self) -> float:
        """How many seconds are left to send anything."""
        return max(self._deadline - time.monotonic(), 0.0)

    def after_fork(self) -> None:
        """Leave the parent's connections to the parent."""
        self.adapters.clear()
        self.mount("https://", HTTPAdapter())
        self.mount("http://", HTTPAdapter())
        self._hurried = threading.Event()
        self._deadline = math.inf
        self._keeps = False

    def request(self, method: Any, url: Any, *args: Any, **options: Any) -> requests.Response:
        """Send a batch until it is taken. Raises `ExportError` where it is not."""
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
        # Else a bundle for everything in the environment would go before the one for this endpoint.
        options["verify"] = self.verify
        self.divisible = False
        self.rejected = 0
        until = time.monotonic() + self._patience
        attempt = 0
        while True:
            left = min(until + _TIMEOUT, self._deadline) - time.monotonic()
            if left <= 0:
                raise ExportError("no time is left", passing=True)
            options["timeout"] = min(options.get("timeout") or _TIMEOUT, left)
            started = time.monotonic()
            answer = self._try(method, url, *args, **options)
            self.posts += 1
            internal_metrics.increment(f"{self._name}.submissions")
            self.told = str(answer)
            took = f"{time.monotonic() - started:.2f} s"
            debug_print(f"{self._name}: {method} {url}, {len(options.get('data') or b'')} bytes: {self.told} in {took}")
            if answer.response is not None and answer.is_taken:
                self._keeps = True
                self.rejected = answer.rejected
                if self.rejected:
                    internal_metrics.increment(f"{self._name}.spans.dropped.rejected", self.rejected)
                return answer.response
            self.advice = (
                messages.advice_for_error(answer.reason, url)
                if answer.status is None
                else messages.advice_for_status(answer.status, page=answer.is_page)
            )
            # A connection that was kept may be gone, and that is known by using it alone.
            kept, self._keeps = self._keeps, answer.status is not None
            if kept and answer.reason == messages.CLOSED:
                internal_metrics.increment(f"{self._name}.submissions.failed")
                continue
            undelivered = self._judge(answer)
            internal_metrics.increment(f"{self._name}.submissions.failed")
            self.divisible = undelivered.divisible
            if not undelivered.passing:
                raise undelivered
            # "At once" is no time to wait for a server that has just refused.
            wait = max(undelivered.wait or 0.0, retry_delay(attempt))
            if self._hurried.is_set() or time.monotonic() + wait >= min(until, self._deadline):
                raise undelivered
            self._hurried.wait(wait)
            attempt += 1

    def _try(self, *args: Any, **options: Any) -> ExportResponse:
        try:
            response = super().request(*args, **options)
        except (requests.RequestException, OSError) as error:
            return ExportResponse(None, messages.describe_error(error))
        return ExportResponse.read(response, time.monotonic() + min(_TIMEOUT, self.left))

    def _judge(self, answer: ExportResponse) -> ExportError:
        status = answer.status
        what = answer.reason if status is None else f"HTTP {status}"
        if messages.is_misconfiguration(status, answer.reason, page=answer.is_page):
            errors.error_once(
                f"refused.{self._name}.{what}",
                "byline.E057: %s refuses all spans (%s): %s",
                self._name,
                what,
                self.advice,
            )
            # It may be the server's certificate that is mended.
            return ExportError(str(answer), passing=status is None)
        if status is None or status in _PASSING or status >= 500:
            errors.warn_once(
                f"unreachable.{self._name}",
                "byline.E059: %s takes no spans at the moment (%s): %s. They are tried again",
                self._name,
                what,
                self.advice,
            )
            return ExportError(str(answer), passing=True, wait=answer.retry_after)
        errors.error_once(
            f"refused.{self._name}.{what}",
            "byline.E058: %s refuses a batch of spans (%s), and it is dropped: %s",
            self._name,
            what,
            self.advice,
        )
        return ExportError(str(answer), passing=False, hopeless=True, divisible=status in _DIVISIBLE)


def _no_auth(request: Any) -> Any:
    return request


def retry_delay(attempt: int) -> float:
    """Return how many seconds to wait before the next try: longer each time, and never for all at once."""
    return float(min(2**attempt, _MAX_WAIT) * random.uniform(0.7, 1.3))  # noqa: S311 - no secret
