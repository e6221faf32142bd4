"""Task queues with their own workers and a Redis: each task is attributed to the request that queued it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from byline.testing import Receiver
from tests.matrix import environments
from tests.matrix.cells import Cell
from tests.queues.send import KINDS
from tests.servers import free_port

#: Tasks of each kind; about eight reports come from each.
COUNT = int(os.environ.get("QUEUE_TASKS", "40"))

#: Queue → its packages, and the command of its worker.
QUEUES = {
    "celery": (("celery[redis]==5.7.0",), ["celery", "-A", "tests.queues.app", "worker", "-P", "prefork", "-c", "2"]),
    "celery-threads": (
        ("celery[redis]==5.7.0",),
        ["celery", "-A", "tests.queues.app", "worker", "-P", "threads", "-c", "4"],
    ),
    "celery-otel": (
        ("celery[redis]==5.7.0", "opentelemetry-instrumentation-celery==0.66b1"),
        ["celery", "-A", "tests.queues.app", "worker", "-P", "prefork", "-c", "2"],
    ),
    "rq": (("rq==3.0.0",), ["rq", "worker", "-c", "tests.queues.app", "--with-scheduler", "-u", "{redis}"]),
    "arq": (("arq==0.28.0",), ["arq", "tests.queues.app.WorkerSettings"]),
    "dramatiq": (
        ("dramatiq[redis]==2.2.1",),
        ["dramatiq", "tests.queues.app", "--processes", "1", "--threads", "4"],
    ),
    "taskiq": (
        ("taskiq==0.13.0", "taskiq-redis==1.2.4"),
        ["taskiq", "worker", "tests.queues.app:broker", "--workers", "1"],
    ),
}


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with redis_server() as url:
        yield url


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    program = os.environ.get("BYLINE_REDIS") or shutil.which("redis-server")
    if program is None:
        assert not os.environ.get("BYLINE_REQUIRE_INTEGRATION"), "redis-server is not installed"
        pytest.skip("redis-server is not installed")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert time.monotonic() < deadline, "redis-server did not start"
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()


def environment_of(name: str) -> Path:
    return environments.make(Cell(f"queue-{name.partition('-t')[0]}", name, (), QUEUES[name][0])).parent


def read_reports(bin_folder: Path, redis_url: str) -> list[list[Any]]:
    code = "import redis, sys; [print(x.decode()) for x in redis.Redis.from_url(sys.argv[1]).lrange('reports', 0, -1)]"
    run = subprocess.run(
        [str(bin_folder / "python"), "-c", code, redis_url], capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in run.stdout.splitlines()]


def run_tasks(name: str, redis_url: str, count: int, folder: Path) -> tuple[list[list[Any]], list[Any], str]:
    """Queue tasks and work on them. Returns their reports, their spans, and the output of the worker."""
    bin_folder = environment_of(name)
    url = f"{redis_url}/{list(QUEUES).index(name)}"
    seconds = 60 + 4 * count
    expected = count * sum(KINDS.values())
    with Receiver() as receiver:
        env = {
            **os.environ,
            "QUEUE": name,
            "REDIS": url,
            "DESTINATION": receiver.url,
            "PYTHONPATH": str(environments.ROOT),
        }
        env |= {"OTEL_BSP_SCHEDULE_DELAY": "600000", "BYLINE_SIGNING_KEY": "k" * 32}
        program, *arguments = QUEUES[name][1]
        command = [str(bin_folder / program), *(each.format(redis=url) for each in arguments)]
        log = (folder / "log").open("w+")
        with log, subprocess.Popen(command, cwd=environments.ROOT, env=env, stdout=log, stderr=log) as worker:
            try:
                sender = [str(bin_folder / "python"), "-m", "tests.queues.send", str(count)]
                subprocess.run(sender, cwd=environments.ROOT, env=env, check=True, timeout=seconds)
                deadline = time.monotonic() + seconds
                reports = read_reports(bin_folder, url)
                while len(reports) < expected and time.monotonic() < deadline and worker.poll() is None:
                    time.sleep(0.2)
                    reports = read_reports(bin_folder, url)
            finally:
                worker.send_signal(signal.SIGTERM)
                try:
                    worker.wait(60)
                except subprocess.TimeoutExpired:
                    worker.kill()
        spans = [span for span in receiver.spans if {"for.user", "request.of"} & span.attributes.keys()]
        return reports, spans, (folder / "log").read_text()


@pytest.mark.matrix
@pytest.mark.parametrize("name", QUEUES)
def test_tasks_belong_to_the_request_that_queued_them(name: str, redis_url: str, tmp_path: Path) -> None:
    """In the trace of that request. Retries and follow-up tasks too; a scheduled task belongs to nobody.

    Their spans arrive when the worker stops.
    """
    reports, spans, output = run_tasks(name, redis_url, COUNT, tmp_path)
    expected = Counter({kind: COUNT * reports for kind, reports in KINDS.items()})
    assert Counter(report[0] for report in reports) == expected, output[-4000:]
    assert [report for report in reports if report[2:] != [report[1], report[1] and f"of {report[1]}"]] == []
    requests = {user: span.trace_id for span in spans if (user := span.attributes.get("request.of"))}
    assert len(requests) == COUNT
    spans = [span for span in spans if "for.user" in span.attributes]
    assert [span for span in spans if span.attributes["for.user"] != span.attributes.get("user.id", "")] == []
    # The signature covers the trace, whatever spans the queue and its instrumentation put between.
    others = [span for span in spans if span.trace_id != requests.get(str(span.attributes["for.user"]), span.trace_id)]
    assert others == []
    assert len(spans) == expected.total(), output[-4000:]
    assert "byline.E" not in output
