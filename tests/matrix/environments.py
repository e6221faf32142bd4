"""A virtual environment for each cell, created once and kept while its packages stay the same."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, Protocol

from tests.matrix.cells import CELLS

ROOT: Final = Path(__file__).parent.parent.parent
_MADE: Final = ".installed"


class Packages(Protocol):
    """A row of a matrix with its packages."""

    @property
    def name(self) -> str:
        """The name of its environment."""

    @property
    def packages(self) -> tuple[str, ...]:
        """What is installed beside byline."""


def directory() -> Path:
    """Return the folder of the environments; ``BYLINE_MATRIX_VENVS`` names another one."""
    return Path(os.environ.get("BYLINE_MATRIX_VENVS") or ROOT / ".ci" / "venvs" / "matrix")


def make(cell: Packages) -> Path:
    """Return the Python of a cell's environment, with byline from this checkout. Creates it if needed."""
    # Cells that differ in a setting alone share one.
    place = directory() / next((other.name for other in CELLS if other.packages == cell.packages), cell.name)
    python = place / "bin" / "python"
    wanted = _describe(cell)
    made = place / _MADE
    place.parent.mkdir(parents=True, exist_ok=True)
    # Tests that run in parallel want the same one.
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists() or made.read_text() != wanted:
            shutil.rmtree(place, ignore_errors=True)
            _install(place, python, cell)
            made.write_text(wanted)
    return python


def _install(place: Path, python: Path, cell: Packages) -> None:
    uv = os.environ.get("BYLINE_UV") or shutil.which("uv")
    if uv:
        _run([uv, "venv", "-q", "--python", sys.executable, str(place)])
        _run([uv, "pip", "install", "-q", "--python", str(python), "-e", str(ROOT), *cell.packages])
    else:
        _run([sys.executable, "-m", "venv", str(place)])
        _run([str(python), "-m", "pip", "install", "-q", "-e", str(ROOT), *cell.packages])


def _describe(cell: Packages) -> str:
    project = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    return "\n".join((sys.version, project, *cell.packages))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
