"""``identity`` and ``trust``: values of the app precede claims of clients."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, g
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

import byline
from byline import asgi, wsgi
from tests.support import Door, accepted, both_doors, claim, run_asgi

SENT = claim(
    {
        "session_id": "s",
        "user": "u",
        "trace": {"trace_id": "w", "trace_name": "T", "tags": ["t"], "parent_span_id": "p", "k": 1},
    },
    headers=[("x-session-id", "h")],
)


@both_doors
def test_identity_beats_every_claimed_user(door: Door) -> None:
    """Other claims stay; the claimed user is dropped even if identity knows no user."""
    known = accepted(door, SENT, identity=lambda _: {"user_id": "real", "organization_id": "org"})
    assert (known.attribution.user_id, known.attribution.organization_id) == ("real", "org")
    assert (known.attribution.session_id, known.attribution.trace_id) == ("h", "w")
    assert known.rejected == ["user_id: identity decides"]
    nobodies: list[Any] = [None, {}, byline.Attribution()]
    for nobody in nobodies:
        anonymous = accepted(door, SENT, identity=lambda _, nobody=nobody: nobody)
        assert anonymous.attribution.user_id is None
        assert anonymous.attribution.session_id == "h"
        assert anonymous.rejected == ["user_id: identity decides"]


@both_doors
def test_identity_may_answer_with_an_attribution(door: Door) -> None:
    heard = accepted(door, SENT, identity=lambda _: byline.Attribution(user_id="real", tags=("vip",)))
    assert heard.attribution.user_id == "real"
    assert heard.attribution.tags == ("vip", "t")


@both_doors
def test_identity_beats_the_apps_own_fields(door: Door) -> None:
    """``fields`` names claims of the client, like any other claim."""
    heard = accepted(door, SENT, fields={"user_id": "body:user"}, identity=lambda _: {"user_id": "real"})
    assert heard.attribution.user_id == "real"


@both_doors
def test_identity_with_unknown_fields_and_invalid_ids(door: Door) -> None:
    """The wrong field is named, and the valid fields are kept."""
    heard = accepted(door, SENT, identity=lambda _: {"user_id": object(), "email": "a@b", "organization_id": 5})
    assert heard.attribution.user_id is None
    assert heard.attribution.organization_id == "5"
    assert {"user_id: not text", "email: no attribution field"} <= set(heard.rejected)


def test_identity_sees_authentication_that_runs_further_inside() -> None:
    """Starlette's AuthenticationMiddleware puts the user into the scope, inside of ours."""

    class Basic(AuthenticationBackend):
        async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
            given = conn.headers.get("authorization", "")
            if not given:
                return None
            name = base64.b64decode(given.split()[1]).decode().partition(":")[0]
            return AuthCredentials(["authenticated"]), SimpleUser(name)

    def chat(request: Request) -> Response:
        return JSONResponse(byline.current().user_id)

    def identity(scope: Any) -> dict[str, str] | None:
        user = scope.get("user")
        return {"user_id": user.display_name} if user is not None and user.is_authenticated else None

    app = Starlette(
        routes=[Route("/", chat)],
        middleware=[
            Middleware(asgi.AttributionMiddleware, identity=identity),
            Middleware(AuthenticationMiddleware, backend=Basic()),
        ],
    )
    client = TestClient(app)
    assert client.get("/", auth=("ada", "secret")).json() == "ada"
    assert client.get("/").json() is None


def test_identity_that_is_not_known_at_first_is_asked_again() -> None:
    """The first question comes before authentication has run."""
    early = []

    async def authenticates(scope: Any, receive: Any, send: Any) -> None:
        early.append(byline.current().user_id)
        scope["user"] = "ada"
        early.append(byline.current().user_id)

    def identity(scope: Any) -> dict[str, Any]:
        return {"user_id": scope.get("user")} if "user" in scope else {}

    app = asgi.AttributionMiddleware(authenticates, identity=identity)
    assert asyncio.run(run_asgi(app, claim())).error is None
    assert early == [None, "ada"]


def test_identity_of_flask() -> None:
    """Flask's ``g`` is there when identity is asked within the request."""
    app = Flask("app")

    @app.before_request
    def authenticate() -> None:
        g.user = "ada"

    @app.get("/")
    def chat() -> str:
        return str(byline.current().user_id)

    identity: Callable[[Any], dict[str, str]] = lambda _: {"user_id": g.user}  # noqa: E731
    app.wsgi_app = wsgi.AttributionMiddleware(app.wsgi_app, identity=identity)  # type: ignore[method-assign]
    assert app.test_client().get("/").text == "ada"


def fail(_: Any) -> Any:
    raise LookupError("the key is sk-secret")


@both_doors
def test_identity_that_fails_costs_the_user_alone(door: Door, production: pytest.LogCaptureFixture) -> None:
    """Claimed users are still not believed, the other claims are, and the log holds no value."""
    heard = accepted(door, SENT, identity=fail)
    assert heard.known()["session_id"] == "h"
    assert heard.attribution.user_id is None
    assert "user_id: identity decides" in heard.rejected
    assert "identity failed with LookupError" in production.text
    assert "sk-secret" not in production.text


@both_doors
def test_identity_that_fails_raises_under_pytest(door: Door) -> None:
    """So that a bug in it fails the tests of the app."""
    with pytest.raises(LookupError):
        accepted(door, SENT, identity=fail)


@both_doors
def test_trust_that_fails_trusts_nobody(door: Door, production: pytest.LogCaptureFixture) -> None:
    heard = accepted(door, SENT, trust=fail, identity=lambda _: {"user_id": "real"})
    assert heard.known() == {"user_id": "real"}
    assert "trust failed with LookupError" in production.text


ALL = {"session_id", "user_id", "trace_id", "trace_name", "tags", "parent_span_id", "metadata"}
TRUSTED: dict[str, tuple[Any, set[str]]] = {
    "everything": ({"session", "user", "trace", "labels", "metadata"}, ALL),
    "nothing": ((), set()),
    "session": ({"session"}, {"session_id"}),
    "user": (["user"], {"user_id"}),
    "trace": (("trace",), {"trace_id", "parent_span_id"}),
    "labels": ({"labels": 1}, {"trace_name", "tags"}),
    "metadata": (frozenset({"metadata"}), {"metadata"}),
    "a predicate that says yes": (lambda _: True, ALL),
    "a predicate that says no": (lambda _: False, set()),
    "a predicate that says nothing": (lambda _: None, set()),
    "a predicate of groups": (lambda _: {"session", "user"}, {"session_id", "user_id"}),
    "a predicate of one group": (lambda _: "session", {"session_id"}),
    "a predicate of unknown groups": (lambda _: {"sessions"}, set()),
}


@both_doors
@pytest.mark.parametrize("case", TRUSTED)
def test_trust_names_the_accepted_groups_of_claims(door: Door, case: str) -> None:
    """Untrusted claims are named."""
    trust, expected = TRUSTED[case]
    heard = accepted(door, SENT, trust=trust)
    assert set(heard.known()) == expected
    assert set(heard.rejected) == {f"{field}: not trusted" for field in ALL - expected}


@both_doors
def test_trust_goes_by_the_request(door: Door) -> None:
    """A predicate gets the scope or the environ, e.g. to believe one's own network only."""

    def own_network(raw: Any) -> bool:
        address = raw["client"][0] if door == "asgi" else raw["REMOTE_ADDR"]
        return bool(address.startswith("10."))

    assert accepted(door, SENT, trust=own_network).attribution.session_id == "h"


@both_doors
def test_identity_is_not_subject_to_trust(door: Door) -> None:
    heard = accepted(door, SENT, trust=(), identity=lambda _: {"user_id": "real", "session_id": "mine"})
    assert heard.known() == {"user_id": "real", "session_id": "mine"}


@both_doors
def test_the_apps_own_fields_are_subject_to_trust(door: Door) -> None:
    heard = accepted(door, SENT, trust={"trace"}, fields={"session_id": "body:session_id"})
    assert heard.attribution.session_id is None


def test_the_docstring_opens_with_when_the_default_is_safe() -> None:
    for middleware in (asgi.AttributionMiddleware, wsgi.AttributionMiddleware):
        opening = (middleware.__doc__ or "").split("Args:")[0]
        assert "Safe if" in opening
        assert "Not safe if strangers call the endpoint: pass ``public=True``" in opening
