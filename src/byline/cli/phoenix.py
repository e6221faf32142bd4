"""Runs Arize Phoenix, which shows traces in the browser, for ``byline demo --open``."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from byline.settings import SettingError, program_command

#: Seconds that Phoenix may take to start: it creates a database first.
_START_TIMEOUT: Final = 120.0


@contextlib.contextmanager
def serve() -> Iterator[str]:
    """Run Phoenix with an empty database during the block and yield its URL.

    Raises:
        SettingError: ``byline.E160`` if Phoenix is not installed or does not start.
    """
    program = shutil.which("phoenix")
    if program is None:
        raise SettingError(
            "byline.E160",
            "Phoenix is not installed",
            f"run: {program_command('arize-phoenix')}, or use --otlp for another backend",
        )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        port, grpc_port = _free_port(), _free_port()
        settings = {
            "PHOENIX_HOST": "127.0.0.1",
            "PHOENIX_PORT": str(port),
            "PHOENIX_GRPC_PORT": str(grpc_port),
            "PHOENIX_WORKING_DIR": folder,
            "PHOENIX_TELEMETRY_ENABLED": "false",
        }
        print("Phoenix starts, which may take a minute …", file=sys.stderr, flush=True)
        log = Path(folder) / "phoenix.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [program, "serve"], env={**os.environ, **settings}, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            url = f"http://127.0.0.1:{port}"
            if not _answers(f"{url}/healthz", process):
                last = (log.read_text(errors="replace").strip() or f"exit code {process.poll()}").splitlines()[-1]
                raise SettingError("byline.E160", f"Phoenix did not start: {last}", "run: phoenix serve, to see why")
            yield url
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def show(url: str) -> None:
    """Open a page in the browser and wait for Ctrl-C."""
    print(f"Phoenix shows the traces at {url}. Stop with Ctrl-C.", file=sys.stderr, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        webbrowser.open(url)
        while True:
            time.sleep(3600)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):  # noqa: S310 - a URL of this module
            return True
        time.sleep(0.1)
    return False
