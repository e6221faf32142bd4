"""``fields`` reads the same value of a repeated query parameter or cookie as the app's framework."""

from __future__ import annotations

from typing import Any

import flask
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

import byline
from byline import asgi, wsgi

FIELDS = {"user_id": "query:user", "session_id": "cookie:sid"}
#: name: query, Cookie header
REQUESTS = {
    "repeated": ("user=victim&user=me", "sid=victim; sid=me"),
    "three times": ("user=a&user=b&user=c", "sid=a; x=1; sid=b; sid=c"),
    "the same twice": ("user=me&user=me", "sid=me; sid=me"),
    "once": ("user=me", "sid=me"),
    "quoted cookie": ("user=me", 'sid="me"; y="2"'),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_starlette_and_byline_read_the_same_value(name: str) -> None:
    query, cookie = REQUESTS[name]

    def show(request: Request) -> Response:
        current = byline.current()
        own = [request.query_params["user"], request.cookies["sid"]]
        return JSONResponse([own, [current.user_id, current.session_id]])

    app = Starlette(routes=[Route("/", show)])
    app.add_middleware(asgi.AttributionMiddleware, fields=FIELDS)
    own, read = TestClient(app).get(f"/?{query}", headers={"cookie": cookie}).json()
    assert read == own


@pytest.mark.parametrize("name", REQUESTS)
def test_flask_and_byline_read_the_same_value(name: str) -> None:
    query, cookie = REQUESTS[name]
    app = flask.Flask(__name__)
    app.wsgi_app = wsgi.AttributionMiddleware(app.wsgi_app, fields=FIELDS)  # type: ignore[method-assign]

    @app.get("/")
    def show() -> Any:
        current = byline.current()
        own = [flask.request.args["user"], flask.request.cookies["sid"]]
        return [own, [current.user_id, current.session_id]]

    own, read = app.test_client(use_cookies=False).get(f"/?{query}", headers={"cookie": cookie}).get_json()
    assert read == own
