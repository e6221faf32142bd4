"""Each framework and server answers over the network, and each LLM span has the session and user of its request."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from byline.testing import Gateway, ReceivedSpan, Receiver
from tests.frameworks.cells import ROWS, Row
from tests.integration.conftest import free_port, wait_until_up
from tests.matrix import environments

pytestmark = pytest.mark.matrix


def ask(url: str, session: str) -> None:
    body = {"user": f"user of {session}", "message": "Hello"}
    answer = httpx2.post(url, json=body, headers={"x-session-id": session}, timeout=60, trust_env=False)
    assert answer.status_code in (200, 201), answer.text
    assert "This is the answer" in answer.text


def users(spans: list[ReceivedSpan]) -> dict[Any, Any]:
    """Return the user of each session, of the LLM spans."""
    found = [span.attributes for span in spans if "gen_ai.operation.name" in span.attributes]
    return {attributes.get("session.id"): attributes.get("user.id") for attributes in found}


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_llm_spans_have_the_session_and_user_of_their_request(row: Row, tmp_path: Path) -> None:
    python = environments.make(row)
    port = free_port()
    log = tmp_path / "log"
    sessions = ["alone", "streamed", *(f"s-{number}" for number in range(16))]
    with Gateway() as gateway, Receiver() as receiver, log.open("wb") as output:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "BYLINE_"))}
        env |= {
            "FRAMEWORK": row.app,
            "OPENAI_BASE_URL": gateway.base_url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "PYTHONPATH": str(environments.ROOT),
        }
        command = [str(python), *(part.replace("{port}", str(port)) for part in row.command)]
        with subprocess.Popen(command, cwd=environments.ROOT, env=env, stdout=output, stderr=output) as server:
            try:
                wait_until_up(f"http://127.0.0.1:{port}/up", server, log, 120)
                url = f"http://127.0.0.1:{port}"
                ask(f"{url}/chat", "alone")
                ask(f"{url}/stream", "streamed")
                with ThreadPoolExecutor(16) as pool:
                    list(pool.map(lambda session: ask(f"{url}/chat", session), sessions[2:]))
                count = 0
                while users(receiver.spans).keys() < set(sessions):
                    count = len(receiver.wait_for(count + 1, timeout=60))
                found = users(receiver.spans)
            finally:
                server.terminate()
                try:
                    server.wait(20)
                except subprocess.TimeoutExpired:
                    server.kill()
    assert found == {session: f"user of {session}" for session in sessions}
