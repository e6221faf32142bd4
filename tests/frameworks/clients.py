"""How the apps are asked: a request with the session in a header, user and trace in the body.

Each function returns the text of the answer, an empty one if the app could not answer because its model call failed.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx2
from websockets.sync.client import connect

#: Function of the URL of the app, ``chat`` or ``stream``, and the session.
Ask = Callable[[str, str, str], str]


def _headers(session: str) -> dict[str, str]:
    return {"x-session-id": session}


def _body(session: str) -> dict[str, Any]:
    return {
        "user": f"user of {session}",
        "trace": {"trace_id": f"trace of {session}", "trace_name": f"name of {session}"},
        "message": f"message of {session}",
    }


def _text(answer: httpx2.Response) -> str:
    if answer.status_code >= 500:
        return ""
    assert answer.status_code in (200, 201), answer.text
    return answer.text


def _ask(url: str, path: str, session: str) -> str:
    return _text(
        httpx2.post(f"{url}/{path}", json=_body(session), headers=_headers(session), timeout=60, trust_env=False)
    )


def _ask_http2(url: str, path: str, session: str) -> str:
    with httpx2.Client(http1=False, http2=True, timeout=60, trust_env=False) as client:
        answer = client.post(f"{url}/{path}", json=_body(session), headers=_headers(session))
        assert answer.http_version == "HTTP/2"
        return _text(answer)


_SUBSCRIPTION: Final = "text/event-stream"


def _ask_graphql(url: str, path: str, session: str) -> str:
    kind = "query" if path == "chat" else "subscription"
    query = f"{kind} ($message: String!) {{ {path}(message: $message) }}"
    body = {**_body(session), "query": query, "variables": {"message": f"message of {session}"}}
    headers = {**_headers(session), "accept": _SUBSCRIPTION if path == "stream" else "application/json"}
    answer = httpx2.post(f"{url}/{path}", json=body, headers=headers, timeout=60, trust_env=False)
    return "" if '"errors"' in answer.text else _text(answer)


def _all_headers(session: str) -> dict[str, str]:
    """Return headers with all claims, for bodies whose members are fixed."""
    return {
        "x-session-id": session,
        "baggage": f"user.id={quote(f'user of {session}')}",
        "trace": json.dumps(_body(session)["trace"]),
    }


def _ask_gradio(url: str, path: str, session: str) -> str:
    """As Gradio's clients do: an event joins the queue, and another request waits for its results."""
    body = {"data": [f"message of {session}"]}
    with httpx2.Client(base_url=f"{url}/gradio_api/call/{path}", timeout=60, trust_env=False) as client:
        event = client.post("", json=body, headers=_all_headers(session)).raise_for_status().json()["event_id"]
        text = client.get(f"/{event}").text
    return "" if "event: error" in text else text


def _ask_mcp(url: str, path: str, session: str) -> str:
    """A call of a tool without a session of MCP; the answer is a stream of events."""
    call = {"name": "chat", "arguments": {"message": f"message of {session}"}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    headers = {**_all_headers(session), "accept": "application/json, text/event-stream"}
    answer = httpx2.post(f"{url}/mcp", json=body, headers=headers, timeout=60, trust_env=False)
    return "" if '"isError":true' in answer.text else _text(answer)


def _ask_chainlit(url: str, path: str, session: str) -> str:
    """As Chainlit's page does, by Socket.IO over a websocket; the claims are in the handshake."""
    address = url.replace("http://", "ws://") + "/chainlit/ws/socket.io/?EIO=4&transport=websocket"
    auth = {"clientType": "webapp", "sessionId": f"{session}-{uuid.uuid4()}", "threadId": "", "userEnv": "{}"}
    text = {"output": f"message of {session}", "createdAt": "2026-01-01T00:00:00Z"}
    message = {"id": str(uuid.uuid4()), "name": "user", "type": "user_message", **text}
    with connect(address, additional_headers=_all_headers(session), proxy=None) as connection:
        while True:
            packet = str(connection.recv(timeout=60))
            event, *values = json.loads(packet[2:]) if packet.startswith("42") else ("",)
            if packet.startswith("0"):
                connection.send(f"40{json.dumps(auth)}")
            elif packet.startswith("40"):
                connection.send('42["connection_successful"]')
                connection.send(f"42{json.dumps(['client_message', {'message': message, 'fileReferences': None}])}")
            elif packet == "2":
                connection.send("3")
            elif event in ("new_message", "update_message"):
                if values[0]["isError"]:
                    return ""
                if values[0]["type"] == "assistant_message" and "This is the answer" in values[0]["output"]:
                    return str(values[0]["output"])


def _ask_nicegui(url: str, path: str, session: str) -> str:
    """As NiceGUI's page does: the page by HTTP, then an event of an element by Socket.IO over a websocket."""
    page = httpx2.get(f"{url}/page", timeout=60, trust_env=False).text
    found = re.search(r"client (\S+) element (\d+) listener ([\w-]+)\.", page)
    assert found, page
    client, element, listener = found.groups()
    ids = {"client_id": client, "tab_id": str(uuid.uuid4()), "document_id": str(uuid.uuid4()), "next_message_id": 0}
    query = urlencode({**ids, "implicit_handshake": "true", "EIO": 4, "transport": "websocket"})
    event = {"id": int(element), "client_id": client, "listener_id": listener, "args": [f'"message of {session}"']}
    address = f"{url.replace('http://', 'ws://')}/_nicegui_ws/socket.io/?{query}"
    with connect(address, additional_headers=_all_headers(session), proxy=None) as connection:
        while True:
            packet = str(connection.recv(timeout=60))
            if packet.startswith("0"):
                connection.send("40")
            elif packet.startswith("40"):
                connection.send(f"42{json.dumps(['event', event])}")
            elif packet == "2":
                connection.send("3")
            elif "no answer" in packet:
                return ""
            elif "This is the answer" in packet:
                return packet


CLIENTS: Final[dict[str, Ask]] = {
    "http": _ask,
    "http2": _ask_http2,
    "graphql": _ask_graphql,
    "gradio": _ask_gradio,
    "mcp": _ask_mcp,
    "chainlit": _ask_chainlit,
    "nicegui": _ask_nicegui,
}
