"""The public mode: what strangers send is accepted only within the identity, and reaches nobody else."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import Any

import pytest

import byline
from byline import asgi, request_context, wsgi
from byline.inbound.trust import bound_session_id
from byline.request_context import RequestContext
from tests.support import Door, Sent, accepted, both_doors, claim, run_asgi, run_wsgi, scope_of

#: Every group of claims, in every place.
EVERYTHING = claim(
    {
        "session_id": "s",
        "user": "eve",
        "trace": {"trace_id": "w", "trace_name": "T", "tags": ["t"], "parent_span_id": "p", "k": 1},
        "metadata": {"mask_input": True, "mask_output": True, "_organisation": "acme", "l": 2},
    },
    headers=[("baggage", "session.id=b,user.id=eve"), ("langfuse-tags", "x")],
)


def ada(_: Any) -> dict[str, str]:
    return {"user_id": "ada"}


@both_doors
def test_only_a_session_of_the_identified_user_is_accepted(door: Door) -> None:
    heard = accepted(door, EVERYTHING, public=True, identity=ada)
    assert heard.known() == {"user_id": "ada", "session_id": bound_session_id("s", "ada")}
    assert "metadata: not trusted" in heard.rejected


@both_doors
@pytest.mark.parametrize("nobody", [None, {}, byline.Attribution(environment="prod")])
def test_without_a_user_nothing_is_accepted(door: Door, nobody: Any) -> None:
    heard = accepted(door, EVERYTHING, public=True, identity=lambda _: nobody)
    assert heard.attribution.session_id is None
    assert heard.attribution.user_id is None
    assert "session_id: not identified" in heard.rejected
    assert accepted(door, EVERYTHING, public=True).known() == {}


def test_no_two_users_have_one_session() -> None:
    owners: list[tuple[str | None, str | None]] = [("a", None), (None, "a"), ("a", "b"), ("b", "a"), ("a:b", None)]
    ids = {bound_session_id(session, *owner) for owner in owners for session in ("s", "b:s", '"s')}
    assert len(ids) == 15
    assert bound_session_id("s" * 200, "ada") == bound_session_id("s" * 200, "ada")
    assert len(bound_session_id("s" * 200, "ada")) == 32


@both_doors
def test_the_apps_own_session_stays_as_it_is(door: Door) -> None:
    heard = accepted(door, EVERYTHING, public=True, identity=lambda _: {"user_id": "ada", "session_id": "own"})
    assert heard.attribution.session_id == "own"


@both_doors
def test_named_groups_are_accepted(door: Door) -> None:
    heard = accepted(door, EVERYTHING, public=True, identity=ada, trust={"labels", "metadata"})
    assert heard.attribution.tags == ("x", "t")
    assert heard.attribution.metadata == {"k": 1, "l": 2}
    assert heard.attribution.session_id is None


@both_doors
def test_masks_are_accepted_by_name_and_never_before_identity(door: Door) -> None:
    masks = claim({"metadata": {"mask_input": True, "k": 1}})
    named: dict[str, Any] = {"trust": {"metadata", "masks"}}
    assert accepted(door, masks, **named).attribution.metadata == {"mask_input": True, "k": 1}
    assert accepted(door, masks, identity=ada, **named).attribution.metadata == {"mask_input": True, "k": 1}
    anonymous = accepted(door, masks, identity=lambda _: None, **named)
    assert anonymous.attribution.metadata == {"k": 1}
    assert anonymous.rejected == ["metadata.mask_input: not trusted"]
    assert accepted(door, masks).attribution.metadata == {"k": 1}
    # What the app itself asks for is no claim.
    own = {"user_id": "ada", "metadata": {"mask_output": True}}
    assert accepted(door, masks, identity=lambda _: own).attribution.metadata == {"mask_output": True, "k": 1}


def test_header_names_count_exactly_as_written() -> None:
    sent = [("x_session_id", "folded"), ("langfuse-trace-user-id", "folded")]
    trust = {"session", "user"}
    assert accepted("asgi", Sent(headers=sent), public=True, trust=trust).known() == {}
    written = accepted("asgi", Sent(headers=[("Langfuse_Trace_User_Id", "u")]), public=True, trust=trust)
    assert written.known() == {"user_id": "u"}
    # Of your own headers too, in every mode: a proxy may set one and pass the other on.
    fields = {"user_id": "header:X-Account"}
    assert accepted("asgi", Sent(headers=[("X_Account", "victim")]), fields=fields).known() == {}
    both = Sent(headers=[("X_Account", "victim"), ("X-Account", "ada")])
    assert accepted("asgi", both, fields=fields).known() == {"user_id": "ada"}


def contexts_of(door: Door, sent: Sent, **settings: Any) -> RequestContext:
    found: list[RequestContext] = []

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        found.append(request_context.current_context() or RequestContext())
        byline.bind(environment="prod")
        found[0].attribution()

    def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
        found.append(request_context.current_context() or RequestContext())
        byline.bind(environment="prod")
        found[0].attribution()
        start_response("200 OK", [])
        return []

    if door == "asgi":
        asyncio.run(run_asgi(asgi.AttributionMiddleware(asgi_app, **settings), sent))
    else:
        copy_context().run(run_wsgi, wsgi.AttributionMiddleware(wsgi_app, **settings), sent)
    return found[0]


@both_doors
def test_what_the_app_states_is_told_apart_from_claims(door: Door) -> None:
    context = contexts_of(door, Sent(headers=[("x-session-id", "s")]), identity=ada)
    assert context.attribution() == byline.Attribution(user_id="ada", session_id="s", environment="prod")
    assert context.vouched() == byline.Attribution(user_id="ada", environment="prod")
    assert not context.is_public


@both_doors
def test_the_callers_key_is_that_of_identity(door: Door) -> None:
    context = contexts_of(
        door,
        Sent(headers=[("x-api-key", "sk-of-somebody-else")]),
        public=True,
        identity=lambda _: {"user_id": "ada", "api_key": "sk-checked", "key_alias": "team blue", "email": "x"},
    )
    assert context.caller_key == ("sk-checked", "team blue")
    assert context.rejected == ["email: no attribution field"]


@both_doors
@pytest.mark.parametrize("answer", [3, [[]], {"session": {}}.values(), object()])
def test_a_wrong_answer_of_trust_accepts_nothing(door: Door, answer: Any, production: pytest.LogCaptureFixture) -> None:
    """And the request goes on, although the trace is asked for before the app is called."""
    heard = accepted(door, EVERYTHING, trust=lambda _: answer)
    assert heard.known() == {}


def test_headers_that_can_be_read_once_reach_the_app() -> None:
    """ASGI allows any iterable."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(scope["headers"])

    sent = Sent(headers=[("traceparent", "00-11112222333344445555666677778888-aaaaaaaaaaaaaaaa-01")])
    for settings in ({"trust": {"session"}}, {"public": True, "app_span": False}):
        scope = {**scope_of(sent), "headers": iter(scope_of(sent)["headers"])}
        asyncio.run(run_asgi(asgi.AttributionMiddleware(app, **settings), sent, scope))
    assert [name for name, _ in seen].count(b"host") == 2
