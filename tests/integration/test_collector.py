"""A real collector between a real app and a real backend; it goes away for a while, and nothing is lost."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from byline import testing
from tests.export.client_requests import OPENROUTER
from tests.integration.conftest import REQUIRED, running, wait_until_up
from tests.integration.test_phoenix import spans_of
from tests.servers import free_port

pytestmark = pytest.mark.integration


def rotel() -> str:
    """Return the collector's program, which comes inside a wheel without its run bit."""
    named = os.environ.get("BYLINE_ROTEL")
    spec = importlib.util.find_spec("rotel")
    program = Path(named) if named else Path(str(spec.origin)).with_name("rotel-agent") if spec else None
    if program is None or not program.exists():
        message = "rotel is not installed: .ci/run does that, or set BYLINE_ROTEL"
        if REQUIRED:
            pytest.fail(message)
        pytest.skip(message)
    program.chmod(program.stat().st_mode | 0o111)
    return str(program)


@contextlib.contextmanager
def collector(port: int, backend: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the collector until the block ends, once it listens."""
    command = [rotel(), "start", "--otlp-http-endpoint", f"127.0.0.1:{port}"]
    command += ["--otlp-grpc-endpoint", f"127.0.0.1:{free_port()}", "--batch-timeout", "200ms"]
    command += ["--exporter", "otlp", "--otlp-exporter-endpoint", backend, "--otlp-exporter-protocol", "http"]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 30
        while True:
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < deadline, log.read_text(errors="replace")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask(app: str, session: str) -> None:
    body = {
        "model": "openai/gpt-4o",
        "messages": [{"role": "user", "content": "Hi"}],
        "user": "ada",
        "trace": {**OPENROUTER["trace"], "trace_id": session},
    }
    answer = httpx2.post(f"{app}/v1/chat/completions", json=body, headers={"x-session-id": session}, timeout=30)
    assert answer.status_code == 200


def test_spans_pass_a_collector_and_wait_while_the_collector_is_down(phoenix: str, tmp_path: Path) -> None:
    """The app is even killed meanwhile; each span is there once in the end, and the step between them."""
    collector_port, app_port = free_port(), free_port()
    base = f"http://127.0.0.1:{app_port}"
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector_port}",
        "BYLINE_SPOOL": str(tmp_path / "spool"),
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    command = [sys.executable, "-m", "uvicorn", "tests.integration.attributed_app:app", "--port", str(app_port)]
    with testing.Gateway() as gateway:
        env |= {"OPENAI_BASE_URL": f"{gateway.url}/api/v1", "OPENAI_API_KEY": "sk-test"}
        with collector(collector_port, phoenix, tmp_path / "collector"):
            with running(command, f"{base}/up", tmp_path / "app", env):
                ask(base, "collected-1")
            first = spans_of(phoenix, "collected-1", 3)
        with subprocess.Popen(command, env={**os.environ, **env}) as killed:
            wait_until_up(f"{base}/up", killed, tmp_path / "app")
            for _ in range(3):
                ask(base, "collected-2")
            assert httpx2.get(f"{base}/flush", timeout=30).json() == {"flushed": False}
            killed.kill()
        with (
            collector(collector_port, phoenix, tmp_path / "collector"),
            running(command, f"{base}/up", tmp_path / "app", env),
        ):
            second = spans_of(phoenix, "collected-2", 9)

    kinds: dict[str, int] = {}
    for span in [*first, *second]:
        kinds[span["name"]] = kinds.get(span["name"], 0) + 1
    assert kinds["Generate Summary"] == kinds["Summarization Step"] == 4
    ids = [span["context"]["span_id"] for span in [*first, *second]]
    assert len(set(ids)) == len(ids)
    by_id: dict[str, Any] = {span["context"]["span_id"]: span for span in [*first, *second]}
    for span in by_id.values():
        if span["name"] == "Generate Summary":
            step = by_id[span["parent_id"]]
            while step["name"] != "Summarization Step":
                step = by_id[step["parent_id"]]
            assert by_id[step["parent_id"]]["name"].startswith("POST")
