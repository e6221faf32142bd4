"""Every framework under a server: zero code gives the spans that the README's code gives, and both double nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.instrumentation import auto_instrumentation

from byline.testing import Receiver
from tests.matrix import environments
from tests.matrix.cells import Cell
from tests.servers import free_port, patience
from tests.support import environment_without_settings

ROOT = Path(__file__).parents[2]
APP = "tests.zero_code.apps:app"
SERVERS = {
    "uvicorn": ["uvicorn", APP, "--port", "{port}"],
    "hypercorn": ["hypercorn", APP, "--bind", "127.0.0.1:{port}"],
    "gunicorn": ["gunicorn", APP, "--bind", "127.0.0.1:{port}", "--threads", "2"],
    "gunicorn-uvicorn": ["gunicorn", APP, "--bind", "127.0.0.1:{port}", "-k", "uvicorn_worker.UvicornWorker"],
    "flask": ["flask", "--app", "tests.zero_code.apps", "run", "--port", "{port}"],
    "waitress": ["waitress-serve", "--listen", "127.0.0.1:{port}", APP],
    "wsgiref": ["python", "-m", "tests.zero_code.apps", "wsgiref", "{port}"],
    "daphne": ["daphne", APP, "-b", "127.0.0.1", "-p", "{port}"],
    "granian": ["granian", APP, "--interface", "asgi", "--host", "127.0.0.1", "--port", "{port}"],
    "granian-wsgi": ["granian", APP, "--interface", "wsgi", "--host", "127.0.0.1", "--port", "{port}"],
    "mangum": ["python", "-m", "tests.zero_code.apps", "mangum", "{port}"],
    "uwsgi": [
        "uwsgi",
        "--http",
        "127.0.0.1:{port}",
        "--module",
        APP,
        "--master",
        "--enable-threads",
        "--lazy-apps",
        "--die-on-term",
        # Else a worker that ends waits for threads of OpenTelemetry's exporters that only its parent process has.
        "--py-call-osafterfork",
    ],
}
CASES = [
    ("fastapi", "uvicorn"),
    ("fastapi", "gunicorn-uvicorn"),
    ("starlette", "hypercorn"),
    ("litestar", "uvicorn"),
    ("quart", "hypercorn"),
    ("django-asgi", "uvicorn"),
    ("django-wsgi", "gunicorn"),
    ("django-wsgi", "wsgiref"),
    ("django-settings", "gunicorn"),
    ("flask", "flask"),
    ("flask", "gunicorn"),
    ("falcon", "gunicorn"),
    ("bottle", "waitress"),
    ("pyramid", "waitress"),
    ("pyramid", "wsgiref"),
]
#: Servers that the development environment has not; they are installed in one of their own.
OTHER_SERVERS = Cell(
    "zero-code",
    "zero code",
    (),
    (
        *("daphne>=4.1", "granian>=2.0", "mangum>=0.19", "pyuwsgi>=2.0.27", "hypercorn>=0.17", "flask>=3.0"),
        *("httpx>=0.27", "opentelemetry-distro>=0.61b0", "opentelemetry-instrumentation-wsgi>=0.61b0"),
        *("opentelemetry-instrumentation-asgi>=0.61b0", "opentelemetry-instrumentation-flask>=0.61b0"),
        *("opentelemetry-instrumentation-starlette>=0.61b0", "opentelemetry-sdk[file-configuration]>=1.45"),
    ),
)
OTHER_CASES = [
    ("starlette", "daphne"),
    ("starlette", "granian"),
    ("flask", "granian-wsgi"),
    ("starlette", "mangum"),
    ("starlette", "hypercorn"),
]
#: How the app is started → what is put before the command, and whether byline is in the app's code.
WAYS: dict[str, tuple[list[str], bool]] = {
    "code": ([], True),
    "byline run": (["byline", "run", "--"], False),
    "opentelemetry-instrument": (["opentelemetry-instrument"], False),
    "opentelemetry-instrument and code": (["opentelemetry-instrument"], True),
}


def program(name: str, python: str) -> str:
    return python if name == "python" else str(Path(python).with_name(name))


#: Kind, session, user and operation of the spans of one request.
SPANS = [("INTERNAL", "s-1", "ada", "chat"), ("SERVER", "s-1", "ada", None)]
#: Earlier versions take their folder off PYTHONPATH for good.
INSTRUMENTS_SPAWNED_PROCESSES = hasattr(auto_instrumentation, "_initialize")


def start(
    framework: str, server: str, way: str, receiver: Receiver, port: int, python: str = sys.executable, **variables: str
) -> Any:
    before, in_code = WAYS[way]
    env = environment_without_settings()
    env |= {"FRAMEWORK": framework, "CODE": "1" if in_code else "", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    # Each process would compile all that it imports, or import the clients that other tests need.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    env["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = "genai-openai,openai,httpx,httpx2,requests,celery,threading"
    # Without opentelemetry-distro the exporters have to be named.
    env |= {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"} | variables
    command = [*before, *(each.format(port=port) for each in SERVERS[server])]
    for index in {0, len(before)}:
        command[index] = program(command[index], python)
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # With its workers, see `end`.
        start_new_session=True,
    )


def end(process: Any) -> str:
    """End a server by SIGTERM and return its output."""
    process.terminate()
    try:
        output: str = process.communicate(timeout=patience(30))[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return output


def ask(port: int, process: Any) -> None:
    """Ask the app as soon as it answers."""
    deadline = time.monotonic() + patience(60)
    headers = {"x-session-id": "s-1", "content-type": "application/json"}
    while True:
        try:
            # Asked again, an app that is only slow would answer twice.
            reply = httpx.post(
                f"http://127.0.0.1:{port}/chat",
                content=b'{"user": "ada"}',
                headers=headers,
                trust_env=False,
                timeout=patience(60),
            )
            break
        except (httpx.NetworkError, httpx.RemoteProtocolError):
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.05)
    assert reply.status_code in (200, 201), reply.text
    assert reply.json() == {"answer": 42}


def spans_of(framework: str, server: str, way: str, **variables: str) -> tuple[list[Any], str]:
    """Return kind, session and user of each span, and the output of the server."""
    with Receiver() as receiver:
        port = free_port()
        with start(framework, server, way, receiver, port, **variables) as process:
            try:
                ask(port, process)
                # Development servers end by the signal, without a last export.
                receiver.wait_for(2, timeout=patience(30))
            finally:
                output = end(process)
        wanted = ("session.id", "user.id", "gen_ai.operation.name")
        found = [(span.kind, *(span.attributes.get(name) for name in wanted)) for span in receiver.spans]
    # Spans of receive and send, which OpenTelemetry's own instrumentation adds, are not byline's.
    return sorted((each for each in found if each[3] or each[0] == "SERVER"), key=str), output


@pytest.mark.integration
@pytest.mark.parametrize(("framework", "server"), CASES)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_one_server_span_and_one_llm_span(framework: str, server: str, way: str) -> None:
    if server == "hypercorn" and way == "opentelemetry-instrument" and not INSTRUMENTS_SPAWNED_PROCESSES:
        pytest.skip("hypercorn spawns its workers, which earlier versions of OpenTelemetry do not instrument")
    spans, output = spans_of(framework, server, way)
    assert spans == SPANS, output
    assert "byline.E" not in output


@pytest.mark.matrix
@pytest.mark.parametrize(("framework", "server"), OTHER_CASES)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_same_spans_under_other_servers(framework: str, server: str, way: str) -> None:
    spans, output = spans_of(framework, server, way, python=str(environments.make(OTHER_SERVERS)))
    assert spans == SPANS, output
    assert "byline.E" not in output


@pytest.mark.matrix
@pytest.mark.parametrize("way", ["code", "opentelemetry-instrument and code"])
def test_under_uwsgi_the_middleware_is_in_code(way: str) -> None:
    """UWSGI takes the app without a line of Python that byline could hook."""
    spans, output = spans_of("flask", "uwsgi", way, python=str(environments.make(OTHER_SERVERS)))
    assert spans == SPANS, output
    assert "byline.E" not in output


CONFIG_FILE = """
file_format: "1.0"
resource:
  attributes:
    - name: service.name
      value: declared
tracer_provider:
  processors:
    - batch:
        exporter:
          otlp_http:
            endpoint: ${RECEIVER}/v1/traces
"""
OPTIONS_IN_FILE = """
instrumentation/development:
  python:
    byline:
      stamp: all
"""
JOB = """
import byline
from opentelemetry import trace

{code}
tracer = trace.get_tracer("tests")
with byline.bound(session_id="s-1"):
    tracer.start_span("chat m", attributes={{"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}}).end()
    tracer.start_span("other").end()
print(trace.get_tracer_provider().resource.attributes["service.name"])
"""


def run_job(
    way: str, config: Path, *, code: str = ""
) -> tuple[list[tuple[str, Any]], subprocess.CompletedProcess[str]]:
    """Run a job with OpenTelemetry's configuration file. Returns the name and the session of each span."""
    python = str(environments.make(OTHER_SERVERS))
    with Receiver() as receiver:
        env = environment_without_settings() | {"OTEL_CONFIG_FILE": str(config), "RECEIVER": receiver.url}
        env |= {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        before = [program(name, python) if index == 0 else name for index, name in enumerate(WAYS[way][0])]
        command = [*before, python, "-c", JOB.format(code=code)]
        run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
        return sorted((span.name, span.attributes.get("session.id")) for span in receiver.spans), run


@pytest.mark.matrix
@pytest.mark.parametrize("way", ["byline run", "opentelemetry-instrument"])
def test_the_configuration_file_of_opentelemetry_has_provider_and_exporters(way: str, tmp_path: Path) -> None:
    config = tmp_path / "otel.yaml"
    config.write_text(CONFIG_FILE)
    spans, run = run_job(way, config)
    assert spans == [("chat m", "s-1"), ("other", None)], run.stderr
    assert run.stdout == "declared\n"
    # It may have arguments of byline.instrument().
    config.write_text(CONFIG_FILE + OPTIONS_IN_FILE)
    spans, run = run_job(way, config)
    assert spans == [("chat m", "s-1"), ("other", "s-1")], run.stderr
    assert "byline.E" not in run.stderr


@pytest.mark.matrix
def test_without_the_configuration_file_byline_says_so_and_goes_on(tmp_path: Path) -> None:
    """Under `opentelemetry-instrument`, OpenTelemetry loads no instrumentation then."""
    _, run = run_job("byline run", tmp_path / "missing.yaml")
    assert run.returncode == 0
    assert "byline.E116: OTEL_CONFIG_FILE cannot be used" in run.stderr
    _, run = run_job("opentelemetry-instrument", tmp_path / "missing.yaml", code="byline.instrument(destinations=[])")
    assert run.returncode == 0
    assert "Failed to auto initialize OpenTelemetry" in run.stderr
    assert "byline.E116: OTEL_CONFIG_FILE is set" in run.stderr
