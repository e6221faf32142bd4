"""Each example runs as it is, against the testing gateway, and its LLM spans are signed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from websockets.sync.client import connect

from byline.testing import Gateway, ReceivedSpan, Receiver

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@contextmanager
def example(name: str, gateway: Gateway, receiver: Receiver) -> Iterator[str]:
    """Run an example until the block ends; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {
        **{key: value for key, value in os.environ.items() if key != "PYTEST_VERSION"},
        "OPENAI_BASE_URL": gateway.base_url,
        "OPENAI_API_KEY": "testing",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "PORT": str(port),
    }
    process = subprocess.Popen([sys.executable, str(EXAMPLES / name)], env=env, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail(process.communicate()[1].decode())
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate(timeout=20)


def generations(receiver: Receiver, count: int) -> list[ReceivedSpan]:
    """Wait for the LLM spans."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = [span for span in receiver.spans if span.attributes.get("gen_ai.operation.name") == "chat"]
        if len(found) >= count:
            return found
        time.sleep(0.02)
    pytest.fail(f"only {[span.name for span in receiver.spans]} arrived")


@pytest.mark.parametrize(
    ("name", "body", "headers"),
    [
        ("fastapi_app.py", {"user": "ada", "question": "Who?"}, {"x-session-id": "s-1"}),
        ("flask_app.py", {"user": "ada", "question": "Who?", "conversation": {"id": "s-1"}}, {}),
    ],
)
def test_http_example_signs_its_llm_spans(name: str, body: dict[str, object], headers: dict[str, str]) -> None:
    """Whole answers with FastAPI, streamed ones with Flask."""
    with Gateway() as gateway, Receiver() as receiver, example(name, gateway, receiver) as address:
        answer = httpx2.post(f"http://{address}/chat", json=body, headers=headers, timeout=30)
        assert answer.status_code == 200
        assert "This is the answer" in answer.text
        (span,) = generations(receiver, 1)
    assert span.attributes["session.id"] == "s-1"
    assert span.attributes["user.id"] == "ada"


def test_websocket_example_signs_each_message() -> None:
    """The session of the handshake holds for the connection, the turn for one message."""
    with (
        Gateway() as gateway,
        Receiver() as receiver,
        example("starlette_websocket.py", gateway, receiver) as address,
    ):
        with connect(f"ws://{address}/chat?session_id=s-1&user=ada") as websocket:
            for question in ("Who?", "When?"):
                websocket.send(question)
                assert "This is the answer" in str(websocket.recv(30))
        spans = generations(receiver, 2)
    assert {(span.attributes["session.id"], span.attributes["user.id"]) for span in spans} == {("s-1", "ada")}
    assert sorted(span.attributes["langfuse.trace.metadata.turn"] for span in spans) == [1, 2]
