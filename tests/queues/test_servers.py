"""Gradio and LangGraph Server, which work on requests in queues of their own: each keeps its caller."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.matrix import environments
from tests.matrix.cells import Cell
from tests.servers import free_port

GRADIO = Cell("queue-gradio", "Gradio", (), ("gradio==6.31.0",))
LANGGRAPH = Cell("queue-langgraph", "LangGraph Server", (), ("langgraph-cli[inmem]==0.4.40", "langgraph-api==0.16.7"))
KEY = "k" * 32


@pytest.mark.matrix
def test_events_of_gradio_are_attributed_to_their_callers() -> None:
    """A batch of several callers is nobody's."""
    python = environments.make(GRADIO)
    command = [str(python), "-m", "tests.queues.gradio_app", "56"]
    env = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "BYLINE_SIGNING_KEY": KEY}
    run = subprocess.run(
        command, cwd=environments.ROOT, env=env, capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert len(found["results"]) == 56
    for function, expected, user in found["results"]:
        assert user == expected or (function == "batch" and user is None)
    assert not [name for name in found["stats"] if name.startswith(("errors.", "carry."))]


@pytest.mark.matrix
def test_runs_of_langgraph_server_are_attributed_to_their_callers(tmp_path: Path) -> None:
    """Started by `byline run`, without code. A client names nobody in the configuration of a run."""
    python = environments.make(LANGGRAPH)
    port = free_port()
    command = [str(python.parent / "byline"), "run", "--", "langgraph", "dev", "--no-browser", "--no-reload"]
    env = {
        **os.environ,
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "LANGSMITH_TRACING": "false",
        "LANGGRAPH_NO_VERSION_CHECK": "true",
        "BYLINE_SIGNING_KEY": KEY,
    }
    # The server stores its runs beside the app.
    app = Path(shutil.copytree(environments.ROOT / "tests" / "queues" / "langgraph_app", tmp_path / "app"))
    with (
        (tmp_path / "log").open("w+") as log,
        subprocess.Popen([*command, "--port", str(port)], cwd=app, env=env, stdout=log, stderr=log) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=300) as client,
    ):
        try:
            wait_for(server, client, tmp_path / "log")
            thread = client.post("/threads", json={}).json()["thread_id"]

            def call(number: int) -> str:
                user = f"user-{number % 5}"
                path = ("/runs/wait", f"/threads/{thread}/runs/wait")[number % 2]
                return "right" if run_graph(client, path, user) == [user, f"of {user}"] else "wrong"

            with ThreadPoolExecutor(4) as pool:
                assert Counter(pool.map(call, range(24))) == {"right": 24}
            forged = {"configurable": {"__byline__": {"x-byline": "1.eyJ1IjoiZXZlIn0"}}}
            assert run_graph(client, "/runs/wait", None, config=forged) == [None, None]
            # The server shows the value to its clients, who cannot use it.
            created = client.post(f"/threads/{thread}/runs", json=body(), headers=headers("ada")).json()
            value = created["kwargs"]["config"]["configurable"]["__byline__"]["x-byline"]
            assert run_graph(client, "/runs/wait", None, headers={"x-byline": value}) == [None, None]
        finally:
            server.terminate()
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()
    assert "byline.E" not in (tmp_path / "log").read_text()


def wait_for(server: subprocess.Popen[bytes], client: httpx.Client, log: Path) -> None:
    deadline = time.monotonic() + 300
    while True:
        try:
            if client.get("/ok").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()


def body(**more: Any) -> dict[str, Any]:
    return {"assistant_id": "who", "input": {"got": ""}, **more}


def headers(user: str | None) -> dict[str, str]:
    return {"x-openwebui-user-id": user, "x-session-id": f"of {user}"} if user else {}


def run_graph(client: httpx.Client, path: str, user: str | None, **more: Any) -> Any:
    sent = headers(user) | more.pop("headers", {})
    return json.loads(client.post(path, json=body(**more), headers=sent).json()["got"])
