"""Patches of HTTP client classes: applied when the client is imported, removed together."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final, NamedTuple

import wrapt

from byline import deferred, errors
from byline.http.llm_request import LLMRequest

#: Attribute of a response under which the LLM request is found while the body is read.
LLM_REQUEST: Final = "_byline_call"


class AppliedPatch(NamedTuple):
    """One method of a client class, and the replacing function."""

    owner: type
    name: str
    wrapper: Any
    original: Any


class ClientPatches:
    """The patches of all HTTP clients. One process has one, because the patched classes are shared."""

    def __init__(self) -> None:
        self._applied: list[AppliedPatch] = []
        self._enabled: set[str] = set()
        self._import_hooks: set[str] = set()

    def wrap_method(self, owner: type, name: str, make_wrapper: Callable[[Any], Any]) -> None:
        """Replace a method by ``make_wrapper(method)``, once. Raises `AttributeError` if the class has none."""
        original = owner.__dict__.get(name)
        if original is None:
            raise AttributeError(f"{owner.__module__}.{owner.__qualname__} has no attribute {name}")
        if any(patch.wrapper is original for patch in self._applied):
            return
        # Not isinstance(): wrapt's FunctionWrapper passes for the wrapped function.
        function = original if type(original) is FunctionType else _call_descriptor(original)
        # updated=(): attributes by which other libraries mark their own wrapper must not be copied to ours.
        wrapper = functools.wraps(original, updated=())(make_wrapper(function))
        setattr(owner, name, wrapper)
        self._applied.append(AppliedPatch(owner, name, wrapper, original))

    def patch_when_imported(self, client: str, module_name: str, patch: Callable[[ClientPatches, Any], None]) -> None:
        """Patch a module now, or after the import if the module is not imported yet."""
        self._enabled.add(module_name)
        if module_name in sys.modules:
            self._patch_module(client, sys.modules[module_name], patch)
        elif module_name not in self._import_hooks:
            self._import_hooks.add(module_name)

            def on_import(module: Any) -> None:
                if module_name in self._enabled:
                    self._patch_module(client, module, patch)

            wrapt.register_post_import_hook(on_import, module_name)

    def unwrap_all(self) -> None:
        """Remove all patches, except those that another library has wrapped since."""
        self._enabled.clear()
        self._unwrap_from(0)

    def _unwrap_from(self, index: int) -> None:
        while len(self._applied) > index:
            patch = self._applied.pop()
            if patch.owner.__dict__.get(patch.name) is patch.wrapper:
                setattr(patch.owner, patch.name, patch.original)

    def _patch_module(self, client: str, module: Any, patch: Callable[[ClientPatches, Any], None]) -> None:
        """Apply all patches of a client or none, because half of them would begin requests that nothing ends."""
        index = len(self._applied)
        try:
            patch(self, module)
        except AttributeError as missing:
            self._unwrap_from(index)
            errors.warn_once(
                f"client {client}",
                "byline.E092: calls through %s get no LLM span and no ids, because this version cannot be hooked (%s); "
                "use an older version of the client",
                client,
                missing,
            )
        except Exception:
            self._unwrap_from(index)
            errors.report_internal_error(client)


def _call_descriptor(descriptor: Any) -> Callable[..., Any]:
    """Return a function that binds another library's wrapper to the instance before the call, as Python would."""

    def call_bound(self: Any, *arguments: Any, **options: Any) -> Any:
        return descriptor.__get__(self, type(self))(*arguments, **options)

    return call_bound


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
