"""Real components, started once for all tests that want them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.servers import free_port

#: In CI a missing component is a failure, never a skip.
REQUIRED = os.environ.get("BYLINE_REQUIRE_INTEGRATION") == "1"


def need(variable: str, fallback: str) -> str:
    """Return the program that a variable names, else the one on PATH; skip or fail without."""
    found = os.environ.get(variable) or shutil.which(fallback)
    if not found:
        message = f"{fallback} is not installed: .ci/run does that, or set {variable}"
        if REQUIRED:
            pytest.fail(message)
        pytest.skip(message)
    return found


def wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 600) -> None:
    """Wait for a server's answer; fail with the end of its log when it died."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(url, timeout=2).status_code < 500:
                return
        time.sleep(0.1)
    pytest.fail(f"{url} did not come up:\n{log.read_text(errors='replace')[-3000:]}")


@contextlib.contextmanager
def running(command: list[str], url: str, log: Path, env: dict[str, str]) -> Iterator[str]:
    """Run a server until the block ends, once it answers at ``url``."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **env})
    try:
        wait_until_up(url, process, log)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Phoenix:
    """An Arize Phoenix with a SQLite database of its own in a folder. After an end it starts with the same spans."""

    def __init__(self, directory: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._program = need("BYLINE_PHOENIX", "phoenix")
        self._log = directory / "log"
        self._env = {
            "PHOENIX_HOST": "127.0.0.1",
            "PHOENIX_PORT": str(port),
            "PHOENIX_GRPC_PORT": str(free_port()),
            "PHOENIX_WORKING_DIR": str(directory),
            "PHOENIX_TELEMETRY_ENABLED": "false",
        }
        self._running: contextlib.ExitStack | None = None

    def start(self) -> None:
        """Start the server unless it runs."""
        if self._running is None:
            with contextlib.ExitStack() as stack:
                stack.enter_context(running([self._program, "serve"], f"{self.url}/healthz", self._log, self._env))
                self._running = stack.pop_all()

    def stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None

    def spans(self) -> list[dict[str, Any]]:
        """Return all spans of the default project."""
        answer = httpx2.get(f"{self.url}/v1/projects/default/spans", params={"limit": 1000}, timeout=30)
        # Without any span there is no project yet.
        found: list[dict[str, Any]] = [] if answer.status_code == 404 else answer.raise_for_status().json()["data"]
        return found


@contextlib.contextmanager
def phoenix_server(directory: Path) -> Iterator[Phoenix]:
    """Run a Phoenix with an empty database in a folder."""
    server = Phoenix(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def phoenix_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phoenix]:
    """The Phoenix of all tests: creating its database takes longer than a test."""
    with phoenix_server(tmp_path_factory.mktemp("phoenix")) as server:
        yield server


@pytest.fixture(scope="session")
def phoenix(phoenix_process: Phoenix) -> str:
    """Base URL of a running Phoenix."""
    return phoenix_process.url
