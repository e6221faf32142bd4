"""What a destination gets of the caller: address, program, paths, keys, and pseudonyms instead of ids."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from opentelemetry.trace import SpanKind

import byline
from byline.asgi import AttributionMiddleware
from byline.export import OTLP, Destination, Langfuse
from byline.export.redaction.minimize import pseudonym, truncate_address
from byline.gateways import keys
from byline.settings import SettingError
from byline.testing import Gateway, ReceivedSpan, Receiver
from tests.export.support import CHAT, running
from tests.support import Sent, call_model, claim, run_asgi

SECRET = "0123456789abcdef0123456789abcdef"
KINDS = pytest.mark.parametrize("kind", ["langfuse", "otlp"])


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def destination(kind: str, receiver: Receiver, **options: Any) -> Destination:
    if kind == "langfuse":
        return Langfuse("pk-lf-1", "sk-lf-1", receiver.url, spans="all", **options)
    return OTLP(receiver.url, conventions=["openinference", "openrouter", "litellm", "traceloop"], **options)


CLIENT: dict[str, Any] = {
    "byline.caller.address": "203.0.113.77",
    "client.address": "2001:db8:1:2:3::4",
    "http.client_ip": "203.0.113.77",
    "net.sock.peer.addr": "203.0.113.77",
    "http.request.header.x_forwarded_for": ["203.0.113.77, 10.0.0.1"],
    "byline.caller.user_agent": "Marked/1.0",
    "http.user_agent": "Marked/1.0",
    "user_agent.original": "Marked/1.0",
    "byline.route": "/chat/marked-path",
    "url.path": "/chat/marked-path",
    "url.full": "https://app.example/chat/marked-path?q=marked-query",
    "http.url": "https://app.example/chat/marked-path?q=marked-query",
    "http.target": "/chat/marked-path?q=marked-query",
    "http.route": "/chat/{id}",
    "http.request.method": "POST",
}


def exported(receiver: Receiver, kind: str, attributes: dict[str, Any], **options: Any) -> ReceivedSpan:
    with running(destination(kind, receiver, **options)) as app:
        app.tracer.start_span("POST /chat/marked-path", kind=SpanKind.SERVER, attributes=attributes).end()
    (span,) = receiver.spans
    return span


@KINDS
def test_addresses_are_truncated_to_their_network(kind: str, receiver: Receiver) -> None:
    span = exported(receiver, kind, CLIENT, caller_address="truncated")
    text = json.dumps(span.attributes)
    assert "203.0.113.77" not in text
    assert "2001:db8:1:2" not in text
    assert "203.0.113.0" in text
    assert "2001:db8:1::" in text


@KINDS
@pytest.mark.parametrize("way", ["argument", "variable"])
def test_personal_data_is_kept_in(kind: str, way: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one destination or for all."""
    options: dict[str, Any] = {"caller_address": "off", "user_agent": False, "url_paths": False}
    if way == "variable":
        options = {}
        for variable, value in (("CALLER_ADDRESS", "off"), ("USER_AGENT", "false"), ("URL_PATHS", "no")):
            monkeypatch.setenv(f"BYLINE_{variable}", value)
    span = exported(receiver, kind, CLIENT, **options)
    text = json.dumps([span.name, span.attributes])
    for marked in ("203.0", "2001:db8", "Marked", "marked-path", "marked-query"):
        assert marked not in text
    assert span.name == "POST"
    assert "https://app.example" in text
    assert "/chat/{id}" in text


@pytest.mark.parametrize("spans", ["llm", "all"])
@pytest.mark.parametrize("pseudonyms", [False, True])
@pytest.mark.parametrize("make", [lambda url, **more: Langfuse("pk-lf-1", "sk-lf-1", url, **more), OTLP])
def test_no_path_names_a_trace_or_its_root(
    make: Any, spans: str, pseudonyms: bool, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor if the framework tells no template of the path."""
    monkeypatch.setenv("BYLINE_PSEUDONYM_KEY", SECRET)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        call_model()
        call_model()

    byline.instrument(
        destinations=[
            make(receiver.url, spans=spans, url_paths=False, pseudonyms=pseudonyms, conventions=["openinference"])
        ]
    )
    try:
        sent = Sent(b'{"user": "lovelace", "session_id": "s-1"}', path="/accounts/lovelace")
        asyncio.run(run_asgi(AttributionMiddleware(app), sent))
        assert byline.flush()
    finally:
        byline.uninstrument()
    assert len(receiver.spans) == 3
    shown = json.dumps([[span.name, span.attributes] for span in receiver.spans])
    assert "accounts" not in shown
    names = {span.attributes.get("langfuse.trace.name") for span in receiver.spans} - {None}
    assert names <= {"POST"}


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("198.51.100.255", "198.51.100.0"),
        ("::ffff:198.51.100.7", "198.51.100.0"),
        ("[2001:db8::1]", "2001:db8::"),
        ("fe80::1%eth0", "fe80::"),
        ("host.example", None),
        ("", None),
        (None, None),
        ("203.0.113.77, 10.0.0.1", None),
    ],
)
def test_an_address_is_its_network_or_nothing(address: object, network: str | None) -> None:
    assert truncate_address(address) == network


#: The id of a user and of a session under the names of all conventions, and in other texts.
IDS: dict[str, Any] = {
    **CHAT,
    "session.id": "session-abc",
    "gen_ai.conversation.id": "session-abc",
    "user.id": "ada@example.org",
    "enduser.id": "ada@example.org",
    "gen_ai.request.user": "ada@example.org",
    "langfuse.user.id": "ada@example.org",
    "traceloop.association.properties.user_id": "ada@example.org",
    "traceloop.association.properties.session_id": "session-abc",
    "user.email": "lovelace@example.org",
    "langfuse.trace.metadata.owner": "ada@example.org",
    "url.full": "https://app.example/users/ada@example.org/session-abc",
    "app.tags": ["ada@example.org", "other"],
}


@KINDS
def test_ids_leave_as_pseudonyms(kind: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal for one user everywhere, so that sessions and users stay together; the app's own span is unchanged."""
    monkeypatch.setenv("BYLINE_PSEUDONYM_KEY", SECRET)
    fields: dict[str, Any] = {"user_id": "ada@example.org", "session_id": "session-abc"}
    with running(destination(kind, receiver, pseudonyms=True)) as app, app.request(**fields):
        app.chat("chat for ada@example.org", **IDS)
        assert byline.current().user_id == "ada@example.org"
    raw = b"".join(request.body or b"" for request in receiver.requests)
    assert b"ada@example.org" not in raw
    shown = json.dumps([[span.name, span.attributes, span.events] for span in receiver.spans])
    for clear in ("ada@example.org", "session-abc", "lovelace"):
        assert clear not in shown
    (chat,) = [span for span in receiver.spans if span.name.startswith("chat")]
    assert chat.attributes["user.id"] == pseudonym(SECRET.encode(), "user", "ada@example.org")
    assert chat.attributes["session.id"] == pseudonym(SECRET.encode(), "session", "session-abc")
    assert len(chat.attributes["user.id"]) == 32
    assert pseudonym(b"other key", "user", "ada") != pseudonym(SECRET.encode(), "user", "ada")
    # A user and a session of one name are not the same.
    assert pseudonym(SECRET.encode(), "user", "ada") != pseudonym(SECRET.encode(), "session", "ada")


@KINDS
def test_nobody_garbles_a_conversation_by_the_choice_of_an_id(
    kind: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BYLINE_PSEUDONYM_KEY", SECRET)
    said = '[{"role": "assistant", "parts": [{"type": "text", "content": "the assistant says: content"}]}]'
    fields: dict[str, Any] = {"user_id": "assistant", "session_id": "content"}
    with running(destination(kind, receiver, pseudonyms=True)) as app, app.request(**fields):
        app.chat(**{"gen_ai.output.messages": said})
    (chat,) = [span for span in receiver.spans if span.name.startswith("chat")]
    assert "the assistant says: content" in json.dumps(chat.attributes)
    assert chat.attributes["user.id"] == pseudonym(SECRET.encode(), "user", "assistant")


@KINDS
def test_no_reason_of_a_dropped_claim_has_an_id(kind: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of a dropped entry of the metadata may be an id, and a release too."""
    monkeypatch.setenv("BYLINE_PSEUDONYM_KEY", SECRET)
    fields: dict[str, Any] = {"user_id": "ada@example.org", "release": "of ada@example.org"}
    with running(destination(kind, receiver, pseudonyms=True)) as app, app.request(**fields):
        byline.bind(metadata={"ada@example.org": "v" * 501})
        app.chat()
    (chat,) = [span for span in receiver.spans if span.name.startswith("chat")]
    shown = pseudonym(SECRET.encode(), "user", "ada@example.org")
    assert chat.attributes["byline.rejected"] == [f"metadata.{shown}: too long"]
    assert "ada@example.org" not in json.dumps(chat.attributes)


@KINDS
@pytest.mark.parametrize("claimed", ["gpt-4o", "openai", "chat", "production", "generation", "gateway", "search_web"])
def test_nobody_changes_model_or_kind_by_the_choice_of_an_id(
    kind: str, claimed: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call without model or operation is in no report of costs."""
    monkeypatch.setenv("BYLINE_PSEUDONYM_KEY", SECRET)
    facts = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.model": "gpt-4o-2024-11-20", "gen_ai.tool.name": "search_web",
        "server.address": "api.openai.com", "langfuse.environment": "production", "byline.cost.source": "gateway",
        "byline.gateway.model.group": "gpt-4o",
    }  # fmt: skip
    seen = []
    for session in ("other", claimed):
        receiver.clear()
        with running(destination(kind, receiver, pseudonyms=True)) as app, app.request(session_id=session):
            app.chat("chat gpt-4o", **facts)
        (chat,) = [span for span in receiver.spans if span.name.startswith("chat")]
        compared = (
            *(*facts, "langfuse.observation.type", "langfuse.observation.model.name", "openinference.span.kind"),
            "langfuse.observation.metadata.provider",
        )
        seen.append((chat.name, {name: chat.attributes.get(name) for name in compared}))
        assert chat.attributes["session.id"] == pseudonym(SECRET.encode(), "session", session)
    assert seen[0] == seen[1]
    assert seen[0][1].items() >= {(name, facts[name]) for name in facts if name.startswith("gen_ai.r")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pseudonyms": True}, "BYLINE_PSEUDONYM_KEY"),
        ({"pseudonyms": 1}, "True or False"),
        ({"user_agent": "no"}, "True or False"),
        ({"url_paths": 0}, "True or False"),
        ({"caller_address": "short"}, "truncated"),
    ],
)
def test_wrong_settings_fail_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=rf"byline\.E113.*{message}"):
        OTLP("http://127.0.0.1:1", **options)


@KINDS
def test_mask_is_asked_about_every_text(kind: str, receiver: Receiver) -> None:
    """Ids, names, labels and the caller's data included."""
    asked: set[str] = set()

    def mask(name: str, value: Any) -> str:
        asked.add(name)
        return "masked" if isinstance(value, str) and "MARK" in value else value

    fields: dict[str, Any] = {
        "user_id": "MARK-u",
        "session_id": "MARK-s",
        "tags": ["MARK-t"],
        "metadata": {"k": "MARK"},
    }
    caller = {"byline.caller.address": "MARK-a", "byline.caller.key.hash": "MARK-h", "byline.route": "MARK-r"}
    with running(destination(kind, receiver, mask=mask)) as app, app.request(**fields):
        app.chat(**caller)
        with app.span("MARK-name", CHAT) as span:
            span.add_event("MARK-event", {"text": "MARK-e"})
    assert "MARK" not in json.dumps([[span.name, span.attributes, span.events] for span in receiver.spans])
    assert {"user.id", "session.id", "span.name", "event.name", "byline.caller.address", "byline.route"} <= asked


def key_attributes(
    receiver: Receiver, key: str, more: Sequence[tuple[str, str]] = (), **identity: Any
) -> dict[str, Any]:
    """Return the attributes of a caller's key, and of the app's own key at a gateway."""
    receiver.clear()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        call_model()

    byline.instrument(destinations=[OTLP(receiver.url, spans="llm")], clients=())
    try:
        middleware = AttributionMiddleware(app, app_span=False, **identity)
        asyncio.run(run_asgi(middleware, claim({}, headers=[("authorization", f"Bearer {key}"), *more])))
        byline.flush()
    finally:
        byline.uninstrument()
        keys.key_settings.configure()
    attributes = receiver.spans[0].attributes
    return {name: value for name, value in attributes.items() if name.startswith("byline.caller.key")}


LONG_KEY = "sk-proj-0a1b2c3d4e5f6g7h8i9j"
LONG_HASH = hashlib.sha256(LONG_KEY.encode()).hexdigest()


def test_no_key_is_found_by_its_hash(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_attributes(receiver, "demo") == {}
    assert key_attributes(receiver, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa") == {}
    assert key_attributes(receiver, LONG_KEY) == {"byline.caller.key.hash": LONG_HASH}
    monkeypatch.setenv("BYLINE_PSEUDONYM_KEY", SECRET)
    keyed = {key: key_attributes(receiver, key)["byline.caller.key.hash"] for key in ("demo", LONG_KEY)}
    assert len(set(keyed.values())) == 2
    assert all(len(value) == 64 for value in keyed.values())
    assert not {hashlib.sha256(key.encode()).hexdigest() for key in keyed} & set(keyed.values())
    monkeypatch.setenv("BYLINE_KEY_HASH", "sha256")
    assert key_attributes(receiver, "demo")["byline.caller.key.hash"] == hashlib.sha256(b"demo").hexdigest()
    monkeypatch.setenv("BYLINE_KEY_HASH", "off")
    assert key_attributes(receiver, LONG_KEY) == {}


def test_of_two_keys_none_is_named(receiver: Receiver) -> None:
    """The app may have checked either of them."""
    other = ("x-api-key", "sk-proj-of-somebody-else-0123456789")
    assert key_attributes(receiver, LONG_KEY, more=[other]) == {}
    assert key_attributes(receiver, LONG_KEY, more=[("x-api-key", LONG_KEY)]) == {"byline.caller.key.hash": LONG_HASH}


def test_aliases_name_keys_by_either_hash(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYLINE_PSEUDONYM_KEY", SECRET)
    monkeypatch.setenv("BYLINE_KEY_ALIASES", f"{LONG_HASH[:16]}=blue")
    shown = key_attributes(receiver, LONG_KEY)
    assert shown["byline.caller.key.alias"] == "blue"
    monkeypatch.setenv("BYLINE_KEY_ALIASES", f"{shown['byline.caller.key.hash'][:16]}=green")
    assert key_attributes(receiver, LONG_KEY)["byline.caller.key.alias"] == "green"


def test_a_public_endpoint_has_no_request_id_of_a_stranger(receiver: Receiver) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        call_model()

    byline.instrument(destinations=[OTLP(receiver.url, spans="llm")], clients=())
    try:
        for public in (False, True):
            middleware = AttributionMiddleware(app, app_span=False, public=public)
            asyncio.run(run_asgi(middleware, claim({}, headers=[("x-request-id", "of-somebody-else")])))
        byline.flush()
    finally:
        byline.uninstrument()
    assert [span.attributes.get("byline.request.id") for span in receiver.spans] == ["of-somebody-else", None]


def test_the_key_of_a_public_endpoint_is_that_of_identity(receiver: Receiver) -> None:
    assert key_attributes(receiver, LONG_KEY, public=True) == {}
    known = {"user_id": "ada", "api_key": LONG_KEY, "key_alias": "blue"}
    assert key_attributes(receiver, "sk-of-somebody-else-0123456789", public=True, identity=lambda _: known) == {
        "byline.caller.key.hash": LONG_HASH,
        "byline.caller.key.alias": "blue",
    }


def test_the_apps_own_key_has_the_same_form(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    monkeypatch.setenv("BYLINE_PSEUDONYM_KEY", SECRET)
    with Gateway() as gateway:
        byline.instrument(destinations=[OTLP(receiver.url, spans="llm")], clients=["httpx"])
        try:
            headers = {"authorization": "Bearer sk-1"}
            httpx.post(f"{gateway.base_url}/chat/completions", json={"model": "m", "messages": []}, headers=headers)
            byline.flush()
        finally:
            byline.uninstrument()
            keys.key_settings.configure()
    shown = receiver.spans[0].attributes["byline.gateway.key.hash"]
    assert len(shown) == 64
    assert shown != hashlib.sha256(b"sk-1").hexdigest()
