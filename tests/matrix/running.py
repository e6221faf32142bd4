"""Runs a cell in its environment and reads its result."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.matrix import environments
from tests.matrix.cells import Cell

#: Far more than a cell takes; a call that byline made hang is found by it.
SECONDS = 120


def run(cell: Cell, program: str = "tests.matrix.scenario", *arguments: str) -> dict[str, Any]:
    """Run all scenarios of a cell, or another program in its environment.

    Raises:
        RuntimeError: It fails, hangs, or a hook of byline's failed within it; with the end of its output.
    """
    python = environments.make(cell)
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "found.json"
        command = [str(python), "-m", program, cell.name, str(target), *arguments]
        try:
            done = subprocess.run(
                command, cwd=environments.ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{cell.name} hangs:\n{_end(error.stderr)}") from error
        if done.returncode or not target.exists():
            raise RuntimeError(f"{cell.name} failed:\n{_end(done.stdout)}{_end(done.stderr)}")
        found: dict[str, Any] = json.loads(target.read_text())
        failed = {name: count for name, count in found["stats"].items() if name.startswith("errors.")}
        if failed:
            raise RuntimeError(f"byline failed within {cell.name}: {failed}\n{_end(done.stderr)}")
        return found


def _end(output: str | bytes | None) -> str:
    text = output.decode(errors="replace") if isinstance(output, bytes) else output or ""
    return text[-4000:]
