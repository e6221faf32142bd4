"""What all tests share: one global tracer provider, and a clean view of its spans for each test."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, DEFAULT_ON, Sampler, SamplingResult

from byline import deferred, errors, http, internal_metrics, request_context
from byline.genai.attribution_processor import AttributionSpanProcessor

# The same examples in every run, without a deadline: machines are busy. .ci/run takes the thorough profile as well.
for _profile, _examples in {"byline": 30, "thorough": 200}.items():
    settings.register_profile(
        _profile,
        max_examples=_examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile("byline")


#: The processes that the test has started.
_PROCESSES: list[str] = []


def _note_process(event: str, arguments: tuple[Any, ...]) -> None:
    # SDKs ask small programs of the system for its name.
    if event == "os.fork" or (event == "subprocess.Popen" and sys.executable in arguments[1]):
        _PROCESSES.append(f"{event} {arguments}")


sys.addaudithook(_note_process)


class _SwitchedSampler(Sampler):
    """The SDK's default, until a test switches it: a tracer keeps the sampler that it was made with."""

    def __init__(self) -> None:
        self.inner: Sampler = DEFAULT_ON

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        return self.inner.should_sample(*args, **kwargs)

    def get_description(self) -> str:
        return self.inner.get_description()


# The global provider can be set once a process only, so that all tests share this one.
_SAMPLER = _SwitchedSampler()
_EXPORTER = InMemorySpanExporter()
_SIGNING = AttributionSpanProcessor()
_SIGNING.switch_off()
_PROVIDER = TracerProvider(sampler=_SAMPLER, shutdown_on_exit=False)
_PROVIDER.add_span_processor(_SIGNING)
_PROVIDER.add_span_processor(SimpleSpanProcessor(_EXPORTER))
trace.set_tracer_provider(_PROVIDER)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """Start every test with nothing told and nothing counted, and prove that it left no record behind."""
    errors.once.clear()
    internal_metrics.clear()
    # What tests before this one have dropped.
    deferred.run_deferred()
    http.clear_results()
    _EXPORTER.clear()
    yield
    left = request_context.current_context()
    request_context.attach(None)
    assert left is None, "the test left a record in force"


@pytest.fixture(autouse=True)
def _no_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let only marked tests start processes: each process takes as long as a hundred other tests."""
    if any(request.node.get_closest_marker(marker) for marker in ("integration", "matrix", "benchmark")):
        yield
        return
    # Each new HTTP client reads these certificates: those of the system, of which there are 150, take 25 ms.
    monkeypatch.setenv("SSL_CERT_FILE", str(Path(__file__).with_name("ca.pem")))
    _PROCESSES.clear()
    yield
    assert _PROCESSES == [], "mark tests that start processes with pytest.mark.integration"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    """The exporter behind the global provider, empty. Nothing signs its spans; see `provider`."""
    return _EXPORTER


@pytest.fixture
def provider() -> Iterator[TracerProvider]:
    """The global provider, whose LLM spans byline signs for the length of this test.

    Tests of `byline.instrument` take ``exporter`` alone: instrument() brings a processor of its own.
    """
    _SIGNING.switch_on("llm")
    yield _PROVIDER
    _SIGNING.switch_off()


@pytest.fixture
def stamp_all(provider: TracerProvider) -> None:
    """Sign every span of a request, not LLM spans alone."""
    _SIGNING.switch_on("all")


@pytest.fixture
def finished(provider: TracerProvider, exporter: InMemorySpanExporter) -> Callable[[], Sequence[ReadableSpan]]:
    """Return the spans that have ended since the test began, in the order in which they ended."""
    return exporter.get_finished_spans


@pytest.fixture
def unsampled(provider: TracerProvider) -> Iterator[None]:
    """Let the sampler drop every span."""
    _SAMPLER.inner = ALWAYS_OFF
    yield
    _SAMPLER.inner = DEFAULT_ON


@pytest.fixture
def no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it look as if nobody had set a tracer provider."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)


@pytest.fixture
def production(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Let hooks swallow their errors, as they do outside pytest; gives the log."""
    monkeypatch.delenv("PYTEST_VERSION")
    caplog.set_level(logging.WARNING, logger="byline")
    return caplog
