"""A stateful MCP server: each call of a tool is attributed to its own caller."""

from __future__ import annotations

import json
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

import byline
from byline import mcp_servers
from byline.inbound.reader import ClaimReader
from byline.request_context import RequestContext, attach, detach
from tests.matrix import environments
from tests.matrix.cells import Cell


@pytest.mark.matrix
@pytest.mark.parametrize("version", ["1.30.0"])
def test_each_message_has_its_own_caller(version: str) -> None:
    """The session was opened by the first of them; the call runs in the trace of its own request too."""
    python = environments.make(Cell(f"mcp-{version}", "MCP", (), (f"mcp=={version}", "uvicorn", "httpx")))
    command = [str(python), "-m", "tests.mcp.app"]
    run = subprocess.run(command, cwd=environments.ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert len(found["results"]) == 40
    for expected, user, trace_id, expected_trace_id in found["results"]:
        assert (user, trace_id) == (expected, expected_trace_id)
    assert not [name for name in found["stats"] if name.startswith("errors.")]


def make_message(request: Any = None, **fields: Any) -> Any:
    """Return a message of the SDK with an attribution in its ``_meta``."""
    meta: dict[str, str] = {}
    with byline.bound(**fields):
        byline.inject(meta)
    metadata = None if request is None else SimpleNamespace(request_context=request)
    return SimpleNamespace(message_metadata=metadata, request_meta=SimpleNamespace(model_dump=lambda: dict(meta)))


def user_of(message: Any) -> str | None:
    with mcp_servers._context_of(message):
        return byline.current().user_id


def test_over_stdio_a_message_has_the_attribution_of_its_meta() -> None:
    assert user_of(make_message(user_id="ada")) == "ada"


@pytest.mark.parametrize("name", ["x-byline", "X-Byline"])
def test_over_http_without_the_middleware_a_caller_names_nobody(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    request = SimpleNamespace(scope={"type": "http"})
    message = make_message(request, user_id="ada")
    meta = {name: message.request_meta.model_dump()["x-byline"]}
    message.request_meta.model_dump = lambda: dict(meta)
    assert user_of(message) is None
    monkeypatch.setenv("BYLINE_SIGNING_KEY", "k" * 32)
    assert user_of(message) is None
    assert user_of(make_message(request, user_id="ada")) == "ada"


def test_over_a_websocket_a_message_has_the_user_of_the_handshake() -> None:
    scope = {"type": "websocket", "path": "/", "headers": [], "query_string": b""}
    reader = ClaimReader(public=True, identity=lambda scope: {"user_id": "bob"})
    token = attach(RequestContext(reader, scope))
    try:
        assert user_of(make_message(user_id="ada")) == "bob"
    finally:
        detach(token)
