"""``BYLINE_FLUSH_ON_SIGTERM``: spans that wait are sent, and the app's own handler runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from byline.testing import Receiver
from tests.servers import patience

PROGRAM = """
import signal, sys, threading
{handler}
import byline
from opentelemetry import trace
byline.instrument(clients=())
with byline.bound(session_id="s-1"):
    trace.get_tracer("t").start_span("chat", attributes={{"gen_ai.operation.name": "chat"}}).end()
print("ready", flush=True)
threading.Event().wait()
"""
HANDLER = "signal.signal(signal.SIGTERM, lambda *_: (print('mine', flush=True), sys.exit(3)))"


@pytest.mark.integration
@pytest.mark.parametrize(
    ("handler", "switch", "code", "sent"),
    [("", "true", -signal.SIGTERM, 1), ("", "", -signal.SIGTERM, 0), (HANDLER, "true", 3, 1)],
)
def test_waiting_spans_are_sent(handler: str, switch: str, code: int, sent: int) -> None:
    with Receiver() as receiver:
        env = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        env["BYLINE_FLUSH_ON_SIGTERM"] = switch
        command = [sys.executable, "-c", PROGRAM.format(handler=handler)]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.terminate()
            assert process.wait(patience(60)) == code
            assert ("mine" in process.stdout.read()) is bool(handler)
        assert len(receiver.spans) == sent
