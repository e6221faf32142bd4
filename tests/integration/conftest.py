"""Real components, started once for all tests that want them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

#: In CI a missing component is a failure, never a skip.
REQUIRED = os.environ.get("BYLINE_REQUIRE_INTEGRATION") == "1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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


@contextlib.contextmanager
def phoenix_server(directory: Path) -> Iterator[str]:
    """Run an Arize Phoenix with an empty SQLite database in a folder; gives its base URL."""
    program = need("BYLINE_PHOENIX", "phoenix")
    port = free_port()
    env = {
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(free_port()),
        "PHOENIX_WORKING_DIR": str(directory),
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }
    base = f"http://127.0.0.1:{port}"
    with running([program, "serve"], f"{base}/healthz", directory / "log", env):
        yield base


@pytest.fixture(scope="session")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of an Arize Phoenix with an empty SQLite database."""
    with phoenix_server(tmp_path_factory.mktemp("phoenix")) as base:
        yield base
