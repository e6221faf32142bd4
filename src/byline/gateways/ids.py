"""Ids of traces and spans that callers name in their own way."""

from __future__ import annotations

import hashlib
import re
from typing import Final

_TRACE: Final = re.compile(r"[0-9a-f]{32}\Z")
_SPAN: Final = re.compile(r"[0-9a-f]{16}\Z")


def to_trace_id(name: str) -> int:
    """Return the OTLP trace id for a caller's own.

    32 hex digits, also those of a UUID, are taken as they are; anything else by its SHA-256. It is
    the rule of Langfuse's SDKs (``create_trace_id(seed=…)``) and of LiteLLM, so that all of them end
    in one trace.

    Example:
        >>> f"{to_trace_id('workflow_12345'):032x}"
        '7af15d27557f4b0547b66811c67d365d'
        >>> f"{to_trace_id('7AF15D27-557F-4B05-47B6-6811C67D365D'):032x}"
        '7af15d27557f4b0547b66811c67d365d'
    """
    plain = name.lower().replace("-", "")
    if _TRACE.match(plain) and int(plain, 16):
        return int(plain, 16)
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "big") or 1


def to_span_id(name: str) -> int:
    """Return the OTLP span id for a caller's own: 16 hex digits as they are, anything else by its SHA-256.

    Example:
        >>> f"{to_span_id('00F067AA0BA902B7'):016x}"
        '00f067aa0ba902b7'
    """
    plain = name.lower()
    if _SPAN.match(plain) and int(plain, 16):
        return int(plain, 16)
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") or 1
