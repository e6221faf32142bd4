"""A stateful MCP server behind byline's middleware; prints its port, and which user each message was attributed to."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from typing import Any

import httpx
import uvicorn
from mcp.server.fastmcp import FastMCP
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import byline
from byline.asgi import AttributionMiddleware

trace.set_tracer_provider(TracerProvider())
byline.instrument(destinations=[])
server = FastMCP("tests", json_response=True)


@server.tool()
async def who(expected: str) -> str:
    """Return the user, and the trace in which the call runs."""
    await asyncio.sleep(0)
    span = trace.get_current_span().get_span_context()
    return json.dumps([expected, byline.current().user_id, f"{span.trace_id:032x}"])


def post(client: httpx.Client, user: str, message: dict[str, Any], session: str | None) -> httpx.Response:
    headers = {"accept": "application/json, text/event-stream", "x-openwebui-user-id": user}
    headers["traceparent"] = f"00-{hash(user) & (2**100 - 1) | 1:032x}-00f067aa0ba902b7-01"
    if session is not None:
        headers["mcp-session-id"] = session
    return client.post("/mcp", json={"jsonrpc": "2.0", **message}, headers=headers)


def main() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(AttributionMiddleware(server.streamable_http_app()), log_level="warning")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    results = []
    with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", trust_env=False) as client:
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        opened = post(client, "alice", {"id": 0, "method": "initialize", "params": hello}, None)
        session = opened.headers["mcp-session-id"]
        post(client, "alice", {"method": "notifications/initialized"}, session)
        for number in range(40):
            user = ("alice", "bob", "carol")[number % 3]
            call = {"name": "who", "arguments": {"expected": user}}
            answer = post(client, user, {"id": number + 1, "method": "tools/call", "params": call}, session).json()
            found = json.loads(answer["result"]["content"][0]["text"])
            results.append([*found, f"{hash(user) & (2**100 - 1) | 1:032x}"])
    running.should_exit = True
    thread.join(30)
    print(json.dumps({"results": results, "stats": byline.stats()}))


if __name__ == "__main__":
    main()
