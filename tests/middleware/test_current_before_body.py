"""Values read before the app reads the body are read again afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

import byline
from byline.asgi import AttributionMiddleware


@pytest.mark.parametrize("read", [Request.json, Request.body])
def test_body_claims_are_seen_after_an_early_question(read: Callable[[Request], object]) -> None:
    """An authentication step asks for the headers' session; the handler still gets the body's user."""

    async def chat(request: Request) -> JSONResponse:
        early = byline.current()
        await read(request)  # type: ignore[misc]
        late = byline.current()
        return JSONResponse([early.session_id, early.user_id, late.session_id, late.user_id])

    app = Starlette(routes=[Route("/chat", chat, methods=["POST"])])
    app.add_middleware(AttributionMiddleware)
    answer = TestClient(app).post("/chat", json={"user": "ada"}, headers={"x-session-id": "s-1"})
    assert answer.json() == ["s-1", None, "s-1", "ada"]
