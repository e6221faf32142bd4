"""Credentials are removed from every export, in linear time, and no text spoils a batch."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, TraceFlags, TraceState, set_span_in_context

import byline
from byline.destinations import OTLP, Langfuse
from byline.export.redaction.allow_list import redact_parameters
from byline.secrets import is_secret, scrub
from byline.testing import Receiver
from tests.export.support import running

SECRET = "Q7fJ2kLm9XzP4aBc"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def export(destination: Any, attributes: dict[str, Any], *, name: str = "chat", **resource: Any) -> None:
    provider = TracerProvider(resource=Resource(resource), shutdown_on_exit=False)
    byline.instrument(tracer_provider=provider, destinations=[destination], clients=())
    try:
        provider.get_tracer("app").start_span(name, attributes=attributes).end()
        assert byline.flush()
    finally:
        byline.uninstrument()


HEADERS = (
    "authorization cookie set_cookie x_api_key x_goog_api_key x_auth_token x_amz_security_token helicone_auth "
    "x_portkey_virtual_key x_vault_token ocp_apim_subscription_key x_functions_key token x_secret private_key "
    "litellm_key"
)


@pytest.mark.parametrize("header", HEADERS.split())
def test_headers_with_credentials_are_recognised_by_their_words(header: str) -> None:
    """In the spelling of OpenTelemetry's header capture."""
    assert is_secret(f"http.request.header.{header}")


@pytest.mark.parametrize(
    "name",
    [
        "pwd",
        "db.passphrase",
        "connection_string",
        "app.databaseConnectionString",
        "dsn",
        "otp",
        "http.request.header.x_csrf",
        "http.request.header.x-xsrf-token",
        "http.request.header.x_forwarded_client_cert",
        "http.request.header.x_session",
    ],
)
def test_names_of_credentials(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "byline.gateway.key.hash",
        "byline.cache.key",
        "gen_ai.usage.input_tokens",
        "llm.token_count.prompt",
        "user_api_key_hash",
        "metadata.user_api_key_alias",
        "aws.s3.key",
        "db.collection.primary_key",
        "http.request.header.x_session_id",
        "langfuse.trace.metadata.next_token_count",
    ],
)
def test_similar_names_are_no_credentials(name: str) -> None:
    assert not is_secret(name)


TEXTS = [
    f"https://h/p?api_key={SECRET}",
    f"/v1?key={SECRET}",
    f"key={SECRET}",
    f"https://h/?x-api-key={SECRET}&auth={SECRET}",
    f"postgresql://u:{SECRET}@h/db",
    f"https://{SECRET}@sentry.example/1",
    f'{{"headers": "{{\\"api-key\\": \\"{SECRET}\\"}}"}}',
    f"OPENAI_API_KEY={SECRET}",
    f"password={SECRET}",
    f"authorization: {SECRET}",
    f"Bearer {SECRET}",
    f"b'x-api-key', b'{SECRET}'",
    f"Headers([('api-key', '{SECRET}')])",
    f"curl -H 'api-key: {SECRET}'",
    str({"x-custom-token": SECRET}),
    str({"headers": {"X-Token": SECRET}}),
    JWT,
]
#: In the format of their issuers.
LOOKS = (
    "sk-ant-api03-{} sk-proj-{} AIza{}{} gsk_{}{} xai-{}{} hf_{}{} pplx-{}{} nvapi-{}{} r8_{}{} npm_{}{} sk_live_{} "
    "rk_test_{} ghp_{}{} github_pat_{}_{} glpat-{}{} xoxb-1234567890-{} ya29.a0Af_{}{} SG.{}.{}"
).replace("{}", SECRET)
PRIVATE_KEY = f"-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA{SECRET}\n{SECRET}==\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize("text", [*LOOKS.split(), PRIVATE_KEY, json.dumps(PRIVATE_KEY), PRIVATE_KEY[:70]])
def test_keys_are_recognised_by_their_prefix(text: str) -> None:
    left = scrub(f"The server said that {text} is wrong.")
    assert SECRET not in left
    assert left.startswith("The server said that ")


WORDS = "correcthorsebatterystaple"
HEX = "0123456789abcdef" * 2
#: A secret, and a text that contains the secret.
SPELLINGS: list[tuple[str, str]] = [
    ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "the key wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY was"),
    ("abcdefgh12345678", "AccountKey=abcdefgh12345678==;EndpointSuffix=x"),
    ("abcdefgh12345678", "Endpoint=sb://x/;SharedAccessKey=abcdefgh12345678="),
    (WORDS, f"Authorization: Bearer {WORDS}"),
    ("abcdef1234567890", "Cookie: sessionid=abcdef1234567890"),
    ("abcdef1234567890", "Set-Cookie: a=1; sid=abcdef1234567890; HttpOnly"),
    (WORDS, f'{{"password": "{WORDS}"}}'),
    (WORDS, f'{{\\"password\\": \\"{WORDS}\\"}}'),
    (WORDS, f"DB_PASSWORD={WORDS}"),
    ("hunter22hunter", '{"pass": "hunter22hunter"}'),
    ("hunter22hunter", "pwd=hunter22hunter"),
    ("XXXXXXXXXXXXXXXX", "https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX"),
    (HEX, f"dapi{HEX}"),
    ("CAESIabcdefghijklmnopqrstuv", "hvs.CAESIabcdefghijklmnopqrstuv"),
    ("abcdefghijklmnopqrstuvwx", "tgp_v1_abcdefghijklmnopqrstuvwx"),
    ("abcdefghijklmnopqrstuvwx", "fw_abcdefghijklmnopqrstuvwx"),
    ("ZnCjm1XVW7vRze4b7Cq4se7kKWs", "MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.ZnCjm1XVW7vRze4b7Cq4se7kKWs"),
    (HEX, f"SK{HEX}"),
    ("AgEIcHlwaS5vcmcCJabcdefghijklmnop", "pypi-AgEIcHlwaS5vcmcCJabcdefghijklmnop"),
    (HEX, f"shpat_{HEX}"),
    ("abcdefghijklmnopqrstuvwxyz012345", "dp.pt.abcdefghijklmnopqrstuvwxyz012345"),
    ("1ABCDEFGHIJKLMNOP", "AGE-SECRET-KEY-1ABCDEFGHIJKLMNOP"),
    ("abcdefghijklmnopqrstuvwx1234", "csk-abcdefghijklmnopqrstuvwx1234"),
    (SECRET, f"sk-svcacct-{SECRET}"),
    ("abc%2Bdef", "https://x.blob/y?sv=1&sig=abc%2Bdef"),
    ("dXNlcjpwYXNzd29yZA==", "Authorization: Basic dXNlcjpwYXNzd29yZA=="),
    ("pa55word1", "redis://:pa55word1@h:6379"),
    ("abc123def456", '"client_secret": "abc123def456"'),
    (SECRET, f"glsa_{SECRET}{SECRET}"),
    (SECRET, f"dop_v1_{SECRET}{SECRET}"),
    (SECRET, f"lin_api_{SECRET}{SECRET}"),
    (SECRET, f"figd_{SECRET}{SECRET}"),
    (SECRET, f"whsec_{SECRET}{SECRET}"),
    (SECRET, f"sbp_{SECRET}{SECRET}"),
    (SECRET, f"ntn_{SECRET}{SECRET}"),
    (SECRET, f"PMAK-{SECRET}{SECRET}"),
    (SECRET, f"ATATT3{SECRET}{SECRET}"),
    (SECRET, f"tskey-auth-{SECRET}"),
]


@pytest.mark.parametrize(("secret", "text"), SPELLINGS)
def test_spellings_that_secret_scanners_know(secret: str, text: str) -> None:
    left = scrub(f"see {text} ok")
    assert secret not in left
    assert left.startswith("see ")


def test_access_keys_of_aws_are_removed() -> None:
    assert scrub("ASIAIOSFODNN7EXAMPLE or AKIAIOSFODNN7EXAMPLE") == "… or …"


@pytest.mark.parametrize("text", TEXTS)
def test_named_credentials_are_removed_from_texts(text: str) -> None:
    left = scrub(f"so: {text}" if not text.startswith("key=") else text)
    assert SECRET not in left
    assert JWT not in left


@pytest.mark.parametrize(
    "text",
    [
        "What is the key to it?",
        "token count: 12",
        "max_token: 12345678",
        "the secret of 1001 nights",
        "http://host/path?page=2",
        "https://t.example?u=@bob",
        "a=b&c=d",
        "hockey, 2024-25-season began",
        "'monkey': 'banana12'",
        "basic 2024-economics-101-course",
        "cost-per-token: 0.00001234",
        "the max-token=123456789",
        "npm_config and r8_small, Asia and SG.2",
        "?monkeys=12345678&id=1",
        "the password: please ask",
        'the columns "password", "username", and "passphrase"',
        "bearer responsibilities",
        "cookie: two cups of flour",
        "tests pass, compass=northeast, bypass: 12345678",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "chatcmpl-9aBcDeFgHiJkLmNoPqRsTuVwXyZ012345",
        "https://github.com/Ada/Repository2/blob/main/README",
        "SKIP and ACTION, fw_update, dp.pt, hvs",
    ],
)
def test_other_texts_are_kept(text: str) -> None:
    assert scrub(text) == text


LONG = """
from byline.secrets import scrub
for text in (
    "see http://" + "a:" * 200_000,
    "://" * 200_000,
    ("x" * 511 + " ") * 2_000,
    "data:" * 200_000 + ";base64,",
    "password " * 100_000,
    "Bearer " * 100_000,
    "?" + "a-" * 200_000,
    "eyJ" * 200_000,
    "api_key" + " " * 200_000,
    "key token " + ("1" * 20 + "_") * 20_000,
    "key token " + "x-a-" * 100_000,
    "=" + "?a-" * 100_000,
    "PRIVATE KEY-----" * 20_000,
    "cookie: " * 100_000,
    "cookie: " + "a=b;" * 100_000,
    "pass=" * 100_000,
    'password": "' * 100_000,
    "bearer " + "a" * 1_000_000,
    "aB3" * 300_000,
    ("aB3" * 13 + " ") * 20_000,
    ("M" * 24 + ".") * 20_000,
    "SK0123456789abcdef" * 20_000,
    "key pass token secret " * 50_000,
):
    scrub(text)
"""


@pytest.mark.integration
def test_no_text_takes_more_than_linear_time() -> None:
    """Patterns with quadratic time would take hours for these."""
    subprocess.run([sys.executable, "-c", LONG], check=True, timeout=120)


def test_a_lone_surrogate_does_not_spoil_a_batch(receiver: Receiver) -> None:
    """A cut stream may end in half an emoji."""
    half = "\ud83d"
    provider = TracerProvider(shutdown_on_exit=False)
    byline.instrument(tracer_provider=provider, destinations=[OTLP(receiver.url)], clients=())
    try:
        tracer = provider.get_tracer("app")
        span = tracer.start_span(
            f"chat {half}", attributes={"a": half, f"b{half}": "c", "session.id": half, "n": 10**400}
        )
        span.add_event(f"event {half}")
        span.record_exception(ValueError(half))
        span.end()
        tracer.start_span("fine").end()
        assert byline.flush()
    finally:
        byline.uninstrument()
    assert {span.name for span in receiver.spans} == {"chat ?", "fine"}


def test_credentials_are_removed_from_the_resource(receiver: Receiver) -> None:
    """The command line of the process is among the attributes of the resource."""
    export(
        OTLP(receiver.url),
        {"a": "b"},
        **{"process.command_line": f"app --api-key sk-proj-{SECRET}", "service.name": "s"},
    )
    raw = gzip.decompress(receiver.requests[-1].body)
    assert SECRET.encode() not in raw
    assert receiver.spans[0].resource["service.name"] == "s"


CONTENT = [
    "smolagents.task",
    "agent.goal",
    "agent.backstory",
    "llm.anthropic.system",
    "llm.openai.functions",
    "llm.openai.suffix",
    "llm.cohere.preamble",
    "evaluation.explanation",
    "gen_ai.request.structured_output_schema",
    "llm.headers",
    "rag.passages",
    "llm.latest_user_utterance",
]


@pytest.mark.parametrize("key", CONTENT)
def test_privacy_removes_content_under_names_of_instrumentations(key: str, receiver: Receiver) -> None:
    destination = Langfuse(
        "pk-lf-1",
        "sk-lf-1",
        receiver.url,
        privacy=True,
        conventions=["openinference", "openrouter", "litellm", "traceloop"],
    )
    export(destination, {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", key: "MARKER text"})
    assert b"MARKER" not in gzip.decompress(receiver.requests[-1].body)


def test_privacy_removes_texts_under_unknown_names(receiver: Receiver) -> None:
    """Single words, known names and custom metadata are kept."""
    attributes = {
        "gen_ai.operation.name": "chat",
        "acme.blob": "MARKER " * 100,
        "acme.list": '["MARKER"]',
        "acme.stage": "draft",
        "langfuse.trace.metadata.note": '{"kept": "x"}',
        "llm.invocation_parameters": '{"temperature": 0.5, "preamble": "MARKER", "service_tier": "flex"}',
    }
    export(OTLP(receiver.url, privacy=True), attributes)
    (span,) = receiver.spans
    assert "MARKER" not in str(span)
    assert span.attributes["acme.stage"] == "draft"
    assert span.attributes["langfuse.trace.metadata.note"] == '{"kept": "x"}'


CHOSEN = {
    "gen_ai.request.reasoning.level": "low",
    "gen_ai.request.reasoning_effort": "low",
    "gen_ai.request.tool_choice": "auto",
    "gen_ai.request.response_format": "json_schema",
    "langfuse.observation.metadata.tool_choice": '"auto"',
    "llm.finish_reason": '["stop"]',
}


def test_privacy_keeps_choices(receiver: Receiver) -> None:
    """Langfuse shows them among the parameters of a generation."""
    chat = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.request.temperature": 0.5, **CHOSEN}
    export(OTLP(receiver.url, privacy=True, conventions=["openinference", "langfuse"]), chat)
    attributes = receiver.spans[0].attributes
    assert {key: attributes.get(key) for key in CHOSEN} == CHOSEN
    for told in ("langfuse.observation.model.parameters", "llm.invocation_parameters"):
        parameters = json.loads(attributes[told])
        assert parameters["reasoning.level"] == "low"
        assert parameters["tool_choice"] == "auto"
        assert parameters["temperature"] == 0.5


@pytest.mark.parametrize(
    "key",
    [
        "langfuse.observation.metadata.response_format",
        "langfuse.observation.metadata.error",
        "gen_ai.request.tool_choice",
        "acme.answer.reason",
        "acme.errors",
    ],
)
@pytest.mark.parametrize("value", ['{"type": "json_schema", "schema": {"description": "MARKER"}}', "It is a MARKER"])
def test_privacy_removes_sentences_under_names_of_choices(receiver: Receiver, key: str, value: str) -> None:
    export(OTLP(receiver.url, privacy=True), {"gen_ai.operation.name": "chat", key: value})
    assert key not in receiver.spans[0].attributes


def test_parameters_keep_numbers_and_choices() -> None:
    kept = json.loads(
        redact_parameters('{"top_p": 1, "tool_choice": "auto", "suffix": "x", "stop": ["x"], "seed": null}')
    )
    assert kept == {"top_p": 1, "tool_choice": "auto", "seed": None}
    assert redact_parameters("no JSON") == redact_parameters("[1]") == "{}"


def test_a_mask_is_called_before_conventions_repeat_a_text(receiver: Receiver) -> None:
    seen: list[str] = []

    def mask(name: str, value: Any) -> Any:
        seen.append(name)
        return re.sub("MARKER", "*", value)

    with_all = ["openinference", "openrouter", "litellm", "traceloop", "langfuse"]
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": '[{"role": "user", "parts": [{"foo": "MARKER"}]}]',
        "langfuse.trace.metadata.note": "MARKER",
        "metadata": '{"a": "MARKER"}',
        "traceloop.association.properties.b": "MARKER",
    }
    export(OTLP(receiver.url, mask=mask, conventions=with_all), attributes)
    assert b"MARKER" not in gzip.decompress(receiver.requests[-1].body)
    assert "gen_ai.input.messages" in seen


def test_a_mask_is_called_for_every_text_that_privacy_would_remove(receiver: Receiver) -> None:
    attributes = {
        "gen_ai.operation.name": "chat",
        "http.url": "https://search.example/find?q=MARKER",
        "llm.openai.extra_headers": "{'x-title': 'MARKER'}",
        "llm.invocation_parameters": '{"suffix": "MARKER"}',
        "acme.blob": "MARKER " * 100,
        "acme.list": '["MARKER"]',
    }
    export(OTLP(receiver.url, mask=lambda name, value: value.replace("MARKER", "*")), attributes)
    assert b"MARKER" not in gzip.decompress(receiver.requests[-1].body)
    assert attributes.keys() <= receiver.spans[0].attributes.keys()


@pytest.mark.parametrize("field", ["session.id", "user.id", "langfuse.release"])
def test_ids_that_look_like_keys_are_kept(field: str, receiver: Receiver) -> None:
    """Scrubbed, all sessions that begin like a key would be one."""
    export(OTLP(receiver.url), {field: "sk-session-0000000001"})
    assert receiver.spans[0].attributes[field] == "sk-session-0000000001"


def test_credentials_of_a_netrc_file_are_not_sent(
    receiver: Receiver, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`requests` would add them to every post."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login NETRCUSER password NETRCPASS")
    monkeypatch.setenv("NETRC", str(netrc))
    destination = Langfuse("pk-lf-1", "sk-lf-1", receiver.url)
    export(destination, {"gen_ai.operation.name": "chat"})
    assert all(result.ok for result in destination.check())
    assert {request.headers["authorization"] for request in receiver.requests} == {destination.headers["Authorization"]}


def test_names_and_trace_states_have_no_credentials() -> None:
    """Callers choose the ``tracestate``, which spans and links carry on."""
    key = "sk-proj-0a1b2c3d4e5f6g7h"
    state = TraceState([("vendor", key)])
    harmless = TraceState([("vendor", "p:1")])
    with Receiver() as receiver, running(OTLP(receiver.url, spans="all")) as app:
        parent = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1), trace_state=state)
        links = [Link(parent, {"key": key})]
        context = set_span_in_context(NonRecordingSpan(parent))
        with app.tracer.start_as_current_span(f"chat {key}", context, links=links) as span:
            span.add_event(f"event {key}", {"text": key})
        other = SpanContext(5, 6, is_remote=True, trace_flags=TraceFlags(1), trace_state=harmless)
        app.tracer.start_span("chat", set_span_in_context(NonRecordingSpan(other))).end()
    raw = b"".join(
        gzip.decompress(request.body) if request.body[:2] == b"\x1f\x8b" else request.body
        for request in receiver.requests
        if request.body
    )
    assert b"0a1b2c3d" not in raw
    assert b"vendor=p:1" in raw
