"""``instrument()``: once, at start; errors are raised before anything changes."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from importlib.metadata import entry_points
from typing import Any

import pytest
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import byline
from byline import errors, export
from byline.export import OTLP
from byline.gateways import OpenRouter
from byline.instrument import BylineInstrumentor
from byline.testing import Receiver
from tests.export.support import Memory

pytestmark = pytest.mark.usefixtures("not_instrumented")

LLM = {"gen_ai.operation.name": "chat"}


@pytest.fixture
def own() -> TracerProvider:
    return TracerProvider(shutdown_on_exit=False)


def spans_of(provider: TracerProvider, name: str = "chat") -> dict[str, Any]:
    """Make an LLM span within a bound job and return its attributes."""
    exporter = InMemorySpanExporter()
    processor = SimpleSpanProcessor(exporter)
    provider.add_span_processor(processor)
    with byline.bound(session_id="s"):
        provider.get_tracer("app").start_span(name, attributes=LLM if name == "chat" else {}).end()
    processor.shutdown()
    (span,) = exporter.get_finished_spans()
    return dict(span.attributes or {})


def processors_of(provider: TracerProvider) -> int:
    return len(provider._active_span_processor._span_processors)


SIGNED = {**LLM, "session.id": "s", "gen_ai.conversation.id": "s"}


def test_llm_spans_are_signed_from_then_on(own: TracerProvider) -> None:
    assert spans_of(own) == LLM
    byline.instrument(tracer_provider=own, destinations=[], clients=())
    assert spans_of(own) == SIGNED
    assert spans_of(own, "db") == {}


def test_further_calls_change_nothing(own: TracerProvider) -> None:
    byline.instrument(tracer_provider=own, destinations=[], clients=())
    count = processors_of(own)
    byline.instrument(tracer_provider=own, destinations=[], clients=(), stamp="all")
    assert processors_of(own) == count == 1
    assert spans_of(own, "db") == {}


def test_uninstrument_and_instrument_again(own: TracerProvider) -> None:
    for _ in range(3):
        byline.instrument(tracer_provider=own, destinations=[], clients=())
        assert spans_of(own) == SIGNED
        byline.uninstrument()
        assert spans_of(own) == LLM
    byline.uninstrument()


def test_repeated_instrument_adds_one_processor(own: TracerProvider) -> None:
    for _ in range(3):
        byline.instrument(tracer_provider=own, destinations=[], clients=())
        byline.uninstrument()
    assert processors_of(own) == 1


def test_other_stamp_after_uninstrument(own: TracerProvider) -> None:
    byline.instrument(tracer_provider=own, destinations=[], clients=())
    byline.uninstrument()
    byline.instrument(tracer_provider=own, destinations=[], clients=(), stamp="all")
    assert spans_of(own, "db") == {"session.id": "s", "gen_ai.conversation.id": "s"}


@pytest.mark.parametrize("variable", ["BYLINE_DISABLED", "OTEL_SDK_DISABLED"])
def test_environment_can_disable_byline(variable: str, monkeypatch: pytest.MonkeyPatch, own: TracerProvider) -> None:
    monkeypatch.setenv(variable, "true")
    byline.instrument(tracer_provider=own, destinations=[], clients=())
    assert processors_of(own) == 0
    monkeypatch.setenv(variable, "false")
    byline.instrument(tracer_provider=own, destinations=[], clients=())
    assert spans_of(own) == SIGNED


def test_debug_names_the_source_of_destinations(
    own: TracerProvider, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The variable that named each destination, and the reasons against its use."""
    monkeypatch.setenv("BYLINE_DEBUG", "1")
    byline.instrument(tracer_provider=own, clients=())
    assert "the environment names no destination" in capsys.readouterr().err
    byline.uninstrument()
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-0123456789abcdef")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-0123456789abcdef")
    monkeypatch.setenv("LANGFUSE_HOST", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    byline.instrument(tracer_provider=own, clients=())
    said = capsys.readouterr().err
    assert "langfuse: its endpoint is from LANGFUSE_HOST" in said
    assert "with public key pk-lf-01234567…" in said
    assert "OTEL_TRACES_EXPORTER=console leaves the OTLP endpoint out" in said


def test_misspelt_variables_are_said(
    own: TracerProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Their effect would be none, without a message."""
    errors.once.clear()
    monkeypatch.setenv("BYLINE_SPOOL_DIR", "/var/spool/byline")
    monkeypatch.setenv("BYLINE_PRIVAT", "1")
    monkeypatch.setenv("LANGFUSE_SAMPLE_RATE", "1")
    byline.instrument(tracer_provider=own, destinations=[], clients=())
    said = [record.getMessage() for record in caplog.records]
    assert "byline.E002: BYLINE_PRIVAT is not a setting and has no effect; did you mean BYLINE_PRIVACY?" in said
    assert "byline.E002: BYLINE_SPOOL_DIR is not a setting and has no effect; did you mean BYLINE_SPOOL?" in said
    assert not any("LANGFUSE" in text for text in said)


WRONG: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "stamp": ({"stamp": "some"}, {}, "byline.E021"),
    "provider": ({"tracer_provider": object()}, {}, "byline.E022"),
    "content": ({"capture_content": "yes"}, {}, "byline.E023"),
    "llm_spans": ({"llm_spans": "maybe"}, {}, "byline.E024"),
    "gateway": ({"gateways": ["openrouter"]}, {}, "byline.E030"),
    "gateway of the environment": ({}, {"BYLINE_GATEWAYS": "nobody"}, "byline.E031"),
    "gateways as text": ({"gateways": "openrouter"}, {}, "byline.E030"),
    "one gateway": ({"gateways": OpenRouter()}, {}, "byline.E030"),
    "gateway without its URL": ({}, {"BYLINE_GATEWAYS": "openrouter, litellm"}, "byline.E031"),
    "one destination": ({"destinations": OTLP("http://127.0.0.1:4318")}, {}, "byline.E025"),
    "destination as URL": ({"destinations": ["http://127.0.0.1:4318"]}, {}, "byline.E025"),
    "class of destinations": ({"destinations": [OTLP]}, {}, "byline.E025"),
    "Langfuse keys the wrong way round": (
        {"destinations": None},
        {"LANGFUSE_PUBLIC_KEY": "sk-lf-x", "LANGFUSE_SECRET_KEY": "pk-lf-x"},
        "byline.E041",
    ),
    "Langfuse key in quotes": (
        {"destinations": None},
        {"LANGFUSE_PUBLIC_KEY": '"pk-lf-x"', "LANGFUSE_SECRET_KEY": "sk-lf-x"},
        "byline.E001",
    ),
    "debug": ({}, {"BYLINE_DEBUG": "yess"}, "byline.E001"),
    "capture": ({}, {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "spans"}, "byline.E001"),
    "client": ({"clients": {"urllib9"}}, {}, "byline.E065"),
    "client as text": ({"clients": "httpx"}, {}, "byline.E065"),
    "one Langfuse key": ({"destinations": None}, {"LANGFUSE_PUBLIC_KEY": "pk-lf-x"}, "byline.E041"),
    "the other Langfuse key": ({"destinations": None}, {"LANGFUSE_SECRET_KEY": "sk-lf-x"}, "byline.E041"),
    "endpoint": ({"destinations": None}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "not a url"}, "byline.E040"),
    "switch": ({}, {"BYLINE_DISABLED": "perhaps"}, "byline.E001"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_said_and_nothing_is_changed(
    case: str, own: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it can be mended and called again."""
    settings, environ, identifier = WRONG[case]
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(byline.SettingError) as caught:
        byline.instrument(**{"tracer_provider": own, "destinations": [], **settings})
    assert caught.value.id == identifier
    assert caught.value.advice
    assert processors_of(own) == 0
    for name in environ:
        monkeypatch.delenv(name)
    byline.instrument(tracer_provider=own, destinations=[], clients=())
    assert spans_of(own) == SIGNED


@pytest.mark.parametrize(
    ("settings", "environ", "said"),
    [
        ({"gateways": ["http://me:pa55word@llm:4000"]}, {}, "str"),
        ({"gateways": [OpenRouter]}, {}, "the class OpenRouter"),
        ({}, {"BYLINE_GATEWAYS": "openrouter, http://me:pa55word@llm:4000"}, "entry 2"),
        ({}, {"BYLINE_GATEWAYS": "http://me:pa55word@llm:4000/?key=sk-1"}, "entry 1"),
    ],
)
def test_a_url_in_the_place_of_a_gateway_is_not_repeated(
    settings: dict[str, Any], environ: dict[str, str], said: str, own: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have a password in it, and the message ends in a log."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(byline.SettingError) as caught:
        byline.instrument(**{"tracer_provider": own, "destinations": [], **settings})
    assert said in caught.value.problem
    assert "pa55word" not in str(caught.value)


def test_destinations_get_the_signed_spans(own: TracerProvider) -> None:
    llm, everything = Memory(spans="llm"), Memory()
    byline.instrument(tracer_provider=own, destinations=[llm, everything], clients=())
    for name in ("chat", "db"):
        spans_of(own, name)
    assert byline.flush()
    assert [span.name for span in llm.kept.spans] == ["chat"]
    # An LLM span may wait for its request, so that another span is sent before.
    assert everything.names == ["chat", "db"]
    assert dict(llm.kept.spans[0].attributes or {}) == SIGNED


def test_uninstrument_sends_queued_spans_and_none_after(own: TracerProvider) -> None:
    memory = Memory()
    byline.instrument(tracer_provider=own, destinations=[memory], clients=())
    spans_of(own)
    byline.uninstrument()
    assert len(memory.kept.spans) == 1
    spans_of(own)
    assert len(memory.kept.spans) == 1


def test_a_destination_that_fails_stops_neither_flush_nor_the_others(
    own: TracerProvider, production: pytest.LogCaptureFixture
) -> None:
    class Broken(Memory):
        def flush(self, timeout: float = 10.0) -> bool:
            raise ConnectionError("sk-secret")

        def shutdown(self) -> None:
            raise ConnectionError("sk-secret")

    broken, memory = Broken(), Memory()
    byline.instrument(tracer_provider=own, destinations=[broken, memory], clients=())
    spans_of(own)
    assert not byline.flush()
    assert len(memory.kept.spans) == 1
    byline.uninstrument()
    assert "sk-secret" not in production.text
    assert byline.stats()["errors.destination"] == 2
    Memory.shutdown(broken)


def test_flush_without_destinations_is_done_at_once() -> None:
    assert byline.flush()


def test_destinations_of_the_environment(own: TracerProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Langfuse if its keys are set, OTLP if its endpoint is set."""
    with Receiver() as langfuse, Receiver() as otlp:
        monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-x")
        monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-x")
        monkeypatch.setenv("LANGFUSE_BASE_URL", langfuse.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.url)
        byline.instrument(tracer_provider=own, clients=())
        with byline.bound(session_id="s"):
            own.get_tracer("app").start_span("chat", attributes=LLM).end()
        assert byline.flush()
        byline.uninstrument()
        assert [span.name for span in langfuse.spans] == ["chat"]
        assert [span.name for span in otlp.spans] == ["chat"]


@pytest.fixture
def otlp(not_instrumented: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")


@pytest.mark.usefixtures("otlp")
def test_otlp_variables_are_ignored_if_another_exporter_uses_them(own: TracerProvider) -> None:
    """As ``opentelemetry-instrument`` does, or the app itself; twice would be counted twice."""
    own.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    byline.instrument(tracer_provider=own, clients=())
    assert processors_of(own) == 2


@pytest.mark.usefixtures("otlp")
def test_processors_that_export_nothing_do_not_stand_in_the_way(own: TracerProvider) -> None:
    """Such as one that copies baggage."""
    own.add_span_processor(SpanProcessor())
    byline.instrument(tracer_provider=own, clients=())
    assert processors_of(own) == 2
    assert "otlp.queue" in byline.stats()


@pytest.mark.usefixtures("otlp")
def test_an_earlier_destination_of_bylines_own_does_not_stand_in_the_way(own: TracerProvider) -> None:
    """Nor does a processor stay behind, which the SDK could not remove."""
    for _ in range(2):
        byline.instrument(tracer_provider=own, clients=())
        assert processors_of(own) == 1
        assert "otlp.queue" in byline.stats()
        byline.uninstrument()
        assert "otlp.queue" not in byline.stats()


def test_the_entry_point_instruments_for_opentelemetrys_launcher(own: TracerProvider) -> None:
    (entry,) = entry_points(group="opentelemetry_instrumentor", name="byline")
    instrumentor: Any = entry.load()()
    assert isinstance(instrumentor, BylineInstrumentor)
    instrumentor.instrument(tracer_provider=own, destinations=[], clients=(), skip_dep_check=True, unknown=1)
    assert spans_of(own) == SIGNED
    instrumentor.uninstrument()
    assert spans_of(own) == LLM


def run(program: str, **environ: str) -> str:
    """Run a program in a process of its own, without a provider."""
    base = {name: value for name, value in os.environ.items() if name != "PYTEST_VERSION"}
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**base, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


@pytest.mark.integration
def test_provider_is_created_if_none_is_set() -> None:
    """With the resource that OpenTelemetry's environment names."""
    program = """
import byline
from opentelemetry import trace
byline.instrument(destinations=[], clients=())
provider = trace.get_tracer_provider()
with byline.bound(session_id="s"):
    span = trace.get_tracer("app").start_span("chat", attributes={"gen_ai.operation.name": "chat"})
print(provider.resource.attributes["service.name"], span.attributes["session.id"])
"""
    assert run(program, OTEL_SERVICE_NAME="shop") == "shop s\n"


@pytest.mark.integration
def test_a_provider_that_was_set_is_used() -> None:
    program = """
import byline
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
mine = TracerProvider()
trace.set_tracer_provider(mine)
byline.instrument(destinations=[], clients=())
assert trace.get_tracer_provider() is mine
with byline.bound(session_id="s"):
    span = trace.get_tracer("app").start_span("chat", attributes={"gen_ai.operation.name": "chat"})
print(span.attributes["session.id"])
"""
    assert run(program) == "s\n"


@pytest.mark.integration
def test_spans_that_wait_are_sent_when_the_process_ends() -> None:
    """A script that never flushes loses nothing."""
    with Receiver() as receiver:
        program = f"""
import byline
from opentelemetry import trace
byline.instrument(destinations=[byline.destinations.OTLP({receiver.url!r})], clients=())
with byline.bound(session_id="s"):
    trace.get_tracer("app").start_span("chat", attributes={{"gen_ai.operation.name": "chat"}}).end()
"""
        run(program)
        assert [span.name for span in receiver.spans] == ["chat"]


def test_the_public_destinations_are_the_ones_of_export() -> None:
    assert byline.destinations.OTLP is export.OTLP


def test_a_provider_that_cannot_be_hashed_is_taken() -> None:
    """As one that is a dataclass; and it keeps one processor, however often byline comes and goes."""

    @dataclasses.dataclass
    class Wrapping:
        inner: TracerProvider

        def add_span_processor(self, processor: Any) -> None:
            added.append(processor)

        def get_tracer(self, *names: Any, **options: Any) -> Any:
            return self.inner.get_tracer(*names, **options)

    added: list[Any] = []
    provider: Any = Wrapping(TracerProvider())
    for _ in range(2):
        byline.instrument(tracer_provider=provider, destinations=[])
        byline.uninstrument()
    assert len(added) == 1


def test_the_entry_point_never_keeps_others_from_being_loaded(
    own: TracerProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong setting is said in the log."""
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-1")
    entry = BylineInstrumentor()
    entry.instrument(tracer_provider=own, skip_dep_check=True)
    entry.uninstrument()
    assert "byline.E041" in caplog.text


def test_instrument_of_the_app_replaces_the_entry_points(own: TracerProvider) -> None:
    """Under ``opentelemetry-instrument`` byline is on before the app's first line."""
    entry = BylineInstrumentor()
    entry.instrument(tracer_provider=own, skip_dep_check=True)
    kept = Memory(spans="llm")
    byline.instrument(tracer_provider=own, destinations=[kept])
    spans_of(own)
    assert byline.flush()
    assert len(kept.kept.spans) == 1
    entry.uninstrument()


def test_a_wrong_setting_of_the_app_leaves_what_the_entry_point_has_made(own: TracerProvider) -> None:
    entry = BylineInstrumentor()
    entry.instrument(tracer_provider=own, skip_dep_check=True)
    with pytest.raises(byline.SettingError, match=r"byline\.E021"):
        byline.instrument(tracer_provider=own, stamp="some")  # type: ignore[arg-type]
    assert spans_of(own) == SIGNED
    entry.uninstrument()


def test_second_instrument_with_other_arguments_warns(own: TracerProvider, caplog: pytest.LogCaptureFixture) -> None:
    """One without any is nothing to speak of."""
    byline.instrument(tracer_provider=own, destinations=[], clients=())
    byline.instrument()
    assert "byline.E026" not in caplog.text
    byline.instrument(capture_content=True)
    assert "byline.E026" in caplog.text


def test_langfuses_own_sdk_is_left_to_send_to_langfuse(
    own: TracerProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Twice would be counted twice."""
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-1")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-1")
    theirs = type("LangfuseSpanProcessor", (SpanProcessor,), {"__module__": "langfuse._client.span_processor"})
    own.add_span_processor(theirs())
    byline.instrument(tracer_provider=own, clients=())
    assert processors_of(own) == 2
    assert "byline.E027" in caplog.text


@pytest.mark.parametrize(
    ("variable", "value"),
    [("OTEL_TRACES_EXPORTER", "none"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
)
@pytest.mark.usefixtures("otlp")
def test_variables_that_turn_otlp_away_are_heeded(
    variable: str, value: str, own: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    byline.instrument(tracer_provider=own, clients=())
    assert processors_of(own) == 1


def test_langfuses_own_variables_are_heeded(own: TracerProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment and release of spans that name none, and the switch."""
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-1")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-1")
    monkeypatch.setenv("LANGFUSE_TRACING_ENVIRONMENT", "staging")
    monkeypatch.setenv("LANGFUSE_RELEASE", "v7")
    with Receiver() as receiver:
        monkeypatch.setenv("LANGFUSE_BASE_URL", receiver.url)
        byline.instrument(tracer_provider=own, clients=())
        spans_of(own)
        with byline.bound(environment="production"):
            spans_of(own)
        assert byline.flush()
        found = [
            (span.attributes["langfuse.environment"], span.attributes["langfuse.release"]) for span in receiver.spans
        ]
        assert sorted(found) == [("production", "v7"), ("staging", "v7")]
        byline.uninstrument()
    monkeypatch.setenv("LANGFUSE_TRACING_ENABLED", "false")
    byline.instrument(tracer_provider=TracerProvider(shutdown_on_exit=False), clients=())
    assert not export.destinations_from_environment()
