"""Patches of other libraries' classes and functions: applied when a module is imported, removed together."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import wrapt

from byline import errors


class AppliedPatch(NamedTuple):
    """One function of a class or module, and the replacing function."""

    owner: Any
    name: str
    wrapper: Any
    original: Any


class Patches:
    """The patches of one feature. One process has one object for each, because the patched classes are shared.

    Args:
        warning: The message if the version of a library cannot be patched, with two ``%s``: for the name of the library
            and for the function that is missing.
    """

    def __init__(self, warning: str) -> None:
        self._warning = warning
        self._undo: list[Callable[[], object]] = []
        self._applied: list[AppliedPatch] = []
        self._enabled: set[str] = set()
        self._import_hooks: set[str] = set()

    def on_unwrap(self, undo: Callable[[], object]) -> None:
        """Call a function when the patches are removed."""
        self._undo.append(undo)

    def wrap_method(self, owner: Any, name: str, make_wrapper: Callable[[Any], Any]) -> None:
        """Replace a method, or a function of a module, by ``make_wrapper(method)``, once.

        Raises:
            AttributeError: The class or module has no such function.
        """
        original = owner.__dict__.get(name)
        if original is None:
            raise AttributeError(f"{_name_of(owner)} has no attribute {name}")
        if any(patch.wrapper is original for patch in self._applied):
            return
        # Not isinstance(): wrapt's FunctionWrapper passes for the wrapped function.
        function = original if type(original) is FunctionType else _call_descriptor(original)
        # updated=(): attributes by which other libraries mark their own wrapper must not be copied to ours.
        wrapper = functools.wraps(original, updated=())(make_wrapper(function))
        setattr(owner, name, wrapper)
        self._applied.append(AppliedPatch(owner, name, wrapper, original))

    def patch_when_imported(self, library: str, module_name: str, patch: Callable[[Patches, Any], None]) -> None:
        """Patch a module now, or after the import if the module is not imported yet."""
        self._enabled.add(module_name)
        if module_name in sys.modules:
            self._patch_module(library, sys.modules[module_name], patch)
        elif module_name not in self._import_hooks:
            self._import_hooks.add(module_name)

            def on_import(module: Any) -> None:
                if module_name in self._enabled:
                    self._patch_module(library, module, patch)

            wrapt.register_post_import_hook(on_import, module_name)

    def unwrap_all(self) -> None:
        """Remove all patches, except those that another library has wrapped since."""
        self._enabled.clear()
        self._unwrap_from(0)
        while self._undo:
            self._undo.pop()()

    def _unwrap_from(self, index: int) -> None:
        while len(self._applied) > index:
            patch = self._applied.pop()
            if patch.owner.__dict__.get(patch.name) is patch.wrapper:
                setattr(patch.owner, patch.name, patch.original)

    def _patch_module(self, library: str, module: Any, patch: Callable[[Patches, Any], None]) -> None:
        """Apply all patches of a client or none, because half of them would begin requests that nothing ends."""
        index = len(self._applied)
        try:
            patch(self, module)
        except AttributeError as missing:
            self._unwrap_from(index)
            errors.warn_once(f"library {library}", self._warning, library, missing)
        except Exception:
            self._unwrap_from(index)
            errors.report_internal_error(library)


def _name_of(owner: Any) -> str:
    return f"{owner.__module__}.{owner.__qualname__}" if isinstance(owner, type) else str(owner.__name__)


def _call_descriptor(descriptor: Any) -> Callable[..., Any]:
    """Return a function that binds another library's wrapper to the instance before the call, as Python would."""

    def call_bound(self: Any, *arguments: Any, **options: Any) -> Any:
        return descriptor.__get__(self, type(self))(*arguments, **options)

    return call_bound
