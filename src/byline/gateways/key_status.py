"""What a gateway says of an API key when it is asked: spend, budget and its reset."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from typing import Any, Final, NamedTuple
from urllib.request import HTTPRedirectHandler, Request, build_opener

from opentelemetry.instrumentation.utils import suppress_instrumentation

from byline import internal_metrics
from byline.fork import fork_safe_lock
from byline.gateways import values
from byline.gateways.keys import hash_key

_logger: Final = logging.getLogger("byline")
_MAX_KEYS: Final = 256
_MAX_AT_ONCE: Final = 4
_MAX_BYTES: Final = 64 * 1024
_TIMEOUT: Final = 10.0

#: One for all: it is held for a moment.
_lock: Final = fork_safe_lock()


class Status(NamedTuple):
    """What is known of a key; ``None`` where the gateway did not say."""

    spend: float | None = None
    budget: float | None = None
    budget_reset: str | None = None


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow none: the key is for this origin alone."""


class KeyStatus:
    """Looks keys up in the background and remembers the answers by the key's hash.

    A call is never held up: it gets what is known by then. The key itself is held for the length of
    one look-up, and goes nowhere but to ``url``.

    Args:
        name: The gateway's name, for the log.
        url: What is asked, with the key as the Bearer token.
        seconds: How long an answer holds; a failure as well.
    """

    def __init__(self, name: str, url: str, *, seconds: float = 60.0) -> None:
        self.url = url
        self._name = name
        self._seconds = seconds
        self._known: OrderedDict[str, tuple[float, Status]] = OrderedDict()
        #: By the key's hash. Threads do not live on in a child process.
        self._asking: dict[str, threading.Thread] = {}
        # Whatever the environment says of proxies is what the app's own clients go by.
        self._opener = build_opener(_NoRedirects)

    def of(self, key_hash: str | None) -> Status:
        """Return what is known of a key by now."""
        found = self._known.get(key_hash or "")
        return Status() if found is None else found[1]

    def refresh(self, token: str) -> None:
        """Look the key up, unless that was done a short while ago."""
        key_hash = hash_key(token)
        with _lock:
            found = self._known.get(key_hash)
            if found is not None and time.monotonic() - found[0] < self._seconds:
                return
            self._asking = {each: thread for each, thread in self._asking.items() if thread.is_alive()}
            if key_hash in self._asking or len(self._asking) >= _MAX_AT_ONCE:
                return
            thread = threading.Thread(target=self._ask, args=(token, key_hash), name="byline-key-status", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The interpreter is shutting down.
                return
            self._asking[key_hash] = thread

    def _ask(self, token: str, key_hash: str) -> None:
        status = self.of(key_hash)
        try:
            status = self._fetch(token)
        except Exception as error:
            # Its message may name more than is anybody's business.
            internal_metrics.increment("key_status.errors")
            _logger.debug("%s: the status of a key cannot be had: %s", self._name, type(error).__name__)
        with _lock:
            self._asking.pop(key_hash, None)
            self._known[key_hash] = (time.monotonic(), status)
            self._known.move_to_end(key_hash)
            while len(self._known) > _MAX_KEYS:
                self._known.popitem(last=False)

    def _fetch(self, token: str) -> Status:
        request = Request(  # noqa: S310 - only http and https are base URLs
            self.url, headers={"Authorization": f"Bearer {token}", "Accept": "application/json"}
        )
        with suppress_instrumentation(), self._opener.open(request, timeout=_TIMEOUT) as answer:
            decoded = json.loads(answer.read(_MAX_BYTES))
        data = values.mapping(values.mapping(decoded).get("data"))
        return Status(
            values.amount(data.get("usage")), values.amount(data.get("limit")), values.text(data.get("limit_reset"))
        )
