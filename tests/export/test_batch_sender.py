"""The sender of one destination: failed batches are retried, and every span is counted once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from byline import internal_metrics
from byline.export.delivery.batch import decode_spans
from byline.export.delivery.batch_sender import BatchSender
from byline.testing import Receiver
from byline.testing.receiver import decode_export
from byline.testing.server import Handler, Request
from tests.export.batches import Clock, counted, make_batch, make_spans, sending
from tests.export.raw_server import RawServer, says

SOON = 20.0


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


@pytest.fixture(params=[False, True], ids=["memory", "spool"])
def spool(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "spool" if request.param else None


class Poisoned(Receiver):
    """Answers 500 to each batch that has a span named so."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def respond(self, request: Request, handler: Handler) -> None:
        if any(span.name == self.name for span in decode_export(request)):
            handler.reply(500, b"{}", {})
        else:
            super().respond(request, handler)


def names_at(receiver: Receiver) -> list[str]:
    return [span.name for span in receiver.spans]


def flush(sender: BatchSender, seconds: float = SOON) -> bool:
    return sender.flush(time.monotonic() + seconds)


def test_a_batch_arrives_and_is_counted(receiver: Receiver, spool: Path | None) -> None:
    with sending(receiver.url, spool) as sender:
        sender.add(make_spans("a", "b"))
        assert flush(sender)
        assert names_at(receiver) == ["a", "b"]
        assert sender.waiting_spans == 0
        assert sender.next_due() is None
        assert sender.last_response == "HTTP 200 OK"
    assert counted() == {"sent": 2, **({"spooled": 2} if spool else {})}


def test_a_batch_that_keeps_failing_stops_no_other(spool: Path | None) -> None:
    with Poisoned("bad") as receiver, sending(receiver.url, spool, patience=SOON) as sender:
        for name in ("bad", *(f"good {number}" for number in range(20))):
            sender.add(make_spans(name))
        if spool is None:
            sender.send_due()
        receiver.wait_for(20)
        assert sorted(names_at(receiver)) == sorted(f"good {number}" for number in range(20))
        assert not flush(sender, 0)
        values = sender.gauge_values()
        assert values["waiting.because.http_500"] == 1
        sender.close(time.monotonic() + SOON)
    assert counted()["sent"] == 20
    if spool is None:
        assert counted()["dropped.unsent"] == 1
    else:
        assert len(list(spool.iterdir())) == 1


def test_several_batches_that_keep_failing_stop_no_other(receiver: Receiver) -> None:
    """More of them than failures after which the destination is paused."""
    clock = Clock()
    with Poisoned("bad") as poisoned, sending(poisoned.url, clock=clock, patience=1e9, delay=lambda _: 1.0) as sender:
        for name in ("bad", "bad", "bad", "bad", "good 1", "good 2"):
            sender.add(make_spans(name))
        for _ in range(4):
            sender.send_due()
            clock.now += 2
        assert names_at(poisoned) == ["good 1", "good 2"]


def test_a_failure_of_the_destination_ends_the_round(receiver: Receiver) -> None:
    clock = Clock()
    receiver.fail(500, times=None)
    with sending(receiver.url, clock=clock, delay=lambda failures: 2.0**failures) as sender:
        for number in range(9):
            sender.add(make_spans(f"{number}"))
        sender.send_due()
        assert len(receiver.requests) == 2
        sender.send_due()
        assert len(receiver.requests) == 2
        assert sender.next_due() == clock.now + 1
        clock.now += 1
        receiver.recover()
        sender.send_due()
        assert len(receiver.spans) == 9


def test_a_destination_that_is_not_there_is_tried_with_one_batch(receiver: Receiver) -> None:
    receiver.stop()
    with sending(receiver.url, clock=Clock()) as sender:
        for number in range(9):
            sender.add(make_spans(f"{number}"))
        sender.send_due()
        assert internal_metrics.counter_values()["x.submissions"] == 1
        assert sender.gauge_values()["waiting.because.connection_refused"] == 9


def test_spans_in_memory_are_given_up_after_some_time(receiver: Receiver) -> None:
    clock = Clock()
    receiver.fail(503, times=None)
    with sending(receiver.url, clock=clock, patience=10.0, delay=lambda _: 1.0) as sender:
        sender.add(make_spans("a"))
        for _ in range(10):
            sender.send_due()
            assert sender.waiting_spans == 1
            clock.now += 1
        sender.send_due()
        assert sender.waiting_spans == 0
    assert counted() == {"dropped.unsent": 1}
    assert len(receiver.requests) == 11


def test_a_server_that_asks_to_wait_is_waited_for_in_memory(receiver: Receiver) -> None:
    """Also for longer than spans are retried otherwise, and nothing is sent meanwhile."""
    clock = Clock()
    receiver.fail(429, headers={"retry-after": "60"})
    with sending(receiver.url, clock=clock, patience=10.0) as sender:
        for number in range(200):
            sender.add(make_spans(f"{number}"))
        sender.send_due()
        assert sender.next_due() == clock.now + 60
        clock.now += 59
        sender.send_due()
        assert len(receiver.requests) == 1
        clock.now += 1
        sender.send_due()
        assert len(receiver.spans) == 200
    assert counted() == {"sent": 200}


def test_a_flush_waits_for_a_server_that_asks_for_less(receiver: Receiver, spool: Path | None) -> None:
    receiver.fail(503, headers={"retry-after": "0.2"})
    with sending(receiver.url, spool) as sender:
        sender.add(make_spans("a"))
        assert flush(sender)
    assert names_at(receiver) == ["a"]


def test_a_flush_does_not_wait_for_a_server_that_asks_for_more(receiver: Receiver, spool: Path | None) -> None:
    receiver.fail(503, headers={"retry-after": "3000"}, times=None)
    with sending(receiver.url, spool) as sender:
        sender.add(make_spans("a"))
        assert not flush(sender)
        receiver.recover()
        # The next one tries at once all the same.
        assert flush(sender)
    assert names_at(receiver) == ["a"]


def test_no_more_spans_are_rejected_than_were_sent(spool: Path | None) -> None:
    message = ExportTraceServiceResponse()
    message.partial_success.rejected_spans = 10**6
    body = message.SerializeToString()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with RawServer(says(head + body)) as server, sending(server.url, spool) as sender:
        sender.add(make_spans("a", "b"))
        assert flush(sender)
        assert sender.rejected_spans == 2
    assert counted()["dropped.rejected"] == 2
    assert counted()["sent"] == 0


def test_a_span_that_cannot_be_encoded_costs_no_other(receiver: Receiver, spool: Path | None) -> None:
    spans = make_spans("a", "b", "c", "d")
    spans[2]._name = None  # type: ignore[assignment]
    spans[2]._kind = None  # type: ignore[assignment]
    with sending(receiver.url, spool) as sender:
        sender.add(spans)
        flush(sender)
    assert sorted(names_at(receiver)) == ["a", "b", "d"]
    assert counted()["dropped.unsent"] == 1


class Own(SpanExporter):
    """An exporter of the user's own.

    Args:
        answer: Returns a result for the spans, or raises.
    """

    def __init__(self, answer: Callable[[list[ReadableSpan]], SpanExportResult]) -> None:
        self.answer = answer
        self.spans: list[ReadableSpan] = []
        self.calls = 0
        self.is_shut_down = False

    def export(self, spans: Any) -> SpanExportResult:
        self.calls += 1
        result = self.answer(list(spans))
        if result is SpanExportResult.SUCCESS:
            self.spans += spans
        return result

    def shutdown(self) -> None:
        self.is_shut_down = True


def test_custom_exporter_gets_the_given_spans(spool: Path | None) -> None:
    own = Own(lambda _: SpanExportResult.SUCCESS)
    spans = make_spans("a", "b", size=10)
    with sending("http://127.0.0.1:9", spool, exporter=own) as sender:
        sender.add(spans)
        assert flush(sender)
    assert [span.to_json() for span in own.spans] == [span.to_json() for span in spans]
    assert own.is_shut_down
    assert counted()["sent"] == 2


def test_an_exporter_of_ones_own_is_tried_again(spool: Path | None) -> None:
    answers = [SpanExportResult.FAILURE, SpanExportResult.SUCCESS]
    own = Own(lambda _: answers.pop(0))
    with sending("http://127.0.0.1:9", spool, exporter=own) as sender:
        sender.add(make_spans("a"))
        assert flush(sender) or flush(sender)
    assert [span.name for span in own.spans] == ["a"]
    assert counted()["sent"] == 1


def test_an_exporter_of_ones_own_that_raises_gets_the_halves(
    spool: Path | None, production: pytest.LogCaptureFixture
) -> None:
    def answer(spans: list[ReadableSpan]) -> SpanExportResult:
        if any(span.name == "bad" for span in spans):
            raise RuntimeError("with a prompt in it")
        return SpanExportResult.SUCCESS

    own = Own(answer)
    with sending("http://127.0.0.1:9", spool, exporter=own) as sender:
        sender.add(make_spans("a", "b", "bad", "c"))
        flush(sender)
    assert sorted(span.name for span in own.spans) == ["a", "b", "c"]
    found = counted()
    assert found["sent"] == 3
    assert found.get("dropped.unsent", 0) + found.get("dropped.refused", 0) == 1
    assert "with a prompt" not in production.text


def test_an_exporter_of_ones_own_that_fails_for_one_batch_gets_its_halves() -> None:
    """It says nothing of the reason, but that it takes all other batches."""
    clock = Clock()

    def answer(spans: list[ReadableSpan]) -> SpanExportResult:
        bad = any(span.name == "bad" for span in spans)
        return SpanExportResult.FAILURE if bad else SpanExportResult.SUCCESS

    own = Own(answer)
    with sending("http://127.0.0.1:9", exporter=own, clock=clock, patience=1e9) as sender:
        sender.add(make_spans("a", "bad", "b", "c"))
        for number in range(12):
            sender.add(make_spans(f"good {number}"))
            sender.send_due()
            clock.now += 1
    names = {span.name for span in own.spans}
    assert names == {"a", "b", "c", *(f"good {number}" for number in range(12))}
    assert counted() == {"sent": 15, "dropped.unsent": 1}


def test_spans_left_in_memory_at_shutdown_are_counted(receiver: Receiver) -> None:
    receiver.stop()
    with sending(receiver.url) as sender:
        sender.add(make_spans("a", "b"))
        sender.add(make_spans("c"))
        assert sender.close(time.monotonic() + SOON) == 3
    assert counted() == {"dropped.unsent": 3}


def test_each_batch_has_one_last_attempt(receiver: Receiver, spool: Path | None) -> None:
    receiver.fail(500, times=None)
    with sending(receiver.url, spool) as sender:
        sender.set_deadline(time.monotonic() + SOON)
        sender.add(make_spans("a"))
        assert not flush(sender)
        sender.close(time.monotonic() + SOON)
    assert len(receiver.requests) == 1


def test_nothing_is_sent_after_the_deadline(receiver: Receiver, spool: Path | None) -> None:
    with sending(receiver.url, spool) as sender:
        sender.set_deadline(0.0)
        sender.add(make_spans("a"))
        assert not flush(sender, 0.1)
    assert receiver.requests == []


def test_decoding_is_the_inverse_of_encoding() -> None:
    (span,) = decode_spans(make_batch(1, size=20))
    assert span.name == "span 0"
    assert span.context is not None
    assert span.context.trace_flags.sampled


def test_stats_count_each_outcome_of_spooled_spans(receiver: Receiver, tmp_path: Path) -> None:
    receiver.stop()
    with sending(receiver.url, tmp_path / "spool") as sender:
        sender.add(make_spans("a", "b"))
        assert not flush(sender)
        values = sender.gauge_values()
    assert (values["spool.files"], values["spool.spans"]) == (1, 2)
    assert values["waiting.seconds"] >= 0
    assert values["waiting.because.connection_refused"] == 1
    assert internal_metrics.counter_values()["x.submissions.failed"] >= 1
