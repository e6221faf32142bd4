"""A real OpenAI client calls a real app, and the spans are in a real backend, signed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from byline import testing
from tests.export.client_requests import OPENROUTER
from tests.integration.conftest import running
from tests.servers import free_port

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def app(phoenix: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    with testing.Gateway() as gateway:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": phoenix,
            "OTEL_SERVICE_NAME": "signed-app",
            "OPENAI_BASE_URL": f"{gateway.url}/api/v1",
            "OPENAI_API_KEY": "sk-test",
        }
        command = [sys.executable, "-m", "uvicorn", "tests.integration.attributed_app:app", "--port", str(port)]
        with running(command, f"{base}/up", tmp_path_factory.mktemp("app") / "log", env):
            yield base


def spans_of(phoenix: str, session: str, at_least: int) -> list[dict[str, Any]]:
    """Read back the spans of a session once Phoenix has taken them in."""
    url = f"{phoenix}/v1/projects/default/spans"
    deadline = time.monotonic() + 60
    found: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        answer = httpx2.get(url, params={"limit": 1000}, timeout=10)
        if answer.status_code == 200:
            found = [span for span in answer.json()["data"] if span["attributes"].get("session.id") == session]
            if len(found) >= at_least:
                return found
        time.sleep(0.2)
    pytest.fail(f"{len(found)} of {at_least} spans arrived")


def test_llm_spans_arrive_signed_and_phoenix_lists_the_session(app: str, phoenix: str) -> None:
    """Session, user and metadata of both turns are in Phoenix, streamed and not."""
    client = OpenAI(base_url=f"{app}/v1", api_key="unused")
    messages: Any = [{"role": "user", "content": "Summarize this document."}]
    extra = {"user": "user_12345", "trace": OPENROUTER["trace"]}
    headers = {"x-session-id": "session_phoenix"}
    first = client.chat.completions.create(
        model="openai/gpt-4o", messages=messages, extra_body=extra, extra_headers=headers
    )
    assert first.choices[0].message.content
    chunks = list(
        client.chat.completions.create(
            model="openai/gpt-4o", messages=messages, stream=True, extra_body=extra, extra_headers=headers
        )
    )
    assert len(chunks) > 1
    assert httpx2.get(f"{app}/flush", timeout=30).json() == {"flushed": True}

    spans = spans_of(phoenix, "session_phoenix", 4)

    generations = [span for span in spans if span["attributes"].get("gen_ai.operation.name") == "chat"]
    assert [span["name"] for span in generations] == ["Generate Summary"] * 2
    for span in generations:
        attributes = span["attributes"]
        assert attributes["user.id"] == "user_12345"
        assert attributes["langfuse.trace.name"] == "Document Processing Pipeline"
        assert attributes["langfuse.environment"] == "production"
        assert attributes["langfuse.trace.metadata.pipeline_version"] == "2.1.0"
        assert attributes["gen_ai.usage.input_tokens"] > 0
        assert attributes["gen_ai.usage.cost"] > 0
        assert span["span_kind"] == "LLM"
    servers = [span for span in spans if span["parent_id"] is None]
    assert {span["attributes"]["byline.llm.calls"] for span in servers} == {1}

    sessions = httpx2.get(f"{phoenix}/v1/projects/default/sessions", timeout=10).json()["data"]
    assert "session_phoenix" in {session["session_id"] for session in sessions}
