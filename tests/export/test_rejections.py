"""Refusals, wrong settings, and the end: nothing is lost that need not be, and nothing is said that must not be."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

import byline
from byline import errors, internal_metrics
from byline.destinations import OTLP, Langfuse
from byline.export.decisions import SpanFilters
from byline.export.delivery.batch import Batch, split_batch
from byline.export.span_copy import SpanCopy, make_span_context
from byline.genai.attributes import ORGANIZATION_ID
from byline.settings import SettingError
from byline.testing import Receiver
from byline.testing.server import Handler, Request
from tests.export.support import running
from tests.servers import patience


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


class Picky(Receiver):
    """Refuses batches that are too large, and those that have a span that displeases."""

    def __init__(self, *, most: int = 1_000_000, status: int = 413) -> None:
        super().__init__()
        self.most = most
        self.status = status

    def respond(self, request: Request, handler: Handler) -> None:
        from byline.testing.receiver import decode_export

        if request.path.endswith("/v1/traces"):
            spans = decode_export(request)
            if len(spans) > self.most or any(span.name == "bad" for span in spans):
                handler.reply(self.status, b"{}", {})
                return
        super().respond(request, handler)


def spans_of(label: str) -> dict[str, int]:
    start = f"{label}.spans."
    return {
        name.removeprefix(start): count
        for name, count in internal_metrics.counter_values().items()
        if name.startswith(start)
    }


@pytest.mark.parametrize("spooled", [False, True])
def test_a_batch_that_is_too_large_is_sent_in_parts(spooled: bool, tmp_path: Path) -> None:
    """Until the destination accepts the parts."""
    with Picky(most=3) as picky, running(OTLP(picky.url, spool=tmp_path if spooled else "")) as app:
        for number in range(20):
            app.chat(f"chat {number}")
        assert app.destinations[0].flush()
        assert sorted(span.name for span in picky.spans) == sorted(f"chat {number}" for number in range(20))
    assert spans_of("otlp")["sent"] == 20


@pytest.mark.parametrize("spooled", [False, True])
def test_one_span_that_displeases_costs_no_other_one(spooled: bool, tmp_path: Path) -> None:
    """It alone is dropped and counted."""
    with Picky(status=400) as picky, running(OTLP(picky.url, spool=tmp_path if spooled else "")) as app:
        for name in ("a", "b", "bad", "c", "d"):
            app.chat(name)
        app.destinations[0].flush()
        assert sorted(span.name for span in picky.spans) == ["a", "b", "c", "d"]
    found = spans_of("otlp")
    assert found["sent"] == 4
    assert found.get("dropped.refused", 0) + found.get("dropped.unsent", 0) == 1


def test_a_single_span_cannot_be_halved(receiver: Receiver) -> None:
    with running(OTLP(receiver.url)) as app:
        app.chat()
        app.destinations[0].flush()
    (request,) = [each for each in receiver.requests if each.path.endswith("/v1/traces")]
    assert split_batch(Batch(request.body, 1)) == []


def test_retry_after_of_zero_still_waits(receiver: Receiver) -> None:
    """Else thousands of posts would be made of one batch."""
    receiver.fail(429, times=None, headers={"retry-after": "0"})
    with running(OTLP(receiver.url)) as app:
        app.chat()
        app.destinations[0].flush(3.0)
        assert len(receiver.requests) < 10
        receiver.recover()


def test_headers_of_the_environment_go_to_its_own_endpoint_alone(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one has credentials of its own, or none."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20SECRET")
    with running(OTLP(receiver.url)) as app:
        app.chat()
        assert app.destinations[0].flush()
    assert all("SECRET" not in str(request.headers) for request in receiver.requests)


def test_spans_that_end_when_byline_is_gone_are_nobodys(receiver: Receiver) -> None:
    """They are not counted as dropped, however often byline comes and goes."""
    provider = TracerProvider(shutdown_on_exit=False)
    for _ in range(3):
        byline.instrument(tracer_provider=provider, destinations=[OTLP(receiver.url)], clients=())
        provider.get_tracer("app").start_span("in").end()
        byline.uninstrument()
        provider.get_tracer("app").start_span("out").end()
    assert [span.name for span in receiver.spans] == ["in"] * 3
    assert spans_of("otlp") == {"sent": 3}


def test_destinations_of_one_kind_have_different_labels(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """In counters and messages."""
    provider = TracerProvider(shutdown_on_exit=False)
    with Receiver(keys=("pk", "sk")) as other:
        both = [OTLP(receiver.url), OTLP(other.url)]
        byline.instrument(tracer_provider=provider, destinations=both, clients=())
        try:
            provider.get_tracer("app").start_span("x").end()
            byline.flush()
            assert byline.stats()["otlp.queue"] == byline.stats()["otlp-2.queue"] == 0
        finally:
            byline.uninstrument()
    assert spans_of("otlp") == {"sent": 1}
    assert spans_of("otlp-2") == {"dropped.unsent": 1}
    assert "otlp-2 refuses all spans" in caplog.text


def test_with_a_spool_spans_are_in_memory_alone_for_half_a_second(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spans on disk survive the process."""
    monkeypatch.delenv("OTEL_BSP_SCHEDULE_DELAY")
    destination = OTLP(receiver.url, spool=tmp_path)
    with running(destination) as app:
        app.chat()
        # Without a flush: the batch leaves by itself, long before the SDK's five seconds.
        assert receiver.wait_for(1, timeout=patience(4.0))


SECRET = "s3cr3t"
WRONG: dict[str, Callable[[], Any]] = {
    "scheme": lambda: OTLP(f"ftp://user:{SECRET}@host"),
    "no scheme": lambda: OTLP(f"user:{SECRET}@host:4318"),
    "query": lambda: OTLP(f"https://host/p?key={SECRET}"),
    "bracket": lambda: OTLP("http://[::1"),
    "port": lambda: OTLP("http://localhost:abc"),
    "large port": lambda: OTLP("http://localhost:99999"),
    "line break": lambda: OTLP("http://localhost\n:4318"),
    "number": lambda: OTLP(5),  # type: ignore[arg-type]
    "bytes": lambda: OTLP(b"http://localhost"),  # type: ignore[arg-type]
    "a name like loopback's": lambda: OTLP("http://127.evil.example"),
    "allow_http as text": lambda: OTLP("http://internal", allow_http="llm.internal.example"),
    "no allow_http": lambda: OTLP("https://h", allow_http=None),  # type: ignore[arg-type]
    "header with a line break": lambda: OTLP("https://h", headers={"authorization": f"{SECRET}\n"}),
    "header that is none": lambda: OTLP("https://h", headers={"authorization": None}),  # type: ignore[dict-item]
    "headers as text": lambda: OTLP("https://h", headers=f"authorization={SECRET}"),  # type: ignore[arg-type]
    "key with a line break": lambda: Langfuse("pk-lf-1", f"sk-lf-{SECRET}", "https://h\n"),
    "privacy": lambda: OTLP("https://h", privacy=SECRET),  # type: ignore[arg-type]
    "mask": lambda: OTLP("https://h", mask=SECRET),  # type: ignore[arg-type]
    "keys": lambda: OTLP("https://h", keys=SECRET),
    "where": lambda: OTLP("https://h", where=SECRET),  # type: ignore[arg-type]
    "keep_errors": lambda: OTLP("https://h", keep_errors="no"),  # type: ignore[arg-type]
    "framework_spans": lambda: OTLP("https://h", framework_spans=SECRET),  # type: ignore[arg-type]
    "root": lambda: OTLP("https://h", root=SECRET),  # type: ignore[arg-type]
    "spool": lambda: OTLP("https://h", spool=5),  # type: ignore[arg-type]
    "spool with nought": lambda: OTLP("https://h", spool="a\0b"),
}


@pytest.mark.parametrize("case", WRONG)
def test_invalid_settings_fail_at_construction_without_secrets(case: str) -> None:
    with pytest.raises(SettingError) as refused:
        WRONG[case]()
    assert SECRET not in str(refused.value)
    assert refused.value.id in str(refused.value)


@pytest.mark.parametrize("wrong", [[None], "http://x", OTLP("http://localhost")], ids=["none", "text", "no list"])
def test_wrong_destinations_change_nothing(wrong: Any, receiver: Receiver) -> None:
    """The corrected call works."""
    provider = TracerProvider(shutdown_on_exit=False)
    with pytest.raises(SettingError, match=r"byline\.E025"):
        byline.instrument(tracer_provider=provider, destinations=wrong)
    byline.instrument(tracer_provider=provider, destinations=[OTLP(receiver.url)], clients=())
    provider.get_tracer("app").start_span("x").end()
    byline.uninstrument()
    assert len(receiver.spans) == 1


def test_hosts_may_be_allowed_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a collector in the same cluster, of which only the environment knows."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel-collector:4318")
    with pytest.raises(SettingError, match="BYLINE_ALLOW_HTTP=otel-collector"):
        OTLP()
    monkeypatch.setenv("BYLINE_ALLOW_HTTP", "langfuse.internal, otel-collector")
    assert OTLP().endpoint == "http://otel-collector:4318/v1/traces"


def test_broken_headers_of_the_environment_are_not_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are most likely a key."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://host")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"a=b,Bearer {SECRET}")
    with pytest.raises(SettingError, match=r"byline\.E066: part 2") as refused:
        OTLP()
    assert SECRET not in str(refused.value) + caplog.text


@pytest.mark.parametrize("spooled", [False, True])
def test_headers_of_the_environment_that_are_for_nobody_are_not_read(
    spooled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenTelemetry's own parser logs invalid values."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"Bearer {SECRET}")
    with running(OTLP("http://127.0.0.1:4318", spool=tmp_path if spooled else "")):
        pass
    OTLP("http://127.0.0.1:4318").exporter().shutdown()
    assert SECRET not in caplog.text


def test_check_in_a_running_app_hides_only_its_own_warnings(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning is logged once only: a hidden warning would be lost."""
    errors.once.clear()

    def meanwhile(_: ReadableSpan) -> bool:
        errors.warn_once("full", "byline.E061: the spool of %s is full", "langfuse")
        errors.warn_once("check", "byline.E060: %s takes spans more slowly", "otlp-check")
        return True

    OTLP(receiver.url, where=meanwhile).check()
    assert [record.getMessage() for record in caplog.records] == ["byline.E061: the spool of langfuse is full"]


def test_brackets_in_a_pattern_are_no_more_than_brackets(receiver: Receiver) -> None:
    """Models have them in their names."""
    with running(OTLP(receiver.url, spans="llm", models=["claude-4[1m]", "gpt-*"])) as app:
        for model in ("claude-4[1m]", "claude-41", "gpt-5", "xgpt-5"):
            app.chat(model, **{"gen_ai.request.model": model})
        assert app.destinations[0].flush()
    assert sorted(span.name for span in receiver.spans) == ["claude-4[1m]", "gpt-5"]


def test_filters_of_many_patterns_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of tenants is long, and is looked through for every span."""
    many = SpanFilters(organizations=[f"org-{number}-*" for number in range(2000)])
    none = SpanFilters(organizations=[])
    monkeypatch.setattr(re, "compile", None)
    spans = [
        SpanCopy("span", make_span_context(1, 1), attributes={ORGANIZATION_ID: name})
        for name in ("org-1999-a", "org-2000-a", "")
    ]
    assert [many.accept(span) for span in spans] == [True, False, False]
    assert [none.accept(span) for span in spans] == [False, False, False]


def test_check_fails_if_spans_are_missing(receiver: Receiver) -> None:
    """And leaves the counters of the app alone."""
    with running(OTLP(receiver.url)) as app:
        receiver.reject(1)
        assert [result.ok for result in app.destinations[0].check()] == [True, True, False]
        assert byline.stats()["otlp.queue"] == 0
        assert "otlp.spans.sent" not in byline.stats()
    results = OTLP(receiver.url, sampling=0).check()
    assert [result.ok for result in results] == [True, False]


def test_spans_waiting_for_a_hanging_destination_are_counted_at_shutdown(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Span by span, and flushing again and again makes no thread each."""
    monkeypatch.setattr("byline.export.worker.SHUTDOWN_TIMEOUT", 0.2)
    receiver.hold()
    before = threading.active_count()
    with running(OTLP(receiver.url, label="hanging")) as app:
        for _ in range(600):
            app.chat()
        for _ in range(20):
            assert not app.destinations[0].flush(0.01)
        assert threading.active_count() - before < 6
        feed: Any = app.destinations[0].processor()
        feed.shutdown()
        receiver.release()
    # A batch of 512 is in flight, and counted as well if the busy worker gave up its post before the shutdown.
    lost = sum(count for name, count in spans_of("hanging").items() if name.startswith("dropped."))
    assert lost in (600 - 512, 600)
    assert "byline.E067" in caplog.text


@pytest.mark.parametrize("spooled", [False, True])
def test_a_destination_that_refuses_everything_is_not_asked_a_thousand_times(spooled: bool, tmp_path: Path) -> None:
    """A batch is halved some times, then it is the destination that displeases."""
    with Picky(most=0, status=400) as picky, running(OTLP(picky.url, spool=tmp_path if spooled else "")) as app:
        for _ in range(400):
            app.chat()
        app.destinations[0].flush()
        assert len(picky.requests) < 60
    found = spans_of("otlp")
    assert found.get("dropped.refused", 0) + found.get("dropped.unsent", 0) == 400
