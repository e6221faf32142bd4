"""MCP servers and clients: each call of a tool is attributed to its own caller."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import byline
from byline import mcp_servers
from byline.asgi import AttributionMiddleware
from byline.inbound.reader import ClaimReader
from byline.request_context import RequestContext, attach, detach
from tests.matrix import environments
from tests.matrix.cells import Cell
from tests.support import Sent, run_asgi


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


#: Name of an environment → its packages.
SDKS = {
    "mcp-1.30.0": ("mcp==1.30.0",),
    "mcp-2.3.0": ("mcp==2.3.0",),
    "fastmcp-3.4.11": ("fastmcp==3.4.11",),
    "fastmcp-4.2.3": ("fastmcp==4.2.3",),
}
#: Server → whether the calls are attributed, and whether they run in the trace of the caller.
SERVERS = {
    "streamable-http": (True, True),
    "streamable-http,public": (True, False),
    "streamable-http,stateless,public": (True, False),
    "streamable-http,bare": (True, True),
    "streamable-http,stranger": (False, None),
    "sse,public": (True, False),
    "stdio": (False, True),
    "stdio,named": (True, True),
    "memory": (True, True),
}
CALLS = 56


def environment_of(sdk: str) -> Path:
    return environments.make(Cell(f"mcp-hops-{sdk}", "MCP", (), (*SDKS[sdk], "uvicorn", "httpx")))


@pytest.mark.matrix
@pytest.mark.parametrize("sdk", SDKS)
def test_calls_of_one_session_are_attributed_to_their_own_callers(sdk: str) -> None:
    """Requests of many users share the session, which another one has opened. Ids reach named servers only."""
    command = [str(environment_of(sdk)), "-m", "tests.mcp.hops", str(CALLS), *SERVERS]
    env = {**os.environ, "SDK": sdk.partition("-")[0], "BYLINE_SIGNING_KEY": "k" * 32}
    run = subprocess.run(
        command, cwd=environments.ROOT, env=env, capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stderr
    results = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("[")]
    assert [name for name, _, _ in results] == list(SERVERS)
    for name, found, counters in results:
        is_attributed, is_in_trace = SERVERS[name]
        # Every seventh request has no user.
        right = CALLS if is_attributed else CALLS // 7
        assert (found.get("right", 0), found.get("none", 0), found.get("wrong", 0)) == (right, CALLS - right, 0), name
        assert is_in_trace is None or found["in trace"] == CALLS * is_in_trace, name
        assert "stranger" not in name or found["ids sent"] == 0, name
        assert counters == [], name


def make_message(request: Any = None, **fields: Any) -> Any:
    """Return a message of the SDK with an attribution in its ``_meta``."""
    meta: dict[str, str] = {}
    with byline.bound(**fields):
        byline.inject(meta)
    metadata = None if request is None else SimpleNamespace(request_context=request)
    return SimpleNamespace(message_metadata=metadata, request_meta=SimpleNamespace(model_dump=lambda: dict(meta)))


def user_of(message: Any) -> str | None:
    with mcp_servers._context_of(message.message_metadata, lambda: message.request_meta):
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


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ("s-1", "ada")),
        ({"BYLINE_TRUST": "session"}, ("s-1", None)),
        ({"BYLINE_PUBLIC": "true"}, (None, None)),
        # A wrong setting accepts nothing.
        ({"BYLINE_TRUST": "everything"}, (None, None)),
    ],
)
def test_over_stdio_baggage_is_a_claim(
    environment: dict[str, str], expected: tuple[str | None, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with mcp_servers._context_of(None, lambda: {"baggage": "langfuse_session_id=s-1,user.id=ada"}):
        got = byline.current()
        assert (got.session_id, got.user_id) == expected


def test_over_stdio_baggage_yields_to_the_attribution_of_a_service() -> None:
    meta = {"baggage": "session.id=s-2,user.id=eve"}
    with byline.bound(session_id="s-1"):
        byline.inject(meta)
    with mcp_servers._context_of(None, lambda: meta):
        assert byline.current() == byline.Attribution(session_id="s-1")


def test_over_http_without_the_middleware_baggage_is_nobodys() -> None:
    request = SimpleNamespace(request_context=SimpleNamespace(scope={"type": "http"}))
    with mcp_servers._context_of(request, lambda: {"baggage": "user.id=ada"}):
        assert byline.current() == byline.Attribution()


def test_over_http_without_the_middleware_a_signed_message_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYLINE_SIGNING_KEY", "k" * 32)
    message = make_message(SimpleNamespace(scope={"type": "http"}), user_id="ada")
    assert user_of(message) == "ada"
    before = byline.stats().get("carry.dropped.replayed", 0)
    assert user_of(message) is None
    assert byline.stats()["carry.dropped.replayed"] == before + 1


def call_over_http(meta: Any, **options: Any) -> byline.Attribution:
    """Return the attribution of an MCP request of which the middleware has read the body."""
    found = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        found.append(byline.current())

    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "who", "_meta": meta}}
    asyncio.run(run_asgi(AttributionMiddleware(app, **options), Sent(json.dumps(body).encode())))
    return found[0]


def test_over_http_the_middleware_reads_baggage_as_a_claim() -> None:
    meta = {"baggage": "session.id=s-1,user.id=ada,langfuse_trace_name=report"}
    assert call_over_http(meta) == byline.Attribution(session_id="s-1", user_id="ada", trace_name="report")
    assert call_over_http(meta, trust={"session"}) == byline.Attribution(session_id="s-1")
    identified = call_over_http(meta, public=True, identity=lambda scope: {"user_id": "bob"})
    assert identified == byline.Attribution(user_id="bob")


@pytest.mark.parametrize("meta", [None, 7, [], {"baggage": 7}, {"baggage": ["user.id=ada"]}, {"x-byline": {}}])
def test_over_http_a_meta_of_another_form_is_no_claim(meta: Any) -> None:
    assert call_over_http(meta) == byline.Attribution()


def test_a_public_server_believes_a_signed_meta_once_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    unsigned: dict[str, str] = {}
    signed: dict[str, str] = {}
    with byline.bound(user_id="ada"):
        byline.inject(unsigned)
        monkeypatch.setenv("BYLINE_SIGNING_KEY", "k" * 32)
        byline.inject(signed)
    before = byline.stats()
    forged = {"x-byline": signed["x-byline"][:-4] + "AAAA"}
    cut = {"x-byline": signed["x-byline"][:-1]}
    long = {"x-byline": signed["x-byline"] + "A" * 5000}
    for meta in (unsigned, forged, cut, long):
        assert call_over_http(meta, public=True) == byline.Attribution()
    assert call_over_http(signed, public=True) == byline.Attribution(user_id="ada")
    assert call_over_http(signed, public=True) == byline.Attribution()
    dropped = {name: count - before.get(name, 0) for name, count in byline.stats().items() if "carry.dropped" in name}
    assert {name: count for name, count in dropped.items() if count} == {
        "carry.dropped.unsigned": 1,
        "carry.dropped.forged": 2,
        "carry.dropped.too_long": 1,
        "carry.dropped.replayed": 1,
    }
