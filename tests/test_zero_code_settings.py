"""Settings without code: files and the environment; and a wrong one that takes nothing else along."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette

import byline
from byline import asgi, auto_middleware, settings, wsgi
from byline.entry_point import BylineInstrumentor
from byline.gateways import parse_gateways
from byline.inbound.reader import ClaimReader
from byline.instrument import find_runtime
from byline.testing import Receiver
from tests.support import Sent, accepted, run_wsgi


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    settings.config_file.clear()
    yield tmp_path
    BylineInstrumentor().uninstrument()
    byline.uninstrument()
    settings.config_file.clear()


def found(name: str) -> Any:
    return settings.find(name).value


def test_code_wins_over_the_environment_over_byline_toml_over_pyproject(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "pyproject.toml").write_text("[tool.byline]\naudience = 'pyproject'\n")
    assert settings.find("audience") == ("pyproject", "audience in pyproject.toml")
    (folder / "byline.toml").write_text("audience = 'file'\npublic = true\n")
    settings.config_file.clear()
    assert settings.find("audience") == ("file", "audience in byline.toml")
    monkeypatch.setenv("BYLINE_AUDIENCE", "environment")
    assert settings.find("audience") == ("environment", "BYLINE_AUDIENCE")
    assert asgi.AttributionMiddleware(Starlette())._reader.policy.public is True
    assert asgi.AttributionMiddleware(Starlette(), public=False)._reader.policy.public is False


def test_every_kind_of_value(folder: Path) -> None:
    (folder / "byline.toml").write_text(
        """
        trust = ["session", "labels"]
        body_limit = 1024
        app_span = false
        after_response = 60.5
        sampling = 0.25
        gateways = {litellm = "http://llm.internal:4000"}
        propagate_to = ["*.svc.internal", "10.0.0.0/8"]
        queues = []
        [fields]
        session_id = ["body:conversation.id", "header:X-Chat"]
        user_id = "cookie:user"
        """
    )
    assert found("trust") == ("session", "labels")
    assert (found("body_limit"), found("app_span"), found("after_response"), found("sampling")) == (
        1024,
        False,
        60.5,
        0.25,
    )
    assert found("propagate_to") == ("*.svc.internal", "10.0.0.0/8")
    assert (found("gateways"), found("queues")) == ("litellm=http://llm.internal:4000", ())
    assert found("fields") == {"session_id": ["body:conversation.id", "header:X-Chat"], "user_id": ["cookie:user"]}


def test_a_file_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "other.toml").write_text("audience = 'other'\n")
    monkeypatch.setenv("BYLINE_CONFIG", str(folder / "other.toml"))
    assert found("audience") == "other"
    assert settings.find_misspelt() == {}


@pytest.mark.parametrize("text", ["audience = ", b"\xff", None])
def test_a_file_that_cannot_be_read(text: str | bytes | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYLINE_CONFIG", "byline.toml")
    if text is not None:
        (folder / "byline.toml").write_bytes(text.encode() if isinstance(text, str) else text)
    assert found("audience") == "byline"
    with pytest.raises(byline.SettingError, match=r"byline\.E136: byline\.toml cannot be read"):
        byline.instrument(tracer_provider=TracerProvider(), destinations=[])


@pytest.mark.parametrize("text", ["tool = 3\n# tool.byline", "[tool]\nbyline = 3\n# tool.byline"])
def test_a_pyproject_without_the_table(text: str, folder: Path) -> None:
    (folder / "pyproject.toml").write_text(text)
    with pytest.raises(byline.SettingError, match=r"byline\.E136: (tool|byline) in pyproject\.toml is no table"):
        byline.instrument(tracer_provider=TracerProvider(), destinations=[])


def test_what_a_file_that_cannot_be_read_might_forbid_is_not_done(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "byline.toml").write_text("public = true\nprivacy = true\naudience = ")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    provider = TracerProvider()
    zero_code(provider)
    runtime = find_runtime()
    assert runtime is not None
    assert list(runtime.destinations) == []
    assert byline.extract({"x-byline": "1.eyJzIjoicy0xIn0"}) == byline.Attribution()
    app = auto_middleware.wrap(wsgi_app)
    assert isinstance(app, wsgi.AttributionMiddleware)
    assert run_wsgi(app, Sent(b'{"user": "ada"}', headers=[("x-session-id", "s-1")])).chunks == [b"{}"]
    assert {record.getMessage().split(":")[0] for record in caplog.records if record.levelname == "ERROR"} == {
        "byline.E136"
    }
    with pytest.raises(byline.SettingError, match=r"byline\.E136"):
        wsgi.AttributionMiddleware(wsgi_app)


def test_an_unknown_key_is_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "byline.toml").write_text("audiance = 'a'\n")
    byline.instrument(tracer_provider=TracerProvider(), destinations=[], clients=())
    messages = [record.getMessage() for record in caplog.records if "E139" in record.getMessage()]
    assert messages == ["byline.E139: audiance in byline.toml is not a setting; did you mean audience?"]


def test_the_middleware_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYLINE_FIELDS", "session_id=body:conversation.id|header:X-Chat")
    sent = Sent(b'{"conversation": {"id": "c-1"}, "user": "ada"}')
    assert accepted("asgi", sent).attribution == byline.Attribution(session_id="c-1", user_id="ada")
    monkeypatch.setenv("BYLINE_TRUST", "session")
    assert accepted("wsgi", sent).attribution == byline.Attribution(session_id="c-1")
    monkeypatch.setenv("BYLINE_TRUST", "none")
    assert accepted("asgi", sent).attribution == byline.Attribution()
    monkeypatch.setenv("BYLINE_IDENTITY", "tests.test_zero_code_settings:login")
    assert accepted("wsgi", sent).attribution == byline.Attribution(user_id="bob")


def login(raw: Any) -> dict[str, str]:
    return {"user_id": "bob"}


@pytest.mark.parametrize("name", ["no.module:function", "tests.test_zero_code_settings:nothing", "os"])
def test_an_identity_that_cannot_be_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYLINE_IDENTITY", name)
    with pytest.raises(byline.SettingError, match=r"byline\.E137"):
        ClaimReader()


def test_gateways_that_broadcast() -> None:
    gateways = parse_gateways("litellm=http://llm.internal:4000, vercel", ["LiteLLM", "openrouter"])
    assert [(gateway.name, gateway.broadcasts) for gateway in gateways] == [
        ("litellm", True),
        ("vercel", False),
        ("openrouter", True),
    ]


def test_destinations_of_the_environment_have_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("BYLINE_SPANS", "llm")
    monkeypatch.setenv("BYLINE_CONVENTIONS", "openinference")
    byline.instrument(tracer_provider=TracerProvider(), clients=())
    (destination,) = sys.modules["byline.instrument"].runtimes.find(None).destinations
    assert (destination.options.spans, tuple(destination.options.conventions)) == ("llm", ("openinference",))


def test_phoenix_and_langfuse_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phoenix gets kinds, messages and texts of roots; Langfuse its own names, and none of Phoenix's as metadata."""
    question = '[{"role": "user", "parts": [{"type": "text", "content": "Where to?"}]}]'
    answer = '[{"role": "assistant", "parts": [{"type": "text", "content": "To Lisbon."}]}]'
    call = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.input.messages": question,
        "gen_ai.output.messages": answer,
    }
    with Receiver() as phoenix, Receiver() as langfuse:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", phoenix.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20px-1")
        monkeypatch.setenv("BYLINE_CONVENTIONS", "openinference")
        monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-1")
        monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-1")
        monkeypatch.setenv("LANGFUSE_BASE_URL", langfuse.url)
        provider = TracerProvider()
        byline.instrument(tracer_provider=provider, clients=())
        tracer = provider.get_tracer("t")
        with byline.bound(session_id="s-1"), tracer.start_as_current_span("POST /chat", kind=SpanKind.SERVER):
            for _ in range(2):
                tracer.start_span("chat gpt-4o", attributes=call).end()
        assert byline.flush()
        shown = {span.name: span.attributes for span in phoenix.spans}
        assert phoenix.requests[0].headers["authorization"] == "Bearer px-1"
    assert shown["POST /chat"]["openinference.span.kind"] == "CHAIN"
    assert (shown["POST /chat"]["input.value"], shown["POST /chat"]["output.value"]) == ("Where to?", "To Lisbon.")
    generation = shown["chat gpt-4o"]
    assert generation["openinference.span.kind"] == "LLM"
    assert generation["llm.input_messages.0.message.content"] == "Where to?"
    assert generation["llm.output_messages.0.message.content"] == "To Lisbon."
    assert {attributes["session.id"] for attributes in shown.values()} == {"s-1"}
    foreign = ("llm.", "openinference.", "input.", "output.")
    assert not [name for span in langfuse.spans for name in span.attributes if name.startswith(foreign)]
    assert [span.attributes["langfuse.observation.type"] for span in langfuse.spans].count("generation") == 2


# One wrong setting


def zero_code(provider: TracerProvider) -> None:
    BylineInstrumentor().instrument(tracer_provider=provider)


def errors_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_missing_langfuse_key_leaves_the_other_destination(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-1")
    provider = TracerProvider()
    with Receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        zero_code(provider)
        with byline.bound(session_id="s-1"):
            provider.get_tracer("t").start_span("chat", attributes={"gen_ai.operation.name": "chat"}).end()
        assert byline.flush()
        (span,) = receiver.spans
    assert span.attributes["session.id"] == "s-1"
    (error,) = errors_of(caplog)
    assert error.startswith("byline.E041")
    assert error.endswith("Until then langfuse gets no spans; all else works")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BYLINE_GATEWAYS", "nobody"),
        ("BYLINE_PROPAGATE_TO", "http://a"),
        ("BYLINE_KEY_ALIASES", "x"),
        ("BYLINE_QUEUES", "kafka"),
        ("BYLINE_THREADS", "perhaps"),
        ("BYLINE_DEBUG", "perhaps"),
        ("BYLINE_CONFIG", "missing.toml"),
        ("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "perhaps"),
    ],
)
def test_a_wrong_setting_takes_nothing_else_along(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(variable, value)
    provider = TracerProvider()
    zero_code(provider)
    span = provider.get_tracer("t").start_span("chat", attributes={"gen_ai.operation.name": "chat"})
    with byline.bound(session_id="s-1"):
        span = provider.get_tracer("t").start_span("chat", attributes={"gen_ai.operation.name": "chat"})
    assert span.attributes["session.id"] == "s-1"  # type: ignore[attr-defined]
    assert len(errors_of(caplog)) == 1
    byline.uninstrument()
    with pytest.raises(byline.SettingError):
        byline.instrument(tracer_provider=TracerProvider())


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [repr(dict(byline.current())).encode()]


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("BYLINE_FIELDS", "nonsense", {"session_id": "s-1", "user_id": "ada"}),
        ("BYLINE_FIELDS", "session_id=nowhere:x", {"session_id": "s-1", "user_id": "ada"}),
        ("BYLINE_BODY_LIMIT", "much", {"session_id": "s-1"}),
        ("BYLINE_APP_SPAN", "perhaps", {"session_id": "s-1", "user_id": "ada"}),
        ("BYLINE_AFTER_RESPONSE", "-1", {"session_id": "s-1", "user_id": "ada"}),
        # What the right value might forbid is not accepted.
        ("BYLINE_TRUST", "everything", {}),
        ("BYLINE_IDENTITY", "no.module:name", {}),
        ("BYLINE_PUBLIC", "perhaps", {}),
    ],
)
def test_a_wrong_setting_of_the_middleware(
    variable: str,
    value: str,
    expected: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(variable, value)
    app = auto_middleware.wrap(wsgi_app)
    assert isinstance(app, wsgi.AttributionMiddleware)
    run = run_wsgi(app, Sent(b'{"user": "ada"}', headers=[("x-session-id", "s-1")]))
    assert run.chunks == [repr(expected).encode()]
    assert len(errors_of(caplog)) == 1


def test_a_middleware_in_code_decides_within_an_automatic_one() -> None:
    inner = [wsgi.AttributionMiddleware(wsgi_app, trust={"user"})]

    def hidden(environ: Any, start_response: Any) -> Any:
        return inner[0](environ, start_response)

    app = auto_middleware.wrap(hidden)
    assert isinstance(app, wsgi.AttributionMiddleware)
    run = run_wsgi(app, Sent(b'{"user": "ada"}', headers=[("x-session-id", "s-1")]))
    assert run.chunks == [b"{'user_id': 'ada'}"]


def test_an_app_with_the_middleware_gets_no_second_one() -> None:
    app = wsgi.AttributionMiddleware(wsgi_app)
    assert auto_middleware.wrap(app) is app
    assert auto_middleware.wrap(None) is None


def test_the_middleware_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from wsgiref.simple_server import WSGIServer

    before = WSGIServer.set_app
    monkeypatch.setenv("BYLINE_MIDDLEWARE", "false")
    zero_code(TracerProvider())
    assert WSGIServer.set_app is before
    BylineInstrumentor().uninstrument()
    monkeypatch.delenv("BYLINE_MIDDLEWARE")
    zero_code(TracerProvider())
    assert WSGIServer.set_app is not before
    BylineInstrumentor().uninstrument()
    assert WSGIServer.set_app is before
