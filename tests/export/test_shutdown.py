"""Orderly shutdown: nothing in a queue is lost, with any server and any way to stop it."""

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
from tests.servers import free_port, patience

pytestmark = pytest.mark.integration


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


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
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.05)
        yield address, process
    finally:
        # With its workers, which outlive a master that is killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("server", SERVERS)
def test_sigterm_loses_nothing(receiver: Receiver, tmp_path: Path, server: str) -> None:
    with served(SERVERS[server], receiver.url, tmp_path / "log") as (address, process):
        for _ in range(20):
            assert requests.get(address, timeout=120).text == "ok"
        assert receiver.spans == []
        process.send_signal(signal.SIGTERM)
        process.wait(120)
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
        assert requests.get(address, timeout=120).text == "ok"
        process.send_signal(signal.SIGTERM)
        process.wait(patience(15))


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


CHILDREN = """
import multiprocessing as mp
import sys
from concurrent.futures import ProcessPoolExecutor
from opentelemetry import trace
import byline

def work(name):
    byline.instrument()
    trace.get_tracer("app").start_span(name).end()

if __name__ == "__main__":
    byline.instrument()
    context = mp.get_context(sys.argv[1])
    if sys.argv[2] == "process":
        child = context.Process(target=work, args=("child",))
        child.start()
        child.join()
    elif sys.argv[2] == "pool":
        with context.Pool(1) as pool:
            pool.map(work, ["child"])
            pool.close()
            pool.join()
    else:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            list(pool.map(work, ["child"]))
    work("parent")
"""


@pytest.mark.parametrize(
    ("start", "kind", "spooled"),
    [
        ("fork", "process", False),
        ("fork", "process", True),
        ("forkserver", "process", False),
        ("spawn", "process", False),
        ("fork", "pool", False),
        ("fork", "executor", False),
    ],
)
def test_children_of_multiprocessing_send_their_spans(
    receiver: Receiver, tmp_path: Path, start: str, kind: str, spooled: bool
) -> None:
    """They end without the interpreter's own end."""
    script = tmp_path / "script.py"
    script.write_text(CHILDREN)
    env = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
    if spooled:
        env["BYLINE_SPOOL"] = str(tmp_path / "spool")
    done = subprocess.run(
        [sys.executable, str(script), start, kind], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert sorted(span.name for span in receiver.spans) == ["child", "parent"]
    assert [path for path in (tmp_path / "spool").rglob("*") if path.is_file()] == []


MANY = """
import sys
from opentelemetry import trace
import byline
from byline.destinations import OTLP
*hanging, good = sys.argv[2:]
byline.instrument(
    destinations=[*(OTLP(url, label=f"hangs-{n}", spool=sys.argv[1]) for n, url in enumerate(hanging)), OTLP(good)],
    clients=(),
)
trace.get_tracer("app").start_span("chat").end()
"""


PAUSE = "import byline.shutdown; byline.shutdown.hooks.on_server_stop(); import os; os._exit(0)"


@pytest.mark.parametrize(("spooled", "end"), [(False, ""), (True, ""), (False, PAUSE)])
def test_destinations_that_hang_take_no_time_of_the_others(
    receiver: Receiver, tmp_path: Path, spooled: bool, end: str
) -> None:
    """At the end of a process, which all together hold up for some seconds."""
    with Receiver() as one, Receiver() as two, Receiver() as three:
        for each in (one, two, three):
            each.hold()
        spool = str(tmp_path) if spooled else ""
        command = [sys.executable, "-c", MANY + end, spool, one.url, two.url, three.url, receiver.url]
        env = {**os.environ, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        subprocess.run(command, env=env, capture_output=True, check=True, timeout=patience(12))
    assert [span.name for span in receiver.spans] == ["chat"]


def test_a_child_that_ends_at_once_sends_its_spans(receiver: Receiver, tmp_path: Path) -> None:
    """There are no threads any more by then in newer Pythons, so that it sends them by itself."""
    code = (
        SCRIPT + "import os\nif os.fork() == 0:\n    trace.get_tracer('app').start_span('child').end()\nelse: os.wait()"
    )
    env = {
        **os.environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_BSP_SCHEDULE_DELAY": "600000",
        "BYLINE_SPOOL": str(tmp_path),
    }
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, check=True, timeout=120)
    assert sorted(span.name for span in receiver.spans) == ["chat", "child"]
