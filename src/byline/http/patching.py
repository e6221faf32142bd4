"""Patches of client classes: put on, taken off again, and put on late where a module is imported late."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final

import wrapt

from byline import deferred, errors
from byline.http.llm_request import LLMRequest

#: Under this name a response that is read bit by bit remembers its call.
CALL: Final = "_byline_call"

_watching: Final[dict[tuple[Callable[[type], type], type], type]] = {}
#: Class, name, our wrapper and what it stands for.
_put_on: Final[list[tuple[type, str, Any, Any]]] = []
_active: Final[set[str]] = set()
_hooked: Final[set[str]] = set()


def wrap_method(owner: type, name: str, make: Callable[[Any], Any]) -> None:
    """Replace a method by what ``make`` makes of it, once a class. Raises `AttributeError` where it has none."""
    original = owner.__dict__.get(name)
    if original is None:
        raise AttributeError(f"{owner.__module__}.{owner.__qualname__} has no attribute {name}")
    if any(wrapper is original for _, _, wrapper, _ in _put_on):
        return
    # Not isinstance(): wrappers say that they are what they wrap.
    inner = original if type(original) is FunctionType else _bound(original)
    # Marks that others have left on theirs are not for ours.
    wrapper = functools.wraps(original, updated=())(make(inner))
    setattr(owner, name, wrapper)
    _put_on.append((owner, name, wrapper, original))


def _bound(original: Any) -> Callable[..., Any]:
    """Call what another library has put there as the interpreter would: bound to its instance."""

    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        return original.__get__(self, type(self))(*arguments, **options)

    return call


def swap_class(response: Any, call: LLMRequest, make: Callable[[type], type]) -> None:
    """Let one response be of a class that sees what is read of it, and end its call when it is let go of.

    Methods of the response itself would hold it in a circle: it would live, with its connection, until
    the next collection of garbage.

    Args:
        response: The response of a client.
        call: Its call, which the methods of the class find under `CALL`.
        make: Makes the class of the response's own.
    """
    setattr(response, CALL, call)
    kind = type(response)
    seen = _watching.get((make, kind))
    if seen is None:
        seen = _watching[(make, kind)] = make(kind)
        seen.__name__, seen.__qualname__, seen.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    response.__class__ = seen
    finalize_with(response, call)


def finalize_with(response: Any, call: LLMRequest) -> None:
    """End a call when nobody holds its response any more; nothing that takes a lock is done there."""
    weakref.finalize(response, deferred.defer, call.end).atexit = False


def unwrap_all() -> None:
    """Take all patches off, except where somebody has patched over them since."""
    _active.clear()
    _take_off(0)


def _take_off(kept: int) -> None:
    while len(_put_on) > kept:
        owner, name, wrapper, original = _put_on.pop()
        if owner.__dict__.get(name) is wrapper:
            setattr(owner, name, original)


def when_imported(client: str, module: str, patch: Callable[[Any], None]) -> None:
    """Patch a module now if it is imported, else as soon as it is."""
    _active.add(module)
    if module in sys.modules:
        _put(client, sys.modules[module], patch)
    elif module not in _hooked:
        _hooked.add(module)
        wrapt.register_post_import_hook(
            lambda imported: _put(client, imported, patch) if module in _active else None, module
        )


def _put(client: str, module: Any, patch: Callable[[Any], None]) -> None:
    """Patch a module wholly or not at all: half a hook begins calls that nothing ends."""
    before = len(_put_on)
    try:
        patch(module)
    except AttributeError as missing:
        _take_off(before)
        errors.warn_once(
            f"client {client}", "byline.E092: calls through %s are not seen and carry no ids: %s", client, missing
        )
    except Exception:
        _take_off(before)
        errors.report_internal_error(client)
