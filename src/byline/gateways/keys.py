"""The API key in use, of which only the hash is ever kept."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Final

_HEADERS: Final = ("x-api-key", "api-key", "x-goog-api-key", "x-litellm-api-key")


@functools.lru_cache(maxsize=256)
def hash_key(token: str) -> str:
    """Return the hash of an API key as LiteLLM makes it: SHA-256 of the token, in hex.

    Example:
        >>> hash_key("sk-1")[:8]
        '0f2c10bf'
    """
    return hashlib.sha256(token.encode()).hexdigest()


def key_of(headers: Mapping[str, str]) -> str | None:
    """Return the hash of the key that a call carries (header names in lower case), if any."""
    authorization = headers.get("authorization", "")
    if authorization[:7].lower() == "bearer " and authorization[7:].strip():
        return hash_key(authorization[7:].strip())
    for name in _HEADERS:
        if headers.get(name):
            return hash_key(headers[name])
    return None
