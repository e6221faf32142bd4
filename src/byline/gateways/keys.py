"""The API key in use, of which nothing but the hash goes anywhere, and the names of keys."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Final

from byline.settings import SettingError

_HEADERS: Final = ("x-api-key", "api-key", "x-goog-api-key", "x-litellm-api-key")
_HEX: Final = frozenset("0123456789abcdef")
_SHORTEST: Final = 8

#: Beginning of a key's hash → the key's name, for all gateways and callers.
_aliases: Mapping[str, str] = {}


def hash_key(token: str) -> str:
    """Return the hash of an API key as LiteLLM makes it: SHA-256 of the token, in hex.

    Example:
        >>> hash_key("sk-1")[:8]
        '0f2c10bf'
    """
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


#: The app's own keys are few and go out with each call.
_hash_own: Final = functools.lru_cache(maxsize=64)(hash_key)


def bearer_token(headers: Mapping[str, str]) -> str | None:
    """Return the Bearer token that a call carries (header names in lower case), if any."""
    authorization = headers.get("authorization", "")
    return (authorization[7:].strip() or None) if authorization[:7].lower() == "bearer " else None


def key_hash_from_headers(headers: Mapping[str, str]) -> str | None:
    """Return the hash of the key that a call carries (header names in lower case), if any."""
    token = bearer_token(headers)
    if token is not None:
        return _hash_own(token)
    for name in _HEADERS:
        if headers.get(name):
            return _hash_own(headers[name])
    return None


def parse_aliases(text: str) -> dict[str, str]:
    """Read ``BYLINE_KEY_ALIASES``: ``hash=name``, separated by commas; the beginning of a hash will do.

    Raises:
        SettingError: ``byline.E033`` for what is no beginning of a hash, as a key itself would be.

    Example:
        >>> parse_aliases("0f2c10bf=team blue")
        {'0f2c10bf': 'team blue'}
    """
    found: dict[str, str] = {}
    for number, part in enumerate(text.split(","), 1):
        start, _, name = part.strip().partition("=")
        if not start:
            continue
        # What stands there may be a key: it is not said again.
        if len(start) < _SHORTEST or not _HEX.issuperset(start.lower()) or not name.strip():
            raise SettingError(
                "byline.E033",
                f"entry {number} of BYLINE_KEY_ALIASES is no hash=name",
                "give eight or more digits of the key's SHA-256, as they stand in byline.gateway.key.hash",
            )
        found[start.lower()] = name.strip()
    return found


def set_aliases(aliases: Mapping[str, str]) -> None:
    """Let these names stand for keys from now on."""
    global _aliases
    _aliases = dict(aliases)


def find_alias(key_hash: str | None, aliases: Mapping[str, str] | None = None) -> str | None:
    """Return the name of a key by its hash: from these aliases first, then from those of all."""
    if key_hash is None:
        return None
    for names in (aliases or {}, _aliases):
        for start, name in names.items():
            if start and key_hash.startswith(start):
                return name
    return None
