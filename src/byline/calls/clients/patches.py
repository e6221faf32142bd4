"""Patches of client classes: put on, taken off again, and put on late where a module is imported late."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final

import wrapt

_ORIGINAL: Final = "__byline_original__"
_put_on: Final[list[tuple[type, str]]] = []
_active: Final[set[str]] = set()
_hooked: Final[set[str]] = set()


def replace(owner: type, name: str, make: Callable[[Any], Any]) -> None:
    """Replace a method by what ``make`` makes of it, once a class."""
    original = owner.__dict__.get(name)
    if original is None or hasattr(original, _ORIGINAL):
        return
    # Not isinstance(): wrappers say that they are what they wrap.
    wrapper = functools.wraps(original)(make(original if type(original) is FunctionType else _bound(original)))
    setattr(wrapper, _ORIGINAL, original)
    setattr(owner, name, wrapper)
    _put_on.append((owner, name))


def _bound(original: Any) -> Callable[..., Any]:
    """Call what another library has put there as the interpreter would: bound to its instance."""

    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        return original.__get__(self, type(self))(*arguments, **options)

    return call


def take_off() -> None:
    """Take all patches off, except where somebody has patched over them since."""
    _active.clear()
    while _put_on:
        owner, name = _put_on.pop()
        original = getattr(owner.__dict__.get(name), _ORIGINAL, None)
        if original is not None:
            setattr(owner, name, original)


def when_imported(module: str, patch: Callable[[Any], None]) -> None:
    """Patch a module now if it is imported, else as soon as it is."""
    _active.add(module)
    if module in sys.modules:
        patch(sys.modules[module])
    elif module not in _hooked:
        _hooked.add(module)
        wrapt.register_post_import_hook(lambda imported: patch(imported) if module in _active else None, module)
