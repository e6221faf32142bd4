"""Orderly ends: whatever server runs the app, and however it is told to stop, nothing that waits is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from byline.testing import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


GUNICORN = ["gunicorn", "--graceful-timeout", "10", "--bind", "127.0.0.1:{port}", "--workers", "2"]
ASGI = "tests.export.served_app:asgi_app"
PLAIN = "tests.export.served_app:plain_app"
WSGI = "tests.export.served_app:wsgi_app"
SERVERS = {
    "uvicorn": ["uvicorn", "--port", "{port}", ASGI],
    "uvicorn around an app without lifespan": ["uvicorn", "--port", "{port}", PLAIN],
    "hypercorn": ["hypercorn", "--bind", "127.0.0.1:{port}", ASGI],
    "uvicorn with workers": ["uvicorn", "--port", "{port}", "--workers", "2", ASGI],
    "gunicorn": [*GUNICORN, WSGI],
    "gunicorn preloaded": [*GUNICORN, "--preload", WSGI],
    "gunicorn with threads": [*GUNICORN, "--worker-class", "gthread", "--threads", "2", WSGI],
    "gunicorn with uvicorn": [*GUNICORN, "--worker-class", "uvicorn_worker.UvicornWorker", ASGI],
    "gunicorn with uvicorn, preloaded": [
        *GUNICORN, "--worker-class", "uvicorn_worker.UvicornWorker", "--preload", ASGI,
    ],
}  # fmt: skip


@contextlib.contextmanager
def served(command: list[str], url: str, log: Path, **env: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    # Nothing is sent before the end.
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "600000", **env}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *(part.format(port=port) for part in command)],
            env={**os.environ, **env},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + 30
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.05)
        yield address, process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.mark.parametrize("server", SERVERS)
def test_sigterm_loses_nothing(receiver: Receiver, tmp_path: Path, server: str) -> None:
    with served(SERVERS[server], receiver.url, tmp_path / "log") as (address, process):
        for _ in range(20):
            assert requests.get(address, timeout=10).text == "ok"
        assert receiver.spans == []
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    spans = [span for span in receiver.spans if span.name == "chat"]
    assert len(spans) == 20, (tmp_path / "log").read_text()
    assert len({span.span_id for span in receiver.spans}) == len(receiver.spans) == 40
    assert b"Traceback" not in (tmp_path / "log").read_bytes()


@pytest.mark.parametrize("server", ["uvicorn", "gunicorn"])
def test_a_dead_destination_does_not_hold_up_the_end(tmp_path: Path, server: str) -> None:
    """Well within the time that supervisors give."""
    with Receiver() as gone:
        pass
    with served(SERVERS[server], gone.url, tmp_path / "log") as (address, process):
        assert requests.get(address, timeout=10).text == "ok"
        process.send_signal(signal.SIGTERM)
        process.wait(15)


SCRIPT = """
import sys
from opentelemetry import trace
import byline
byline.instrument()
trace.get_tracer("app").start_span("chat", attributes={"gen_ai.operation.name": "chat"}).end()
"""


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise KeyboardInterrupt"])
def test_a_script_that_ends_has_sent_its_spans(receiver: Receiver, end: str) -> None:
    env = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
    subprocess.run([sys.executable, "-c", SCRIPT + end], env=env, capture_output=True, check=False)
    assert [span.name for span in receiver.spans] == ["chat"]


def test_a_provider_of_the_apps_own_that_shuts_nothing_down_loses_nothing_either(receiver: Receiver) -> None:
    code = SCRIPT.replace(
        "byline.instrument()",
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))\nbyline.instrument()",
    )
    env = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
    subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert [span.name for span in receiver.spans] == ["chat"]
