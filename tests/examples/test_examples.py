"""Each example runs with the commands of its docstring, and its LLM spans have the attribution."""

from __future__ import annotations

import os
import re
import shlex
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

from byline.testing import ReceivedSpan, Receiver, assert_signed
from tests.servers import free_port

# Of the demo's extra, the instrumentation of openai.
pytestmark = [pytest.mark.newest, pytest.mark.integration]

ROOT = Path(__file__).parent.parent.parent


def commands(name: str) -> tuple[list[str], list[str]]:
    """Return the two commands in the docstring of an example: one starts the app, one sends a request."""
    head = (ROOT / "examples" / name).read_text(encoding="utf-8").split('"""')[1]
    indented = re.findall(r"^    (\S(?:.*\\\n)*.*)", head, re.MULTILINE)
    start, talk = (shlex.split(command.replace("\\\n", "")) for command in indented)
    return start, talk


@contextmanager
def example(name: str, receiver: Receiver) -> Iterator[str]:
    """Run an example with its own command during the block; yield its address."""
    start, _ = commands(name)
    assert start[0] == "byline"
    command = [sys.executable, "-m", "byline.cli", *start[1:]]
    command[command.index("python")] = sys.executable
    port = free_port()
    env = {
        **{key: value for key, value in os.environ.items() if key != "PYTEST_VERSION"},
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "PORT": str(port),
    }
    process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                process.terminate()
                pytest.fail(process.communicate(timeout=20)[1].decode())
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate(timeout=20)


def curl(command: list[str], address: str) -> httpx2.Response:
    """Send the request of a curl command."""
    assert command[:2] == ["curl", "localhost:8000/chat"]
    options = list(zip(command[2::2], command[3::2], strict=True))
    headers = [value.split(": ", 1) for option, value in options if option == "-H"]
    (body,) = (value for option, value in options if option == "-d")
    return httpx2.post(f"http://{address}/chat", content=body, headers=[(n, v) for n, v in headers], timeout=30)


def generations(receiver: Receiver, count: int) -> list[ReceivedSpan]:
    """Wait for the LLM spans."""
    arrived = 0
    while True:
        found = [span for span in receiver.spans if span.attributes.get("gen_ai.operation.name") == "chat"]
        if len(found) >= count:
            return found
        arrived = len(receiver.wait_for(arrived + 1, timeout=30))


@pytest.mark.parametrize("name", ["fastapi_app.py", "flask_app.py"])
def test_llm_spans_of_an_http_example_are_attributed(name: str) -> None:
    """With whole responses in FastAPI and streams in Flask."""
    with Receiver() as receiver, example(name, receiver) as address:
        answer = curl(commands(name)[1], address)
        assert answer.status_code == 200
        assert "This is the answer" in answer.text
        (span,) = generations(receiver, 1)
    assert_signed(span, session_id="session_abc", user_id="user_12345")


def test_llm_spans_of_the_websocket_example_are_attributed() -> None:
    """The session of the handshake applies to the connection, the turn to one message."""
    name = "starlette_websocket.py"
    talk = commands(name)[1]
    assert talk[:3] == ["python", "-m", "websockets"]
    with Receiver() as receiver, example(name, receiver) as address:
        with connect(talk[3].replace("localhost:8000", address)) as websocket:
            for question in ("Who?", "When?"):
                websocket.send(question)
                assert "This is the answer" in str(websocket.recv(30))
        spans = sorted(generations(receiver, 2), key=lambda span: span.start)
    for turn, span in enumerate(spans, 1):
        assert_signed(span, session_id="session_abc", user_id="user_12345", metadata={"turn": turn})
