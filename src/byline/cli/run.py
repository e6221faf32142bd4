"""``byline run``: a program with byline, and nothing in its code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from byline.settings import SettingError

_STARTUP: Final = str(Path(__file__).with_name("startup"))


def run_program(command: Sequence[str]) -> int:
    """Replace this process by a program whose Python processes are instrumented.

    Args:
        command: The program and its arguments, e.g. ``["uvicorn", "main:app"]``.

    Raises:
        SettingError: ``byline.E140`` if there is no such program.
    """
    arguments = [*command]
    if arguments[:1] == ["--"]:
        arguments.pop(0)
    program = shutil.which(arguments[0]) if arguments else None
    if program is None:
        raise SettingError(
            "byline.E140",
            f"byline run finds no program {arguments[0]!r}" if arguments else "byline run got no program",
            "write the command that starts the app, e.g. byline run -- uvicorn main:app",
        )
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != _STARTUP]
    # Before all others, because Python imports only the first module of this name.
    os.environ["PYTHONPATH"] = os.pathsep.join([_STARTUP, *paths])
    os.execv(program, [program, *arguments[1:]])  # noqa: S606
