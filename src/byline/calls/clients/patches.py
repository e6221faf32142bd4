"""Patches of client classes: put on, taken off again, and put on late where a module is imported late."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final

import wrapt

from byline import afterwards
from byline.calls.call import Call

#: Under this name a response that is read bit by bit remembers its call.
CALL: Final = "_byline_call"

_watching: Final[dict[tuple[Callable[[type], type], type], type]] = {}
#: Class, name, our wrapper and what it stands for.
_put_on: Final[list[tuple[type, str, Any, Any]]] = []
_active: Final[set[str]] = set()
_hooked: Final[set[str]] = set()


def replace(owner: type, name: str, make: Callable[[Any], Any]) -> None:
    """Replace a method by what ``make`` makes of it, once a class."""
    original = owner.__dict__.get(name)
    if original is None or any(wrapper is original for _, _, wrapper, _ in _put_on):
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


def watch(response: Any, call: Call, make: Callable[[type], type]) -> None:
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
    end_with(response, call)


def end_with(response: Any, call: Call) -> None:
    """End a call when nobody holds its response any more; nothing that takes a lock is done there."""
    weakref.finalize(response, afterwards.put, call.end).atexit = False


def take_off() -> None:
    """Take all patches off, except where somebody has patched over them since."""
    _active.clear()
    while _put_on:
        owner, name, wrapper, original = _put_on.pop()
        if owner.__dict__.get(name) is wrapper:
            setattr(owner, name, original)


def when_imported(module: str, patch: Callable[[Any], None]) -> None:
    """Patch a module now if it is imported, else as soon as it is."""
    _active.add(module)
    if module in sys.modules:
        patch(sys.modules[module])
    elif module not in _hooked:
        _hooked.add(module)
        wrapt.register_post_import_hook(lambda imported: patch(imported) if module in _active else None, module)
