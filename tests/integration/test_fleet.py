"""Two apps and two OpenTelemetry Collectors with the example's configuration: sampling, outages and a SIGKILL."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from byline.export.decisions import is_sampled
from byline.testing import Gateway, ReceivedSpan, Receiver
from tests.export import langfuse_model
from tests.integration.conftest import Phoenix, running, wait_until_up
from tests.servers import free_port

pytestmark = pytest.mark.integration

EXAMPLE = Path(__file__).parents[2] / "examples" / "collector"
KEYS = ("pk-lf-fleet", "sk-lf-fleet")
SESSIONS = [f"fleet-{number}" for number in range(24)]
KEPT = {session for session in SESSIONS if is_sampled(session, 0.25)}
#: The exporters of config.yaml.
BACKENDS = ("otlp_http/langfuse", "otlp_http/backend")
#: A session that is not kept; one of its requests fails.
FAILING = next(session for session in SESSIONS if session not in KEPT)


def collector_program() -> str:
    found = os.environ.get("BYLINE_COLLECTOR") or shutil.which("otelcol-contrib")
    if not found:
        pytest.skip("no Collector: .ci/collector builds one, set BYLINE_COLLECTOR to the path that it prints")
    return found


class CollectorProcess:
    """One Collector of the fleet, with the example's two files and its own ports and disk."""

    def __init__(self, folder: Path, peers: Sequence[int], number: int, backends: dict[str, str]) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self._health, self._metrics = free_port(), free_port()
        self._log = folder / f"collector-{number}.log"
        self._process: subprocess.Popen[bytes] | None = None
        reader = f"[{{pull: {{exporter: {{prometheus: {{host: 127.0.0.1, port: {self._metrics}}}}}}}}}]"
        own = {
            "receivers::otlp::protocols::http::endpoint": f"127.0.0.1:{port}",
            "receivers::otlp/peers::protocols::grpc::endpoint": f"127.0.0.1:{peers[number]}",
            "extensions::health_check::endpoint": f"127.0.0.1:{self._health}",
            "extensions::file_storage::directory": str(folder / f"queue-{number}"),
            "exporters::load_balancing::retry_on_failure::max_interval": "1s",
            "exporters::otlp_http/langfuse::retry_on_failure::max_interval": "1s",
            "exporters::otlp_http/backend::retry_on_failure::max_interval": "1s",
            "service::telemetry::metrics::readers": reader,
        }
        self._command = [collector_program(), "--config", str(EXAMPLE / "config.yaml")]
        self._command += ["--config", str(EXAMPLE / "fleet.yaml")]
        for name, value in own.items():
            self._command += ["--config", f"yaml:{name}: {value}"]
        peer_list = ",".join(f"127.0.0.1:{peer}" for peer in peers)
        self._env = {**os.environ, **backends, "COLLECTORS": f"[{peer_list}]"}

    def start(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=subprocess.STDOUT, env=self._env)
        wait_until_up(f"http://127.0.0.1:{self._health}", self._process, self._log, 60)

    def kill(self) -> None:
        """End the process with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def waiting(self, exporter: str) -> int:
        """Return how many spans are in the queue of an exporter."""
        text = httpx2.get(f"http://127.0.0.1:{self._metrics}/metrics", timeout=10).text
        sizes = re.findall(rf'^otelcol_exporter_queue_size{{[^}}]*exporter="{exporter}"[^}}]*}} (\S+)', text, re.M)
        return int(sum(map(float, sizes)))


@contextlib.contextmanager
def fleet(folder: Path, langfuse: Receiver, backend: str) -> Iterator[list[CollectorProcess]]:
    backends = {
        "LANGFUSE_BASE_URL": langfuse.url,
        "LANGFUSE_PUBLIC_KEY": KEYS[0],
        "LANGFUSE_SECRET_KEY": KEYS[1],
        "BACKEND_ENDPOINT": backend,
    }
    peers = [free_port(), free_port()]
    collectors = [CollectorProcess(folder, peers, number, backends) for number in range(2)]
    try:
        for collector in collectors:
            collector.start()
        yield collectors
    finally:
        for collector in collectors:
            collector.kill()


@contextlib.contextmanager
def serve_app(folder: Path, name: str, endpoint: str, gateway: Gateway) -> Iterator[str]:
    port = free_port()
    env = {
        "FLEET_ENDPOINT": endpoint,
        "BYLINE_SPOOL": str(folder / name),
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OPENAI_BASE_URL": gateway.base_url,
        "OPENAI_API_KEY": "sk-test",
    }
    command = [sys.executable, "-m", "uvicorn", "tests.integration.fleet_app:app", "--port", str(port)]
    base = f"http://127.0.0.1:{port}"
    with running(command, f"{base}/up", folder / f"{name}.log", env):
        yield base


def ask(app: str, session: str, turn: int, gateway: Gateway) -> None:
    fails = session == FAILING and turn == 1
    if fails:
        gateway.fail(400)
    trace = {"trace_id": f"{session}-{turn}", "trace_name": "Chat", "span_name": "Answer", "generation_name": "Write"}
    body = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "user": "ada", "trace": trace}
    answer = httpx2.post(f"{app}/v1/chat/completions", json=body, headers={"x-session-id": session}, timeout=60)
    assert answer.status_code == (500 if fails else 200)


def ask_all(apps: Sequence[str], turns: Sequence[int], gateway: Gateway) -> None:
    """Send the turns of all sessions; the turns of one session go to both apps."""
    for number, session in enumerate(SESSIONS):
        for turn in turns:
            ask(apps[(number + turn) % len(apps)], session, turn, gateway)


def wait_for(wanted: int, count: Callable[[], int]) -> None:
    """Wait until a number of spans is reached."""
    deadline = time.monotonic() + 300
    while (found := count()) != wanted:
        assert time.monotonic() < deadline, f"{found} spans, not {wanted}"
        time.sleep(0.05)


def wait_for_queues(collectors: Sequence[CollectorProcess], exporters: Sequence[str], spans: int) -> None:
    """Wait until this many spans are in the queue of each exporter, in all Collectors together."""
    for exporter in exporters:
        wait_for(spans, functools.partial(lambda name: sum(each.waiting(name) for each in collectors), exporter))


def unique(spans: Sequence[ReceivedSpan]) -> list[ReceivedSpan]:
    """Return each span once, by start: a Collector that is killed sends what it had not confirmed again."""
    return sorted({span.span_id: span for span in spans}.values(), key=lambda span: span.start)


def fleet_spans(phoenix: Phoenix) -> list[dict[str, Any]]:
    """Return the spans of this test in Phoenix, which other tests use too."""
    return [span for span in phoenix.spans() if str(span["attributes"].get("session.id")) in SESSIONS]


def shape(spans: Sequence[ReceivedSpan]) -> dict[str, Any]:
    """Return what Langfuse shows of spans, without their times and the ids that differ between two runs."""
    shown = langfuse_model.shown(spans, "direct")
    names = {item.id: item.name for item in shown}
    observations = sorted(
        (item.trace_id, item.name, names.get(item.parent or ""), item.session, item.user, item.cost.get("total"))
        for item in shown
    )
    return {
        "traces": {key: trace._replace(metadata={}) for key, trace in langfuse_model.traces(spans, "direct").items()},
        "observations": observations,
        "cost of sessions": {
            name: round(cost, 9) for name, cost in langfuse_model.session_cost(spans, "direct").items()
        },
    }


@pytest.mark.parametrize("files", [["config.yaml"], ["config.yaml", "fleet.yaml"]])
def test_the_configurations_are_valid(files: list[str]) -> None:
    names = ("LANGFUSE_BASE_URL", "BACKEND_ENDPOINT", "LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY")
    env = {**os.environ, **dict.fromkeys(names, "http://127.0.0.1:1"), "COLLECTORS": "[127.0.0.1:1, 127.0.0.1:2]"}
    command = [collector_program(), "validate", *(f"--config={EXAMPLE / file}" for file in files)]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_whole_sessions_arrive_over_an_outage_and_a_sigkill(phoenix_process: Phoenix, tmp_path: Path) -> None:
    """Kept are a quarter of the sessions, the same ones in both Collectors, and the trace with the error.

    The backends, Phoenix and a receiver in place of Langfuse, are down from the beginning, and one Collector is killed
    while spans are in its queues. In the end, both have the spans that they would have got from one app without a
    Collector.
    """
    with Gateway() as gateway, Receiver() as direct, serve_app(tmp_path, "direct", direct.url, gateway) as app:
        ask_all([app], range(4), gateway)
        assert httpx2.get(f"{app}/flush", timeout=30).json() == {"flushed": True}
        all_spans = direct.spans
    failed = {span.trace_id for span in all_spans if span.status == "ERROR"}
    assert len(failed) == 1
    expected = unique([span for span in all_spans if span.attributes["session.id"] in KEPT or span.trace_id in failed])
    per_turn = len(all_spans) // len(SESSIONS) // 4
    assert len(expected) == per_turn * (len(KEPT) * 4 + 1)

    with contextlib.ExitStack() as stack:
        stack.callback(phoenix_process.start)
        phoenix_process.stop()
        gateway, langfuse = stack.enter_context(Gateway()), stack.enter_context(Receiver(keys=KEYS))
        collectors = stack.enter_context(fleet(tmp_path, langfuse, phoenix_process.url))
        apps = [
            stack.enter_context(serve_app(tmp_path, f"app-{number}", collector.url, gateway))
            for number, collector in enumerate(collectors)
        ]
        langfuse.fail(503, times=None)

        ask_all(apps, range(2), gateway)
        for app in apps:
            assert httpx2.get(f"{app}/flush", timeout=30).json() == {"flushed": True}
        wait_for_queues(collectors, BACKENDS, per_turn * (len(KEPT) * 2 + 1))
        assert all(collector.waiting("otlp_http/langfuse") for collector in collectors)

        collectors[0].kill()
        # The first app's spans wait in its spool, those of the second app for the dead Collector in the other one.
        ask_all(apps, range(2, 4), gateway)
        collectors[0].start()
        langfuse.recover()
        phoenix_process.start()
        wait_for(len(expected), lambda: len(unique(langfuse.spans)))
        wait_for(len(expected), lambda: len(fleet_spans(phoenix_process)))
        for app in apps:
            assert httpx2.get(f"{app}/flush", timeout=30).json() == {"flushed": True}
        wait_for_queues(collectors, ("load_balancing", *BACKENDS), 0)
        arrived = unique(langfuse.spans)
        in_phoenix = fleet_spans(phoenix_process)
        sessions = httpx2.get(f"{phoenix_process.url}/v1/projects/default/sessions", timeout=30).json()["data"]

    assert shape(arrived) == shape(expected)
    # Phoenix has the same spans under the same ids, and its sessions are the whole ones.
    assert sorted(
        (
            span["context"]["trace_id"],
            span["context"]["span_id"],
            span["parent_id"],
            span["name"],
            span["attributes"]["session.id"],
            span["attributes"]["user.id"],
            span["attributes"].get("gen_ai.usage.cost"),
            span["status_code"] == "ERROR",
        )
        for span in in_phoenix
    ) == sorted(
        (
            span.trace_id,
            span.span_id,
            span.parent_id or None,
            span.name,
            span.attributes["session.id"],
            span.attributes["user.id"],
            span.attributes.get("gen_ai.usage.cost"),
            span.status == "ERROR",
        )
        for span in arrived
    )
    turns = {each["session_id"]: len(each["traces"]) for each in sessions if each["session_id"] in SESSIONS}
    assert turns == {**dict.fromkeys(KEPT, 4), FAILING: 1}
