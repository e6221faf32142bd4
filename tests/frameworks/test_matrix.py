"""Each framework and server answers over the network, and each LLM span has the attribution of its request."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from byline.testing import Gateway, ReceivedSpan, Receiver
from tests.frameworks.cells import ROWS, Row
from tests.frameworks.clients import CLIENTS, Ask
from tests.integration.conftest import wait_until_up
from tests.matrix import environments
from tests.servers import free_port

pytestmark = pytest.mark.matrix

CONCURRENT = [f"s-{number}" for number in range(16)]


def calls(spans: list[ReceivedSpan]) -> dict[Any, tuple[Any, ...]]:
    """Return user, trace, trace name and error of the LLM span of each session."""
    found = [span.attributes for span in spans if "gen_ai.request.model" in span.attributes]
    names = ("user.id", "byline.trace.id", "langfuse.trace.name", "error.type")
    return {each.get("session.id"): tuple(each.get(name) for name in names) for each in found}


def totals(spans: list[ReceivedSpan]) -> dict[Any, tuple[Any, ...]]:
    """Return user and number of LLM calls of the server span of each session."""
    found = [span.attributes for span in spans if span.kind == "SERVER" and "byline.llm.calls" in span.attributes]
    return {each.get("session.id"): (each.get("user.id"), each["byline.llm.calls"]) for each in found}


def ask_all(row: Row, url: str, gateway: Gateway) -> None:
    """Send a failing request, one, a streamed one, and sixteen at once; check what the app answers."""
    ask: Ask = CLIENTS[row.client]
    gateway.fail(429)
    assert ask(url, "chat", "failing") == ""
    for path, session in (("chat", "alone"), ("stream", "streamed")):
        text = ask(url, path, session)
        # The message of the body, which the app has read after byline has, and the answer of the model.
        assert f"message of {session}" in text
        assert "This is the answer" in text
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda session: ask(url, "chat", session), CONCURRENT))


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_llm_spans_have_the_attribution_of_their_request(row: Row, tmp_path: Path) -> None:
    """Session from a header, user and trace from the body; with the totals on the server span."""
    python = environments.make(row)
    port = free_port()
    log = tmp_path / "log"
    sessions = ["alone", "failing", "streamed", *CONCURRENT]
    expected = {
        session: (
            f"user of {session}",
            f"trace of {session}",
            f"name of {session}",
            "429" if session == "failing" else None,
        )
        for session in sessions
    }
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
                url = f"http://127.0.0.1:{port}"
                wait_until_up(f"{url}/up", server, log, 120)
                ask_all(row, url, gateway)
                count = 0
                while any(
                    group(receiver.spans).keys() != set(sessions)
                    for group in ((calls, totals) if row.server_span == "yes" else (calls,))
                ):
                    count = len(receiver.wait_for(count + 1, timeout=60))
                found = receiver.spans
            finally:
                server.terminate()
                try:
                    server.wait(20)
                except subprocess.TimeoutExpired:
                    server.kill()
    assert calls(found) == expected
    if row.server_span == "yes":
        assert totals(found) == {session: (f"user of {session}", 1) for session in sessions}
