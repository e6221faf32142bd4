"""Every row of the table of names: it is read, alone and beside others, and nothing else is taken for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from byline.gateways.base import Field
from byline.inbound.claim_names import AGENT_PROTOCOL_CLAIMS, BYLINE_CLAIMS, CLAIM_NAMES, canonical_header_name
from byline.inbound.trust import GROUPS
from tests.support import Door, Sent, accepted, both_doors, claim

#: kind → the claim, and the accepted value of its field
SAMPLES: dict[str, tuple[Any, Any]] = {
    "text": ("value-1", "value-1"),
    "id": ("value-1", "value-1"),
    "tags": (["a", "b"], ("a", "b")),
    "metadata": ({"k": 1, "l": "v"}, {"k": 1, "l": "v"}),
    "controls": ({"k": 1, "l": "v"}, {"k": 1, "l": "v"}),
    "trace": ({"trace_id": "value-1"}, "value-1"),
    "entry": ("value-1", "value-1"),
}
#: Companions of ambiguous names of the body.
COMPANY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "x" * 300}],
    "input": "x" * 300,
    "model": "gpt-4o",
    "jsonrpc": "2.0",
    "threadId": {},
    "runId": {},
    "newMessage": {},
    "query": {},
}


def key_of(field: Field) -> str:
    return f"{field.where} {field.name} → {field.field}"


rows = pytest.mark.parametrize("field", CLAIM_NAMES, ids=key_of)


def nested(name: str, value: Any) -> dict[str, Any]:
    """Put a value at a dotted path."""
    found: Any = value
    for part in reversed(name.split(".")):
        found = {part: found}
    return dict(found)


def text_of(field: Field, value: Any) -> str:
    """The value as a header or a query has it."""
    if field.encoded:
        if isinstance(value, dict):
            return ",".join(f"{key}:{item}" for key, item in value.items())
        return ",".join(value) if isinstance(value, list) else str(value)
    return value if isinstance(value, str) else json.dumps(value)


def sent_as(*fields: Field, value: Any = None, company: bool = True, **more: Any) -> Sent:
    """A request that says something under these names."""
    headers, body, query = [], dict[str, Any](), []
    for field in fields:
        said = SAMPLES[field.kind][0] if value is None else value
        if field.where == "header":
            headers.append((field.name, text_of(field, said)))
        elif field.where == "query":
            query.append(f"{field.name}={text_of(field, said)}")
        else:
            for part, item in nested(field.name, said).items():
                body[part] = item
            if field.needs and company:
                body.setdefault(field.needs, COMPANY[field.needs])
    if query:
        return Sent(type="websocket", query="&".join(query), headers=headers)
    return claim(body, headers=headers, **more)


def door_for(door: Door, field: Field) -> Door:
    # Only ASGI has websockets, and only their handshake has a query with claims.
    return "asgi" if field.where == "query" else door


@both_doors
@rows
def test_the_name_is_read(door: Door, field: Field) -> None:
    """By itself, with nothing dropped and nothing made of it that it does not say."""
    heard = accepted(door_for(door, field), sent_as(field), trust={*GROUPS, "masks"})
    expected = SAMPLES[field.kind][1]
    if field.kind == "entry":
        expected = {field.name.removeprefix("langfuse_"): expected}
    elif field.encoded and isinstance(expected, dict):
        expected = {key: str(item) for key, item in expected.items()}
    known = heard.known()
    assert known.pop(field.field) == expected
    assert known == {}
    # Company of another kind than usual may be dropped by its own name.
    assert [line for line in heard.rejected if not line.endswith("not text")] == []


@pytest.mark.parametrize("field", [field for field in CLAIM_NAMES if field.needs], ids=key_of)
def test_ambiguous_name_needs_its_companion(field: Field) -> None:
    """A body's ``id`` is a session beside messages, and anything at all elsewhere."""
    heard = accepted("asgi", sent_as(field, company=False))
    assert heard.known() == {}
    assert heard.rejected == []


def several_names() -> list[tuple[str, Field, list[Field]]]:
    """Each name of a text in headers or body, with all names for the same field that come after it."""
    found = []
    texts: dict[tuple[str, str], Field] = {}
    for field in CLAIM_NAMES:
        if field.kind in ("text", "id") and field.where != "query":
            texts.setdefault((field.where, canonical_header_name(field.name)), field)
    ordered = list(texts.values())
    for rank, field in enumerate(ordered):
        later = [other for other in ordered[rank + 1 :] if (other.field, other.where) == (field.field, field.where)]
        if later:
            found.append((key_of(field), field, later))
    return found


@pytest.mark.parametrize(
    ("name", "first", "later"), several_names(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_earlier_name_wins(name: str, first: Field, later: list[Field]) -> None:
    """In the order of the table, in whichever order they come."""
    one, others = sent_as(first), sent_as(*later, value="later")
    body = {**json.loads(b"".join(others.chunks())), **json.loads(b"".join(one.chunks()))}
    both = claim(body, headers=[*others.headers, *one.headers])
    assert getattr(accepted("asgi", both).attribution, first.field) == "value-1"
    assert getattr(accepted("asgi", others).attribution, first.field) == "later"


def test_dashes_and_underscores_are_the_same_in_the_name_of_a_header() -> None:
    """So that no two rows mean one header; but Aptible's, which is byline's own too."""
    names = [canonical_header_name(field.name) for field in CLAIM_NAMES if field.where == "header"]
    assert sorted(names) == sorted([*set(names), "x-session-id"])


def test_the_order_of_the_table() -> None:
    """Those of a web app first, then the gateways', then the agents'."""
    assert CLAIM_NAMES[: len(BYLINE_CLAIMS)] == BYLINE_CLAIMS
    assert CLAIM_NAMES[-len(AGENT_PROTOCOL_CLAIMS) :] == AGENT_PROTOCOL_CLAIMS


@both_doors
@pytest.mark.parametrize(
    ("body", "known"),
    [
        ({"conversation": {"id": "conv_1"}, "input": "x"}, {"session_id": "conv_1"}),
        ({"conversation": "conv_1", "input": []}, {"session_id": "conv_1"}),
        ({"conversation": "Hello, it is me.", "mood": "sad"}, {}),
        ({"conversation": {"turns": []}, "input": "x"}, {}),
        ({"previous_response_id": "resp_1", "input": "x"}, {"metadata": {"previous_response_id": "resp_1"}}),
        ({"previous_response_id": None, "input": "x"}, {}),
        ({"id": "chat-1", "messages": [], "trigger": "submit-message"}, {"session_id": "chat-1"}),
        ({"id": 7, "name": "a product"}, {}),
        ({"id": "chat-1", "messages": [], "session_id": "s"}, {"session_id": "s"}),
        ({"threadId": "t", "runId": "r", "messages": []}, {"session_id": "t", "trace_id": "r"}),
        ({"threadId": "t", "runId": "r", "id": "x", "messages": []}, {"session_id": "t", "trace_id": "r"}),
        ({"threadId": "t"}, {}),
        ({"runId": "r"}, {}),
        (
            {"jsonrpc": "2.0", "method": "message/send", "params": {"message": {"contextId": "c", "parts": [{}]}}},
            {"session_id": "c"},
        ),
        ({"jsonrpc": "2.0", "method": "tools/call", "params": {"arguments": {"contextId": "c"}}}, {}),
        ({"jsonrpc": "2.0", "method": "x", "params": ["message"]}, {}),
        ({"params": {"message": {"contextId": "c"}}}, {}),
        ({"message": {"contextId": "c", "messageId": "m"}}, {"session_id": "c"}),
        ({"message": "contextId"}, {}),
        ({"message": {"text": "x"}}, {}),
        ({"assistant_id": "a", "config": {"configurable": {"thread_id": "t-1"}}}, {"session_id": "t-1"}),
        ({"config": {"configurable": "no"}}, {}),
        (
            {"appName": "a", "userId": "u", "sessionId": "s", "newMessage": {"parts": []}},
            {"session_id": "s", "user_id": "u"},
        ),
        ({"userId": "u", "sessionId": "s"}, {}),
        ({"query": "Hello", "inputs": {}, "conversation_id": "c", "user": "u"}, {"session_id": "c", "user_id": "u"}),
        ({"conversation_id": "c"}, {}),
        ({"user": "u", "safety_identifier": "hash"}, {"user_id": "u"}),
        ({"tags": ["shop", "shoes"], "price": 3}, {}),
        ({"tags": ["a"], "model": "m"}, {"tags": ("a",)}),
        (
            {"providerOptions": {"gateway": {"user": "u", "tags": ["a"], "order": ["x"]}}},
            {"user_id": "u", "tags": ("a",)},
        ),
        ({"providerOptions": {"anthropic": {"thinking": {}}}}, {}),
        ({"providerOptions": []}, {}),
    ],
)
def test_protocols_of_agents(door: Door, body: dict[str, Any], known: dict[str, Any]) -> None:
    """Also names that only look similar."""
    heard = accepted(door, claim(body))
    assert heard.known() == known
    assert heard.rejected == []


@pytest.mark.parametrize(
    ("user_id", "known"),
    [
        ("opaque-1", {"user_id": "opaque-1"}),
        (
            "user_abc_account__session_e96634a3-fa28-4083-b354-55542e2dca01",
            {"user_id": "user_abc_account_", "session_id": "e96634a3-fa28-4083-b354-55542e2dca01"},
        ),
        ("_session_s-1", {"session_id": "s-1"}),
        (
            '{"device_id": "d", "account_uuid": "a", "session_id": "s-1"}',
            {"user_id": "a", "session_id": "s-1"},
        ),
        ('{"device_id": "d", "account_uuid": "", "session_id": "s-1"}', {"user_id": "d", "session_id": "s-1"}),
        ({"session_id": "s-1"}, {"session_id": "s-1"}),
        (None, {}),
    ],
)
def test_users_of_anthropic_requests(user_id: Any, known: dict[str, Any]) -> None:
    """Coding agents put the session into the user's id."""
    assert accepted("asgi", claim({"metadata": {"user_id": user_id}})).known() == known


def test_explicit_session_precedes_a_session_within_a_user() -> None:
    """Wherever it stands."""
    hidden = {"user_id": "user_abc_session_hidden"}
    for body, headers in (
        ({"metadata": {**hidden, "session_id": "s", "trace_user_id": "u"}}, []),
        ({"metadata": hidden, "session_id": "s", "user": "u"}, []),
        ({"metadata": hidden, "user": "u"}, [("mcp-session-id", "s")]),
    ):
        assert accepted("asgi", claim(body, headers=headers)).known() == {"session_id": "s", "user_id": "u"}


def test_percent_encoding_of_langfuses_headers() -> None:
    """As its gateway reads them: lists are divided first, a plus stays one."""
    heard = accepted(
        "asgi",
        claim(
            headers=[
                ("langfuse-session-id", "s%C3%BC%C3%9F"),
                ("langfuse-user-id", "a+b%2Cc"),
                ("langfuse-tags", " x%2Cy ,plus+tag"),
                ("langfuse-metadata", "k%3A1:a%2Cb:c,broken,note:hello%2C%20world"),
            ]
        ),
    )
    assert heard.known() == {
        "session_id": "süß",
        "user_id": "a+b,c",
        "tags": ("x,y", "plus+tag"),
        "metadata": {"k:1": "a,b:c", "note": "hello, world"},
    }


def test_bytes_that_are_no_text_are_no_id() -> None:
    heard = accepted("asgi", claim(headers=[("langfuse-session-id", "%ff")]))
    assert heard.known() == {}
    assert heard.rejected == ["session_id: not printable"]


def test_claimed_users_of_all_names_are_dropped_with_identity() -> None:
    """Under any name."""
    body = {
        "user": "eve",
        "safety_identifier": "eve",
        "metadata": {"user_id": "eve", "_user": "eve"},
        "providerOptions": {"gateway": {"user": "eve"}},
    }
    headers = [(field.name, "eve") for field in CLAIM_NAMES if field.field == "user_id" and field.where == "header"]
    heard = accepted("asgi", claim(body, headers=headers), identity=lambda scope: {"user_id": "ada"})
    assert heard.attribution.user_id == "ada"
    assert "eve" not in str(heard.known())


def test_body_of_a_long_chat_is_not_decoded_for_its_id() -> None:
    """Whether there are messages is all that is asked of them: broken text within them spoils nothing."""
    sent = Sent(b'{"messages": [{"content": "\xff"}], "id": "chat-1"}')
    assert accepted("asgi", sent).known() == {"session_id": "chat-1"}


@both_doors
@pytest.mark.parametrize(
    ("headers", "known"),
    [
        ({"X-OpenWebUI-Chat-Id": "c", "X-OpenWebUI-User-Id": "u"}, {"session_id": "c", "user_id": "u"}),
        ({"X-Conversation-Id": "c"}, {"session_id": "c"}),
        ({"X-POSTHOG-SESSION-ID": "s", "X-POSTHOG-DISTINCT-ID": "d"}, {"session_id": "s", "user_id": "d"}),
        (
            {"X-Session-Id": "child", "X-Parent-Session-Id": "parent"},
            {"session_id": "child", "metadata": {"x-parent-session-id": "parent"}},
        ),
    ],
)
def test_headers_of_chat_interfaces_and_agents(door: Door, headers: dict[str, str], known: dict[str, Any]) -> None:
    heard = accepted(door, claim({}, headers=list(headers.items())))
    assert heard.known() == known
