"""Imports the library ``genai-prices`` in a thread without harm to the app's threads."""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from byline import errors

_LIBRARY: Final = "genai_prices"
#: Downloads newer lists, with httpx or, in newer versions, httpx2.
_UPDATER: Final = "genai_prices.update_prices"


def import_price_library() -> Any:
    """Import the library, ``None`` if the extra ``byline[prices]`` is not installed."""
    finder = _LibraryFinder()
    sys.meta_path.insert(0, finder)
    try:
        import genai_prices

        # All that is used: a stub of the app's tests has less.
        _ = genai_prices.Usage, genai_prices.calc_price, genai_prices.data_snapshot.get_snapshot
    except (ImportError, AttributeError):
        return None
    except Exception:
        # Its dependencies may be incompatible with each other.
        errors.report_internal_error("prices")
        return None
    finally:
        sys.meta_path.remove(finder)
    return genai_prices


def is_compiled() -> bool:
    """Return whether the list can be loaded in a thread without harm to the others.

    Without bytecode on disk Python compiles the list, for which it holds the lock of the interpreter for a quarter of a
    second.
    """
    try:
        found = importlib.util.find_spec(_LIBRARY)
        if found is None or found.origin is None:
            return True
        source = str(Path(found.origin).with_name("data.py"))
        return Path(importlib.util.cache_from_source(source)).exists()
    except (ValueError, NotImplementedError):
        # A module that was not imported from a file, or an interpreter that writes no bytecode.
        return False


class _LibraryFinder(MetaPathFinder):
    """Finds the library, but lets its updater be imported when the app first uses a name of the updater.

    The updater imports an HTTP client. A client that a thread is importing stands half-initialized in ``sys.modules``,
    and OpenAI's SDK looks for it there in each call: ``sys.modules.get("httpx").Response`` raised ``AttributeError``
    in the app.
    """

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != _LIBRARY:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None and _UPDATER not in sys.modules:
            spec.loader = _LibraryLoader(spec.loader)
        return spec


class _LibraryLoader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # For importlib.resources and the like, which ask the loader for more.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        # Python holds the lock of this import: other threads see the library only when its names are whole.
        sys.modules[_UPDATER] = _UpdaterNames(_UPDATER)
        try:
            self._loader.exec_module(module)
        finally:
            del sys.modules[_UPDATER]
        names = {name for name, value in vars(module).items() if value is _Later}
        for name in names:
            delattr(module, name)

        def import_name(name: str) -> Any:
            if name not in names:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            value = getattr(import_module(_UPDATER), name)
            setattr(module, name, value)
            return value

        if names:
            # https://peps.python.org/pep-0562/
            module.__getattr__ = import_name  # type: ignore[method-assign]


class _UpdaterNames(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Later


class _Later:
    """Stands for a name of the updater while the library is imported."""
