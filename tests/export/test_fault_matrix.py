"""Every fault of a destination, with and without a spool, by every end of a process: each span arrives or is counted.

A span comes twice only if the destination had accepted it and its response was lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from byline.export import OTLP
from byline.testing import Receiver
from tests.export.batches import Clock, counted, make_spans, sending
from tests.export.faults import FAULTS, HOST_WITHOUT_ADDRESS, Faulty, FaultyReceiver, failing, make_impatient
from tests.export.support import running

SPANS = 12
BATCH = 4
NAMES = {f"chat {number}" for number in range(SPANS)}

spooled = pytest.mark.parametrize("is_spooled", [False, True], ids=["memory", "spool"])
faults = pytest.mark.parametrize("fault", FAULTS)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    make_impatient(monkeypatch.setattr)
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", str(BATCH))


def dropped(counts: dict[str, int]) -> int:
    return sum(count for name, count in counts.items() if name.startswith("dropped."))


def check_memory(counts: dict[str, int], receiver: Receiver, *, loses_responses: bool) -> None:
    """Every span is counted once, by its outcome."""
    arrived = Counter(span.name for span in receiver.spans)
    assert counts.get("sent", 0) + dropped(counts) == SPANS
    if loses_responses:
        assert set(arrived) <= NAMES
    else:
        assert sum(arrived.values()) == len(arrived) == counts.get("sent", 0)


def check_spool(
    counts: dict[str, int],
    receiver: FaultyReceiver,
    spool: Path,
    *,
    label: str,
    loses_responses: bool,
    is_killed: bool = False,
) -> None:
    """Every span has arrived, or waits on disk and arrives when the destination is back."""
    if not is_killed:
        assert counts["spooled"] == SPANS
        if not loses_responses:
            assert len(receiver.spans) == counts.get("sent", 0)
    receiver.recover()
    with running(OTLP(receiver.url, spool=spool, label=label)) as app:
        assert app.destinations[0].flush(60)
    arrived = Counter(span.name for span in receiver.spans)
    assert set(arrived) <= NAMES
    if is_killed:
        # The counts are lost, but a destination refuses or rejects one span of a batch at most.
        assert len(arrived) >= SPANS - SPANS // BATCH
        assert loses_responses or max(arrived.values()) <= 2
    else:
        assert len(arrived) + dropped(counts) == SPANS
        assert loses_responses or sum(arrived.values()) == len(arrived)
    (folder,) = spool.glob(f"{label}-*")
    # SIGKILL may leave a file that was being written; later processes delete that file.
    assert [file.name for file in folder.iterdir() if not (is_killed and file.name.startswith("."))] == []


@faults
@spooled
def test_a_flush(fault: str, is_spooled: bool, tmp_path: Path, production: pytest.LogCaptureFixture) -> None:
    spool = tmp_path if is_spooled else ""
    loses_responses = FAULTS[fault].loses_responses
    with failing(fault) as faulty:
        destination = OTLP(faulty.url, spool=spool, label="matrix", allow_http=[HOST_WITHOUT_ADDRESS])
        with running(destination) as app:
            for number in range(SPANS):
                app.chat(f"chat {number}")
            is_flushed = destination.flush()
            counts = counted("matrix")
            if is_flushed:
                assert counts.get("sent", 0) + dropped(counts) == SPANS
        counts = counted("matrix")
        if is_spooled:
            check_spool(counts, faulty.receiver, tmp_path, label="matrix", loses_responses=loses_responses)
        else:
            check_memory(counts, faulty.receiver, loses_responses=loses_responses)
    assert "byline.E090" not in production.text


class Ended(NamedTuple):
    """A process that has ended, and its counters."""

    end: str
    spool: Path | None
    counts: dict[str, int]
    faulty: dict[str, Faulty]

    def counts_of(self, fault: str) -> dict[str, int]:
        start = f"{label_of(fault)}.spans."
        return {name.removeprefix(start): count for name, count in self.counts.items() if name.startswith(start)}


def label_of(fault: str) -> str:
    return f"fault-{list(FAULTS).index(fault)}"


@pytest.fixture(
    scope="module",
    params=[(end, is_spooled) for end in ("exit", "SIGTERM", "SIGKILL") for is_spooled in (False, True)],
    ids=lambda param: f"{param[0]}-{'spool' if param[1] else 'memory'}",
)
def ended(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    """A process with a destination for each fault, which is ended when it has made its spans."""
    end, is_spooled = request.param
    spool = tmp_path_factory.mktemp("spool") if is_spooled else None
    # Without PYTEST_VERSION, by which hooks raise their errors.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env.update(OTEL_BSP_SCHEDULE_DELAY="100", OTEL_BSP_MAX_EXPORT_BATCH_SIZE=str(BATCH))
    with contextlib.ExitStack() as stack:
        faulty = {name: stack.enter_context(failing(name)) for name in FAULTS}
        options = [str(spool or ""), str(SPANS), "end" if end == "exit" else "wait"]
        command = [sys.executable, "-m", "tests.export.faulty_app", *options, *(each.url for each in faulty.values())]
        started = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env))
        stack.callback(started.kill)
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
        if end != "exit":
            started.send_signal(signal.SIGTERM if end == "SIGTERM" else signal.SIGKILL)
        output = started.stdout.read()
        assert started.wait(120) == (-signal.SIGKILL if end == "SIGKILL" else 0)
        yield Ended(end, spool, json.loads(output or "{}"), faulty)


@pytest.mark.integration
@pytest.mark.parametrize("fault", FAULTS)
def test_the_end_of_a_process(fault: str, ended: Ended) -> None:
    """After SIGKILL the spans on disk remain; spans in memory are lost with the process."""
    receiver = ended.faulty[fault].receiver
    loses_responses = FAULTS[fault].loses_responses
    is_killed = ended.end == "SIGKILL"
    counts = ended.counts_of(fault)
    assert not [name for name in ended.counts if name.startswith("errors.")]
    if ended.spool is not None:
        label = label_of(fault)
        check_spool(counts, receiver, ended.spool, label=label, loses_responses=loses_responses, is_killed=is_killed)
    elif is_killed:
        assert {span.name for span in receiver.spans} <= NAMES
    else:
        check_memory(counts, receiver, loses_responses=loses_responses)


@pytest.mark.parametrize("status", [500, 503])
@spooled
def test_an_outage_of_minutes(status: int, is_spooled: bool, tmp_path: Path) -> None:
    """The destination is asked less and less often, and nothing on disk is lost."""
    clock = Clock()
    with Receiver() as receiver:
        receiver.fail(status, times=None)
        spool = tmp_path if is_spooled else None
        with sending(receiver.url, spool, clock=clock, delay=lambda failures: min(2.0**failures, 60.0)) as sender:
            # By hand instead of by the thread, which knows no time but the real one.
            sender._has_thread = lambda: False  # type: ignore[method-assign]
            for number in range(SPANS):
                sender.add(make_spans(f"chat {number}"))
            for _ in range(600):
                sender._send_round()
                clock.now += 1
            assert len(receiver.requests) < 60
            receiver.recover()
            clock.now += 120
            sender._send_round()
            counts = counted()
            if is_spooled:
                assert sorted(span.name for span in receiver.spans) == sorted(NAMES)
                assert counts == {"spooled": SPANS, "sent": SPANS}
            else:
                assert counts == {"dropped.unsent": SPANS}
                sender.add(make_spans("after"))
                sender.send_due()
                assert [span.name for span in receiver.spans] == ["after"]


def test_a_flush_that_waits_ends_with_the_process(tmp_path: Path) -> None:
    """However long the server asks to wait."""
    with Receiver() as receiver, sending(receiver.url, tmp_path) as sender:
        receiver.fail(429, times=None, headers={"retry-after": "1000"})
        sender.add(make_spans("a"))
        started = time.monotonic()
        sender.set_deadline(time.monotonic() + 1000)
        assert not sender.flush(time.monotonic() + 1000)
        assert time.monotonic() - started < 60
