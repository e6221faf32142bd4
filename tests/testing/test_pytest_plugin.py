"""The pytest fixtures, in a test suite of a user, and the messages of the assertions."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider

import byline
from byline.testing import Receiver, capture_spans, find_llm_span
from tests.docs.pages import code_blocks

SUITE = """
import byline
import httpx2
import pytest
from byline.destinations import OTLP
from byline.testing import Receiver, find_llm_span
from opentelemetry import trace

def call(gateway):
    body = {"model": "openai/gpt-4o", "messages": []}
    with byline.bound(session_id="s-1", user_id="ada"):
        httpx2.post(f"{gateway.base_url}/chat/completions", json=body).raise_for_status()

def test_spans_alone(byline_spans):
    with byline.bound(session_id="s-1"):
        trace.get_tracer("app").start_span("chat", attributes={"gen_ai.operation.name": "chat"}).end()
    assert find_llm_span(byline_spans).attributes["session.id"] == "s-1"

def test_from_request_to_backend(byline_gateway, byline_receiver):
    call(byline_gateway)
    assert byline.flush()
    span = find_llm_span(byline_receiver.spans, session_id="s-1", user_id="ada")
    assert span.attributes["gen_ai.usage.cost"] > 0
    assert byline_gateway.wait_for(1)

@pytest.fixture
def app_receiver():
    with Receiver() as receiver:
        byline.instrument(destinations=[OTLP(receiver.url)])
        yield receiver
        byline.uninstrument()

def test_an_app_that_is_instrumented(app_receiver, byline_gateway, request):
    fixture = request.getfixturevalue("byline_receiver")
    call(byline_gateway)
    assert byline.flush()
    assert find_llm_span(fixture.spans, user_id="ada")
    assert app_receiver.spans == []
"""


@pytest.mark.integration
def test_the_fixtures_work_in_a_suite_of_their_own(tmp_path: Path) -> None:
    """Also beside an app that has called `byline.instrument`: its destinations get nothing during the test."""
    (tmp_path / "test_app.py").write_text(SUITE)
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "byline.pytest_plugin", str(tmp_path)]
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert "3 passed" in run.stdout, run.stdout + run.stderr


@pytest.mark.integration
@pytest.mark.newest
def test_the_example_of_the_docs_passes(tmp_path: Path) -> None:
    """Run by pytest, as a reader runs it."""
    (code,) = (code for page, code in code_blocks("python") if page == "testing.md" and "def test_" in code)
    (tmp_path / "test_docs.py").write_text(code)
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "byline.pytest_plugin", str(tmp_path)]
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert "1 passed" in run.stdout, run.stdout + run.stderr


def test_pytest_finds_the_plugin() -> None:
    """The entry point names a module that exists."""
    found = [each for each in metadata.entry_points(group="pytest11") if each.name == "byline"]
    assert {each.value for each in found} <= {"byline.pytest_plugin"}
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points.pytest11]\nbyline = "byline.pytest_plugin"' in text


def test_the_span_that_is_not_found_is_explained() -> None:
    """With the LLM spans that there are."""
    provider = TracerProvider(shutdown_on_exit=False)
    with capture_spans(provider) as spans:
        with byline.bound(session_id="s-2", user_id="bob"):
            provider.get_tracer("app").start_span("chat", attributes={"gen_ai.operation.name": "chat"}).end()
        provider.get_tracer("app").start_span("SELECT").end()
    assert find_llm_span(spans).name == "chat"
    with pytest.raises(AssertionError) as raised:
        find_llm_span(spans, session_id="s-1")
    assert str(raised.value).splitlines() == [
        "0 LLM spans have session_id='s-1', not one. The LLM spans are:",
        "  'chat': session.id='s-2', user.id='bob'",
        "  and 1 other spans",
    ]


def test_a_receiver_without_spans_names_the_flush_that_is_missing() -> None:
    """Spans wait in the queue of their destination until a batch is sent."""
    with Receiver() as receiver, pytest.raises(AssertionError) as raised:
        find_llm_span(receiver.spans, session_id="s-1")
    assert str(raised.value).splitlines() == [
        "0 LLM spans have session_id='s-1', not one. The LLM spans are:",
        "  none",
        "No span has arrived: byline.flush() sends a receiver those that wait.",
    ]
