"""Delivery: temporary failures are retried, final ones are logged once, and every span is counted."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import byline
from byline import internal_metrics
from byline.export import OTLP, Destination, Langfuse
from byline.testing import Gateway, Receiver
from tests.export.support import App, running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


@pytest.fixture
def dead() -> str:
    """The address of a receiver that is gone."""
    with Receiver() as gone:
        return gone.url


def spans_of(name: str) -> dict[str, int]:
    """Return the counters of a destination's spans."""
    prefix = f"{name}.spans."
    return {
        key.removeprefix(prefix): count
        for key, count in internal_metrics.counter_values().items()
        if key.startswith(prefix)
    }


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 0])
def test_temporary_failure_is_retried(receiver: Receiver, status: int, production: pytest.LogCaptureFixture) -> None:
    destination = OTLP(receiver.url)
    with running(destination) as app:
        receiver.fail(status, headers={"retry-after": "0"})
        app.chat("one")
        assert destination.flush()
        assert [span.name for span in receiver.spans] == ["one"]
    assert spans_of("otlp") == {"sent": 1}
    assert internal_metrics.counter_values()["otlp.submissions"] == 2
    assert production.text.count("byline.E059") == 1


def test_a_server_that_asks_to_wait_is_waited_for(receiver: Receiver) -> None:
    destination = OTLP(receiver.url)
    with running(destination) as app:
        receiver.fail(429, headers={"retry-after": "1"})
        app.chat("one")
        started = time.monotonic()
        assert destination.flush()
        assert time.monotonic() - started >= 1
    assert spans_of("otlp") == {"sent": 1}


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "check its keys"), (403, "may write"), (404, "check its URL"), (307, "the URL that it redirects to")],
)
def test_final_refusal_is_logged_once_with_advice(
    receiver: Receiver, status: int, advice: str, production: pytest.LogCaptureFixture
) -> None:
    """And is not tried again."""
    destination = OTLP(receiver.url)
    with running(destination) as app:
        receiver.fail(status, times=None, headers={"location": f"{receiver.url}/elsewhere"})
        for _ in range(3):
            app.chat()
            assert not destination.flush()
    said = [record for record in production.records if record.name == "byline"]
    assert [record.levelname for record in said] == ["ERROR"]
    assert "byline.E057" in said[0].getMessage()
    assert advice in said[0].getMessage()
    assert internal_metrics.counter_values()["otlp.submissions"] == 3
    assert spans_of("otlp") == {"dropped.unsent": 3}


def test_a_web_page_has_taken_no_spans(production: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login page answers 200 to every request, and the spans are lost."""
    with Gateway() as site:
        site.answer("<html>Sign in</html>", headers={"content-type": "text/html"}, times=9)
        # The gateway takes posts at such paths alone.
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{site.base_url}/chat/completions")
        destination = OTLP()
        with running(destination) as app:
            app.chat()
            assert not destination.flush()
    assert spans_of("otlp") == {"dropped.unsent": 1}
    assert "byline.E057" in production.text
    assert "where a web page answers" in production.text


def test_unreachable_destination_is_logged_with_advice(
    receiver: Receiver, production: pytest.LogCaptureFixture
) -> None:
    """The advice does not depend on the words of the HTTP client."""
    receiver.stop()
    destination = OTLP(receiver.url)
    with running(destination) as app:
        destination.set_deadline(5)
        app.chat()
        assert not destination.flush()
    assert "at the moment (connection refused): check its port" in production.text


def test_a_batch_that_is_refused_for_itself_is_said_too(
    receiver: Receiver, production: pytest.LogCaptureFixture
) -> None:
    destination = OTLP(receiver.url)
    with running(destination) as app:
        receiver.fail(400)
        app.chat()
        assert not destination.flush()
        app.chat()
        assert destination.flush()
    assert "byline.E058" in production.text
    assert spans_of("otlp") == {"dropped.unsent": 1, "sent": 1}


def test_spans_that_are_rejected_out_of_a_batch_are_counted(receiver: Receiver) -> None:
    destination = OTLP(receiver.url)
    with running(destination) as app:
        receiver.reject(2)
        for _ in range(5):
            app.chat()
        destination.flush()
    assert spans_of("otlp") == {"sent": 3, "dropped.rejected": 2}


def test_every_batch_has_content_type_and_encoding(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a gzip would be read as protobuf. Headers of the environment are for its own endpoint."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=other")
    destination = OTLP(receiver.url, headers={"x-api-key": "k"})
    with running(destination) as app:
        for _ in range(2):
            app.chat()
            assert destination.flush()
    names = ("content-type", "content-encoding", "x-api-key", "authorization")
    said = [[request.headers.get(name) for name in names] for request in receiver.requests]
    assert said == [["application/x-protobuf", "gzip", "k", None]] * 2
    assert all("byline" in request.headers["user-agent"] for request in receiver.requests)


def test_credentials_follow_no_redirect(receiver: Receiver) -> None:
    """The other side would get keys and content."""

    class Redirecting(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(308)
            self.send_header("location", f"{receiver.url}/v1/traces")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Redirecting)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        destination = OTLP(f"http://127.0.0.1:{server.server_port}", headers={"x-api-key": "k"})
        with running(destination) as app:
            app.chat()
            assert not destination.flush()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert receiver.requests == []


def test_ten_thousand_spans_through_a_dead_destination_are_all_accounted_for(dead: str) -> None:
    """The queue keeps its length, and dropped spans are counted exactly."""
    destination = OTLP(dead)
    with running(destination) as app:
        feed: Any = destination.processor()
        longest = 0
        for _ in range(10_000):
            app.chat()
            longest = max(longest, feed.worker.waiting_spans)
        assert longest <= 2048
    counted = spans_of("otlp")
    assert counted["dropped.queue_full"] >= 10_000 - 2048 - 1024
    assert sum(counted.values()) == 10_000
    assert set(counted) == {"dropped.queue_full", "dropped.unsent"}
    assert feed.worker.waiting_spans == 0


def test_a_dead_destination_takes_no_more_memory_the_longer_it_is_dead(
    dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its queue is full, thousands of requests with all that is known of them leave nothing behind."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "40")

    def serve(count: int) -> int:
        for number in range(count):
            with app.request(session_id=f"s-{number}", trace_id=f"t-{number}", metadata={"key": "value" * 20}):
                app.chat(**{"gen_ai.input.messages": f"{number} {'prompt ' * 100}"})
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    # Log records refer to the failed batch, and pytest keeps log records.
    logging.disable(logging.CRITICAL)
    with running(OTLP(dead, spans="llm")) as app:
        tracemalloc.start()
        try:
            full = max(serve(100) for _ in range(2))
            later = min(serve(400) for _ in range(3))
        finally:
            tracemalloc.stop()
            logging.disable(logging.NOTSET)
    assert spans_of("otlp")["dropped.queue_full"] > 900
    # A batch may just be on its way: compared are the highest and the lowest of several moments. A kilobyte of each
    # request would be ten times as much.
    assert later < full * 2


def test_threads_lose_no_count(dead: str) -> None:
    """Many threads end spans at once, while the queue is full."""
    with running(OTLP(dead)) as app:

        def work() -> None:
            for _ in range(1000):
                app.chat()

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(spans_of("otlp").values()) == 8000


def test_one_destinations_trouble_is_not_anothers(receiver: Receiver, dead: str) -> None:
    """Neither a dead one's nor one's that never answers."""
    with Receiver() as slow:
        slow.hold()
        with running(OTLP(dead, label="dead"), OTLP(slow.url, label="slow"), OTLP(receiver.url)) as app:
            for _ in range(600):
                app.chat()
            assert app.destinations[2].flush()
            assert len(receiver.spans) == 600
            slow.release()
    assert spans_of("otlp") == {"sent": 600}
    assert spans_of("slow") == {"sent": 600}
    assert sum(spans_of("dead").values()) == 600


def test_a_flush_ends_in_time(receiver: Receiver) -> None:
    """However long the server takes."""
    receiver.hold()
    destination = OTLP(receiver.url)
    with running(destination) as app:
        app.chat()
        assert not destination.flush(0.2)
        receiver.release()
        assert destination.flush()
    assert len(receiver.spans) == 1


def test_spans_that_end_after_shutdown_are_counted(receiver: Receiver) -> None:
    destination = OTLP(receiver.url)
    with running(destination) as app:
        feed: Any = destination.processor()
        with app.span("late"):
            feed.shutdown()
    assert spans_of("otlp") == {"dropped.closed": 1}


def test_an_exporter_of_the_users_own_that_fails_is_counted(production: pytest.LogCaptureFixture) -> None:
    class Broken(Destination):
        name = "broken"

        def exporter(self) -> Any:
            class Exporter:
                def export(self, spans: Any) -> Any:
                    raise RuntimeError("with a prompt in it")

                def shutdown(self) -> None:
                    pass

            return Exporter()

    destination = Broken("http://127.0.0.1:1/v1/traces")
    app = App(destination)
    app.chat()
    assert not destination.flush()
    app.close()
    assert spans_of("broken") == {"dropped.unsent": 1}
    assert "with a prompt" not in production.text


def test_debug_prints_requests_without_secrets(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BYLINE_DEBUG", "1")
    destination = Langfuse("pk-lf-0123456789", "sk-lf-0123456789abcdef", receiver.url)
    with running(destination) as app:
        receiver.fail(503, headers={"retry-after": "0"})
        app.chat()
        assert destination.flush()
    said = capsys.readouterr().err
    assert f"{receiver.url}/api/public/otel/v1/traces" in said
    assert "with public key pk-lf-01234567…" in said
    assert "HTTP 503" in said
    assert "HTTP 200" in said
    for secret in (destination.headers["Authorization"], "sk-lf-0123456789abcdef"):
        assert secret not in said


def test_stats_contain_the_counters(receiver: Receiver) -> None:
    destination = OTLP(receiver.url, label="collector")
    with running(destination) as app:
        app.chat()
        destination.flush()
        assert byline.stats()["collector.spans.sent"] == 1


@pytest.mark.integration
def test_metrics_contain_the_counters(receiver: Receiver, tmp_path: Path) -> None:
    """In a process of its own, for the global meter provider is set once."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", METRICS, receiver.url, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OTEL_BSP_SCHEDULE_DELAY": "60000"},
    )
    assert done.returncode == 0, done.stderr
    # The SDK has metrics of its own.
    found = {name: value for name, value in json.loads(done.stdout) if name.startswith("byline.")}
    assert found == {
        "byline.spans destination=collector outcome=sent": 2,
        "byline.spans destination=collector outcome=spooled": 2,
        "byline.submissions destination=collector outcome=accepted": 1,
        "byline.submissions destination=collector outcome=failed": 0,
        "byline.calls": 0,
        "byline.queue destination=collector": 1,
        "byline.spool destination=collector unit=files": 0,
        "byline.spool destination=collector unit=spans": 0,
        "byline.spool destination=collector unit=bytes": 0,
    }


METRICS = """
import json, sys
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
import byline
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
byline.instrument(destinations=[byline.destinations.OTLP(sys.argv[1], label="collector", spool=sys.argv[2])])
tracer = trace.get_tracer("app")
tracer.start_span("one").end()
tracer.start_span("two").end()
assert byline.flush()
tracer.start_span("three").end()
told = []
for resource in reader.get_metrics_data().resource_metrics:
    for scope in resource.scope_metrics:
        for metric in scope.metrics:
            for point in metric.data.data_points:
                name = " ".join([metric.name, *(f"{k}={v}" for k, v in sorted(point.attributes.items()))])
                told.append((name, point.value))
assert byline.stats()["collector.queue"] == 1
print(json.dumps(told))
"""


@pytest.mark.parametrize("label", ["", "Upper", "a b", "../x", 1])
def test_labels_that_are_no_names(label: Any) -> None:
    with pytest.raises(byline.SettingError, match=r"byline\.E055"):
        OTLP("https://collector.example", label=label)
