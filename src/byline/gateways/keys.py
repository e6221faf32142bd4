"""API keys, of which only the hash is kept: their aliases, and their spend and budget as a gateway reports them."""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from opentelemetry.instrumentation.utils import suppress_instrumentation

from byline import internal_metrics
from byline.fork import fork_safe_lock
from byline.gateways import values
from byline.settings import SettingError
from byline.urls import is_loopback

_logger: Final = logging.getLogger("byline")
_KEY_HEADERS: Final = ("x-api-key", "api-key", "x-goog-api-key", "x-litellm-api-key")
_HEX: Final = frozenset("0123456789abcdef")
#: A caller's key has not been checked: eight digits, which a search of 2**32 keys matches, would name anybody.
_MIN_HASH_PREFIX: Final = 16
#: Shorter keys, and those of fewer different characters, can be found by trying.
_MIN_UNGUESSABLE: Final = 24
_MIN_CHARACTERS: Final = 10

_MAX_KEYS: Final = 256
_MAX_LOOKUPS: Final = 4
_MAX_RESPONSE_BYTES: Final = 64 * 1024
_TIMEOUT: Final = 10.0

#: Shared by all instances, because a fork-safe lock is never freed. Held for dictionary operations only.
_lock: Final = fork_safe_lock()


def hash_key(token: str) -> str:
    """Return the SHA-256 of an API key in hex, the hash that LiteLLM uses too. Spans have `KeySettings.shown_hash`.

    Example:
        >>> hash_key("sk-1")[:8]
        '0f2c10bf'
    """
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


#: An app sends few keys of its own, each with many calls.
_hash_own_key: Final = functools.lru_cache(maxsize=64)(hash_key)


def bearer_token(headers: Mapping[str, str]) -> str | None:
    """Return the Bearer token of a request (header names in lower case), ``None`` if there is none."""
    authorization = headers.get("authorization", "")
    return (authorization[7:].strip() or None) if authorization[:7].lower() == "bearer " else None


def key_hash_from_headers(headers: Mapping[str, str]) -> tuple[str | None, bool]:
    """Return the SHA-256 of the API key in a request's headers, and whether the key can be guessed.

    Args:
        headers: The headers, names in lower case.
    """
    token = bearer_token(headers) or next((headers[name] for name in _KEY_HEADERS if headers.get(name)), None)
    return (None, False) if token is None else (_hash_own_key(token), is_guessable(token))


def parse_aliases(text: str) -> dict[str, str]:
    """Parse ``BYLINE_KEY_ALIASES``: ``hash=name`` pairs, separated by commas; a prefix of a hash is enough.

    Raises:
        SettingError: ``byline.E033`` for anything else than a hash prefix, for example the key itself.

    Example:
        >>> parse_aliases("0f2c10bf9e3d1f7a=team blue")
        {'0f2c10bf9e3d1f7a': 'team blue'}
    """
    aliases: dict[str, str] = {}
    for number, part in enumerate(text.split(","), 1):
        prefix, _, name = part.strip().partition("=")
        if not prefix:
            continue
        # The entry may be a key: the message must not repeat it.
        if len(prefix) < _MIN_HASH_PREFIX or not _HEX.issuperset(prefix.lower()) or not name.strip():
            raise SettingError(
                "byline.E033",
                f"entry {number} of BYLINE_KEY_ALIASES is not hash=name",
                "give sixteen or more digits of the key's SHA-256, or of byline.gateway.key.hash",
            )
        aliases[prefix.lower()] = name.strip()
    return aliases


class KeySettings:
    """The names of API keys, and the form in which spans have the hashes of keys."""

    def __init__(self) -> None:
        self.configure()

    def configure(self, aliases: Mapping[str, str] | None = None, form: str = "auto", hmac_key: str = "") -> None:
        """Use these settings from now on, and none of the earlier ones.

        Args:
            aliases: Names of keys, by a prefix of the key's SHA-256 or of the hash that spans have.
            form: ``auto``, ``sha256`` or ``off``, see `shown_hash`.
            hmac_key: The key of the HMACs, empty for none.
        """
        self._aliases: Mapping[str, str] = dict(aliases or {})
        self._form, self._hmac_key = form, hmac_key.encode()

    def find_alias(self, key_hash: str | None, first: Mapping[str, str] | None = None) -> str | None:
        """Return the name of a key by its hash, ``None`` if the key has none; the aliases of ``first`` win."""
        if key_hash is None or not (first or self._aliases):
            return None
        for names in (first or {}, self._aliases):
            for prefix, name in names.items():
                if prefix and key_hash.startswith(prefix):
                    return name
        return None

    def shown_hash(self, digest: str, *, guessable: bool) -> str | None:
        """Return the hash that spans have of a key, ``None`` for no hash.

        Args:
            digest: The SHA-256 of the key in hex.
            guessable: Whether the key can be found by hashing likely keys.
        """
        if self._form == "off":
            return None
        if self._form == "sha256":
            return digest
        if self._hmac_key:
            return hmac.new(self._hmac_key, f"key\0{digest}".encode(), hashlib.sha256).hexdigest()
        return None if guessable else digest

    def describe_key(self, digest: str, *, guessable: bool) -> tuple[str | None, str | None]:
        """Return the hash that spans have of a key, and the key's alias by either hash."""
        shown = self.shown_hash(digest, guessable=guessable)
        return shown, self.find_alias(digest) or self.find_alias(shown)


#: One for the process, like the environment variables that it comes from: attributes of a client are made once for
#: all tracer providers, and gateways, which look aliases up too, are made by the app before any provider is known.
key_settings: Final = KeySettings()


def is_guessable(token: str) -> bool:
    """Return whether an API key can be found by hashing likely keys.

    Example:
        >>> is_guessable("sk-1234"), is_guessable("sk-proj-0a1b2c3d4e5f6g7h8i9j")
        (True, False)
    """
    return len(token) < _MIN_UNGUESSABLE or len(set(token)) < _MIN_CHARACTERS


class Status(NamedTuple):
    """Spend and budget of a key; ``None`` for values that the gateway did not report."""

    spend: float | None = None
    budget: float | None = None
    budget_reset: str | None = None


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow no redirect, because the key must not reach another origin."""


class KeyStatus:
    """Looks up the status of API keys in background threads and caches it by the key's hash.

    A call never waits for a look-up, but uses the status known so far. The key itself is held during
    one look-up only, and is sent to ``url`` only.

    Args:
        name: The gateway's name, for the log.
        url: The URL to get, with the key as Bearer token.
        seconds: How long a status is valid; a failed look-up as well.
    """

    def __init__(self, name: str, url: str, *, seconds: float = 60.0) -> None:
        self.url = url
        self._name = name
        self._seconds = seconds
        self._statuses: OrderedDict[str, tuple[float, Status]] = OrderedDict()
        #: By the key's hash. After a fork the threads of the parent are not alive.
        self._lookups: dict[str, threading.Thread] = {}
        # Uses the proxies of the environment, as the app's own HTTP clients do.
        # Never for this machine: a proxy would see the key.
        is_local = is_loopback(urlsplit(url).hostname or "")
        self._opener = build_opener(_NoRedirects, *([ProxyHandler({})] if is_local else []))

    def status_of(self, key_hash: str | None) -> Status:
        """Return the status known so far."""
        cached = self._statuses.get(key_hash or "")
        return Status() if cached is None else cached[1]

    def refresh(self, token: str) -> None:
        """Start a look-up of this key, unless the cached status is still valid."""
        key_hash = hash_key(token)
        with _lock:
            cached = self._statuses.get(key_hash)
            if cached is not None and time.monotonic() - cached[0] < self._seconds:
                return
            self._lookups = {each: thread for each, thread in self._lookups.items() if thread.is_alive()}
            if key_hash in self._lookups or len(self._lookups) >= _MAX_LOOKUPS:
                return
            thread = threading.Thread(
                target=self._look_up, args=(token, key_hash), name="byline-key-status", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                # The interpreter is shutting down.
                return
            self._lookups[key_hash] = thread

    def _look_up(self, token: str, key_hash: str) -> None:
        status = self.status_of(key_hash)
        try:
            status = self._fetch(token)
        except Exception as error:
            # Only the error's type: its message may contain the URL.
            internal_metrics.increment("key_status.errors")
            _logger.debug("%s: the status of an API key could not be fetched: %s", self._name, type(error).__name__)
        with _lock:
            self._lookups.pop(key_hash, None)
            self._statuses[key_hash] = (time.monotonic(), status)
            self._statuses.move_to_end(key_hash)
            while len(self._statuses) > _MAX_KEYS:
                self._statuses.popitem(last=False)

    def _fetch(self, token: str) -> Status:
        request = Request(  # noqa: S310 - the scheme of a base URL is http or https
            self.url, headers={"Authorization": f"Bearer {token}", "Accept": "application/json"}
        )
        with suppress_instrumentation(), self._opener.open(request, timeout=_TIMEOUT) as response:
            decoded = json.loads(response.read(_MAX_RESPONSE_BYTES))
        data = values.mapping(values.mapping(decoded).get("data"))
        return Status(
            values.amount(data.get("usage")), values.amount(data.get("limit")), values.text(data.get("limit_reset"))
        )
