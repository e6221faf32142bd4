"""``byline demo`` in a process of its own, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from byline.settings import SettingError
from byline.testing import Receiver, assert_signed

# Of the demo's extra, the instrumentation of openai.
pytestmark = [pytest.mark.newest, pytest.mark.integration]


def demo(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "byline.cli", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


#: Variables that real deployments set.
DEPLOYED = {
    "HTTP_PROXY": "http://127.0.0.1:1",
    "HTTPS_PROXY": "http://127.0.0.1:1",
    "OTEL_TRACES_SAMPLER": "always_off",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
    "OPENAI_BASE_URL": "http://127.0.0.1:1",
    "LANGFUSE_PUBLIC_KEY": "pk-lf-1",
}


@pytest.mark.parametrize(("arguments", "env"), [((), DEPLOYED), (("--wsgi",), {})], ids=["fastapi-deployed", "flask"])
def test_json_is_one_object_with_attributed_spans(arguments: tuple[str, ...], env: dict[str, str]) -> None:
    """Two generations in two requests, each below its server span, with the caller's ids and the gateway's cost.

    Proxies, samplers and destinations of the environment have no effect.
    """
    done = demo("--json", *arguments, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    spans: list[dict[str, Any]] = json.loads(done.stdout)["spans"]
    # Indented, so that it can be read in a terminal.
    assert done.stdout == json.dumps({"spans": spans}, indent=2) + "\n"
    assert all({"name", "trace_id", "span_id", "parent_id", "kind", "attributes"} == span.keys() for span in spans)
    generations = [span for span in spans if span["attributes"].get("gen_ai.operation.name") == "chat"]
    by_id = {span["span_id"]: span for span in spans}
    assert [span["name"] for span in generations] == ["Generate Summary"] * 2
    assert len({span["trace_id"] for span in spans}) == 1
    assert len([span for span in spans if span["kind"] == "SERVER"]) == 2
    for span in generations:
        attributes = span["attributes"]
        assert attributes["session.id"] == attributes["gen_ai.conversation.id"] == "session_abc"
        assert attributes["user.id"] == "user_12345"
        assert attributes["langfuse.trace.name"] == "Document Processing Pipeline"
        assert attributes["byline.trace.id"] == "workflow_12345"
        assert attributes["langfuse.trace.metadata.pipeline_version"] == "2.1.0"
        assert attributes["byline.gateway.name"] == "openrouter"
        assert attributes["byline.cost.source"] == "gateway"
        step = by_id[span["parent_id"]]
        while by_id.get(step["parent_id"], step) is not step and step["name"] != "Summarization Step":
            step = by_id[step["parent_id"]]
        assert step["name"] == "Summarization Step"
        server = by_id[step["parent_id"]]["attributes"]
        assert server["byline.llm.calls"] == 1
        assert server["byline.llm.cost"] == pytest.approx(attributes["gen_ai.usage.cost"])
        assert server["byline.llm.input_tokens"] == attributes["gen_ai.usage.input_tokens"]


def test_the_tree_is_printed_and_the_same_spans_are_sent_to_real_backends() -> None:
    """Only the demo's spans are sent, without those of the test of the destinations."""
    keys = ("pk-lf-1", "sk-lf-1")
    with Receiver(keys=keys) as langfuse, Receiver() as otlp:
        env = {**os.environ, "LANGFUSE_BASE_URL": langfuse.url}
        env |= {"LANGFUSE_PUBLIC_KEY": keys[0], "LANGFUSE_SECRET_KEY": keys[1]}
        done = demo("--langfuse", "--otlp", otlp.url, env=env)
        assert done.returncode == 0, done.stderr
    for text in ("Document Processing Pipeline", "Summarization Step", "Generate Summary", "session_abc", "user_12345"):
        assert text in done.stdout
    assert "openai/gpt-4o via openrouter" in done.stdout
    assert "$0.0" in done.stdout
    for backend in (langfuse, otlp):
        generations = [span for span in backend.spans if span.attributes.get("gen_ai.operation.name") == "chat"]
        assert [span.name for span in generations] == ["Generate Summary"] * 2
        for span in generations:
            assert_signed(span, session_id="session_abc", user_id="user_12345")
        assert f"Sent to {backend.url}" in done.stdout
    assert sorted(span.kind for span in otlp.spans if span.parent_id is None) == ["SERVER", "SERVER"]


def test_langfuse_without_keys_is_an_error_that_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing runs before the error."""
    monkeypatch.delenv("LANGFUSE_PUBLIC_KEY", raising=False)
    done = demo("--langfuse")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "byline.E041" in done.stderr
    assert "LANGFUSE_PUBLIC_KEY" in done.stderr


@pytest.mark.parametrize(
    ("options", "advice"),
    [(("--otlp", "{url}"), "check the endpoint"), (("--langfuse",), "check both keys and the region")],
)
def test_a_backend_that_refuses_is_reported_before_the_demo_runs(options: tuple[str, ...], advice: str) -> None:
    """A demo with lost spans must not be a success."""
    with Receiver(keys=("pk-lf-1", "sk-lf-1")) as backend:
        env = {**os.environ, "LANGFUSE_BASE_URL": backend.url}
        env |= {"LANGFUSE_PUBLIC_KEY": "pk-lf-other", "LANGFUSE_SECRET_KEY": "sk-lf-other-secret"}
        done = demo(*(option.format(url=backend.url) for option in options), env=env)
        assert backend.spans == []
    assert (done.returncode, done.stdout) == (1, "")
    assert advice in done.stderr
    assert "sk-lf-other-secret" not in done.stderr


def test_disabled_byline_is_an_error_and_not_an_empty_tree() -> None:
    """The message names the variable."""
    done = demo(env={**os.environ, "OTEL_SDK_DISABLED": "true"})
    assert (done.returncode, done.stdout) == (1, "")
    assert "byline.E052" in done.stderr
    assert "OTEL_SDK_DISABLED" in done.stderr


def test_a_failed_conversation_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line of the caller's output, without a traceback."""
    from byline.cli import demo as command

    with Receiver() as nobody:
        pass
    with pytest.raises(SettingError) as raised:
        command._run_caller(nobody.url)
    assert raised.value.id == "byline.E053"
    assert "APIConnectionError" in raised.value.problem
    assert "\n" not in str(raised.value)


def test_a_closed_port_is_reported_before_any_export() -> None:
    """An exporter would retry for some seconds."""
    with Receiver() as closed:
        pass
    run = demo("--otlp", closed.url)
    assert (run.returncode, run.stdout) == (1, "")
    assert f"nothing listens at {closed.url}/v1/traces" in run.stderr


def test_the_demo_says_what_it_does() -> None:
    """On standard error, a line for each step."""
    lines = [re.sub(r"http://127.0.0.1:\d+", "URL", line) for line in demo().stderr.splitlines()]
    assert lines[:3] == [
        "A gateway answers at URL/api/v1, in place of a provider.",
        "A FastAPI app with byline serves at URL.",
        "A client, which is another process, sends two requests …",
    ]
    assert re.fullmatch(r"2 LLM calls were answered, \d+ spans have arrived.", lines[3])
    assert len(lines) == 4


def test_open_without_phoenix_is_an_error(tmp_path: Path) -> None:
    run = demo("--open", env={**os.environ, "PATH": str(tmp_path)})
    assert (run.returncode, run.stdout) == (1, "")
    assert "byline.E160: Phoenix is not installed" in run.stderr


def test_open_shows_the_traces_until_ctrl_c(tmp_path: Path) -> None:
    """With a program in the place of Phoenix and of the browser; each writes down what it gets."""
    program = f"""#!{sys.executable}
import os, threading
from pathlib import Path
from byline.testing import Receiver
class Phoenix(Receiver):
    def respond(self, request, handler):
        super().respond(request, handler)
        Path({str(tmp_path / "spans")!r}).write_text(" ".join(span.name for span in self.spans))
with Phoenix(port=int(os.environ["PHOENIX_PORT"])):
    threading.Event().wait()
"""
    (tmp_path / "phoenix").write_text(program.replace("super().respond(request, handler)\n", HEALTH, 1))
    (tmp_path / "browser").write_text(f'#!/bin/sh\nprintf %s "$1" > {tmp_path / "url"}\n')
    for name in ("phoenix", "browser"):
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "BROWSER": str(tmp_path / "browser")}
    command = [sys.executable, "-m", "byline.cli", "demo", "--open"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        shown = next(line for line in run.stderr if line.startswith("Phoenix shows"))
        # The browser is started before the wait for Ctrl-C, and this line before the browser.
        deadline = time.monotonic() + 30
        while not (tmp_path / "url").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        tree, _ = run.communicate(timeout=30)
    assert (tmp_path / "url").read_text() in shown
    assert "session_abc" in tree
    assert "Generate Summary" in (tmp_path / "spans").read_text()
    assert run.returncode == 0


#: Phoenix says at /healthz that it is up.
HEALTH = """if request.path == "/healthz":
            handler.reply(200, b"OK", {})
            return
        super().respond(request, handler)
"""
