"""Steps that the hooks of several HTTP clients share: responses that report their reads and their release."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, Final

from byline import deferred
from byline.http.llm_request import LLMRequest

#: Attribute of a response under which the LLM request is found while the body is read.
LLM_REQUEST: Final = "_byline_call"


def watch_response(response: Any, llm_request: LLMRequest, make_subclass: Callable[[type], type]) -> None:
    """Change the class of a response to a subclass that reports reads and, on release, ends the LLM request.

    Methods set on the instance would refer to the instance: the response, and the connection, would stay
    alive until the next garbage collection.

    Args:
        response: Response of an HTTP client.
        llm_request: Its LLM request, which methods of the subclass find under `LLM_REQUEST`.
        make_subclass: Makes a subclass of the response's class.
    """
    setattr(response, LLM_REQUEST, llm_request)
    response_class: type = type(response)
    response.__class__ = _get_subclass(make_subclass, response_class)
    abandon_when_released(response, llm_request)


@functools.cache
def _get_subclass(make_subclass: Callable[[type], type], response_class: type) -> type:
    subclass = make_subclass(response_class)
    for name in ("__name__", "__qualname__", "__module__"):
        setattr(subclass, name, getattr(response_class, name))
    return subclass


def abandon_when_released(response: Any, llm_request: LLMRequest) -> None:
    """Abandon an LLM request when its response is garbage-collected. Deferred, because that takes locks."""
    weakref.finalize(response, deferred.defer, llm_request.abandon).atexit = False
