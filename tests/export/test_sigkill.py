"""Processes killed while they send: spans on disk arrive, and accepted ones arrive once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from byline.testing import Receiver
from byline.testing.server import Handler, Request

pytestmark = pytest.mark.integration

BATCH = 50
KILLS = 4


class Interrupted(Receiver):
    """Takes some batches, refuses two, takes one more, and has not answered the next when its sender is killed.

    Args:
        takes: Whether it takes that one all the same.
    """

    def __init__(self, *, takes: bool) -> None:
        super().__init__()
        self.takes = takes
        self.exports = 0
        #: The spans of the batch that was taken without an answer.
        self.unanswered = 0
        self.under_way = threading.Event()
        self.killed = threading.Event()

    def respond(self, request: Request, handler: Handler) -> None:
        self.exports += 1
        if self.exports in (6, 7):
            handler.reply(503, b"{}", {})
            return
        if self.exports == 9:
            self.under_way.set()
            assert self.killed.wait(60)
            if not self.takes:
                handler.cut()
                return
            taken = len(self.spans)
            try:
                super().respond(request, handler)
            finally:
                self.unanswered = len(self.spans) - taken
            return
        super().respond(request, handler)


@contextmanager
def process(url: str, spool: Path, first: int, count: int, how: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.export.spooling_app", url, str(spool), str(first), str(count), how]
    env = {**os.environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": str(BATCH)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as started:
        try:
            yield started
        finally:
            started.kill()


def files(folder: Path) -> list[str]:
    """Files that wait in the spool; a file that was being written at the kill was never reported as stored."""
    return [path.name for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]


@pytest.mark.parametrize("takes", [False, True], ids=["not taken", "taken without an answer"])
def test_killed_half_way_and_started_again_every_span_arrives(tmp_path: Path, takes: bool) -> None:
    """None twice by its id, except batches that were accepted while their sender died before the response.

    Those are sent once more, because no process knows of their acceptance.
    """
    with Interrupted(takes=takes) as receiver:
        with process(receiver.url, tmp_path, 0, 1500, "stay") as killed:
            assert killed.stdout is not None
            assert killed.stdout.readline() == "1500\n"
            assert receiver.under_way.wait(60)
            before = {span.name for span in receiver.spans}
            killed.kill()
            killed.wait()
        receiver.killed.set()
        with process(receiver.url, tmp_path, 1500, 500, "end") as finished:
            assert finished.wait(60) == 0
        spans = receiver.spans
    assert 0 < len(before) < 1500
    assert {span.name for span in spans} == {f"chat {number}" for number in range(2000)}
    ids = {span.span_id for span in spans}
    assert len(ids) == 2000
    twice = [span for span, times in Counter(span.span_id for span in spans).items() if times > 1]
    assert len(twice) == receiver.unanswered
    assert 0 < len(twice) <= BATCH if takes else not twice
    assert len(spans) == 2000 + len(twice)
    assert files(tmp_path) == []


def test_two_processes_with_one_spool_are_killed_again_and_again(tmp_path: Path) -> None:
    """At any moment: all spans reported as stored arrive; at most the batch in flight arrives twice."""
    safe: set[str] = set()
    dice = random.Random(7)
    with Receiver() as receiver:
        for turn in range(KILLS):
            first = turn * 1_000_000
            with (
                process(receiver.url, tmp_path, first, 70, "go-on") as one,
                process(receiver.url, tmp_path, first + 500_000, 70, "go-on") as other,
            ):
                for each, start in ((one, first), (other, first + 500_000)):
                    assert each.stdout is not None
                    for _ in range(dice.randrange(2, 12)):
                        end = int(each.stdout.readline())
                    safe.update(f"chat {number}" for number in range(start, end))
                receiver.fail(503, times=dice.randrange(3))
        receiver.recover()
        with process(receiver.url, tmp_path, -1, 1, "end") as last:
            assert last.wait(60) == 0
        spans = receiver.spans
    assert safe <= {span.name for span in spans}
    sent = Counter(span.span_id for span in spans)
    assert max(sent.values()) <= 2
    assert sum(times - 1 for times in sent.values()) <= 2 * KILLS * BATCH
    assert files(tmp_path) == []
