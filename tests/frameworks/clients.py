"""How the apps are asked: a request with the session in a header, user and trace in the body.

Each function returns the text of the answer, an empty one if the app could not answer because its model call failed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import httpx2

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


CLIENTS: Final[dict[str, Ask]] = {"http": _ask, "http2": _ask_http2, "graphql": _ask_graphql}
