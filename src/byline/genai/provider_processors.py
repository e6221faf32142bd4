"""Processors that are kept on their provider: the SDK has no way to take one away again."""

from __future__ import annotations

import contextlib
from typing import Any, TypeVar

from opentelemetry.sdk.trace import SpanProcessor

P = TypeVar("P", bound=SpanProcessor)


def get_or_add_processor(provider: Any, name: str, new: P) -> P:
    """Return the processor of this class that a provider has by this name, else the new one, which is added to it.

    The name is that of an attribute of the provider's own, for some providers cannot be hashed. What is kept is
    there for good, and has to be switched on and off.
    """
    found = getattr(provider, name, None)
    if isinstance(found, type(new)):
        return found
    with contextlib.suppress(AttributeError, TypeError):
        setattr(provider, name, new)
    provider.add_span_processor(new)
    return new
