"""``byline gateway`` serves until Ctrl-C, or while a command runs against it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from byline.cli import main
from byline.testing import Gateway

COMMAND = [sys.executable, "-W", "error", "-m", "byline.cli", "gateway"]
CALL = """
import byline
from openai import OpenAI
from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

byline.instrument()
OpenAIInstrumentor().instrument()
with byline.bound(session_id="s-1", user_id="ada"):
    OpenAI().chat.completions.create(model="openai/gpt-4o", messages=[{"role": "user", "content": "Who?"}])
byline.flush()
raise SystemExit(3)
"""


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_gateway_serves_until_a_signal(number: signal.Signals) -> None:
    """The printed line can be run in a shell."""
    with subprocess.Popen([*COMMAND, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        export, *pairs = run.stdout.readline().split()
        environment = dict(pair.split("=", 1) for pair in pairs)
        body = {"model": "m", "messages": [], "session_id": "s-1"}
        headers = {"x-session-id": "s-1", "authorization": "Bearer secret"}
        path = f"{environment['OPENAI_BASE_URL']}/sk-proj-0a1b2c3d4e5f6g7h"
        reply = httpx2.post(f"{path}/chat/completions", json=body, headers=headers)
        run.send_signal(number)
        _, errors = run.communicate(timeout=20)
    assert (export, reply.status_code, run.returncode) == ("export", 200, 0)
    serves, paste, call = errors.splitlines()
    assert serves.endswith(f"at {environment['ANTHROPIC_BASE_URL']}; stop with Ctrl-C.")
    assert paste == "Run this line in the shell that starts your app:"
    # A key may be part of the path.
    assert call == '→ /api/v1/…/chat/completions · model m · session_id="s-1" · x-session-id: s-1'


@pytest.mark.integration
@pytest.mark.newest
def test_command_uses_the_gateway_and_its_model_calls_are_printed() -> None:
    """The exit code is that of the command."""
    done = subprocess.run([*COMMAND, sys.executable, "-c", CALL], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "openai/gpt-4o via openrouter" in done.stdout
    assert "session s-1 · user ada" in done.stdout
    assert "$0.0" in done.stdout


@pytest.mark.integration
@pytest.mark.parametrize("is_instrumented", [True, False])
def test_calls_without_a_span_are_reported_at_the_end(is_instrumented: bool) -> None:
    """The usual reason is that nothing calls ``byline.instrument()``."""
    url = "os.environ['OPENAI_BASE_URL'] + '/chat/completions'"
    program = f"import os, httpx2, byline\nhttpx2.post({url}, json={{'model': 'm', 'messages': []}})\n"
    if is_instrumented:
        program = program.replace("byline\n", "byline\nbyline.instrument()\n")
    done = subprocess.run([*COMMAND, sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("byline gateway: no span of these calls has arrived.") is not is_instrumented


@pytest.mark.integration
def test_sigterm_ends_the_command() -> None:
    """The signal is passed on."""
    code = "import time; print('up', flush=True); time.sleep(60)"
    with subprocess.Popen([*COMMAND, sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "up\n"
        run.terminate()
        assert run.wait(20) == 128 + signal.SIGTERM


@pytest.mark.integration
def test_destinations_of_the_environment_are_left_alone() -> None:
    """Spans are sent to the user's destination."""
    code = "import os; print(os.environ.get('OTEL_EXPORTER_OTLP_ENDPOINT'), os.environ['OPENAI_API_KEY'])"
    env = {**os.environ, "LANGFUSE_PUBLIC_KEY": "pk", "LANGFUSE_SECRET_KEY": "sk"}
    done = subprocess.run(
        [*COMMAND, sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, env=env
    )
    assert done.stdout == "None testing\n"


def test_a_taken_port_and_an_unknown_command_are_errors_with_advice(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with Gateway() as gateway:
        assert main(["gateway", "--port", str(gateway.port)]) == 1
    assert "byline.E050" in capsys.readouterr().err
    assert main(["gateway", str(tmp_path / "nothing")]) == 1
    assert "byline.E054" in capsys.readouterr().err
