"""Instruments the Python processes that `byline run` starts. Python imports this module before the program."""

import contextlib
import sys
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
sys.path = [path for path in sys.path if Path(path or ".").resolve() != _FOLDER]
# The environment may have a module of this name too.
_this = sys.modules.pop("sitecustomize")
with contextlib.suppress(ImportError):
    import sitecustomize  # type: ignore[import-not-found, unused-ignore] # noqa: F401
# Python's import expects to find a module of this name.
sys.modules.setdefault("sitecustomize", _this)

from byline.entry_point import run_in_process  # noqa: E402

run_in_process()
