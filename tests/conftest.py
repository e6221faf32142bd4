"""Fixtures of all tests: one global tracer provider, whose exporter is empty at the start of each test."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
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

import byline
from byline import deferred, errors, http, internal_metrics, request_context
from byline.genai.attribution_processor import AttributionSpanProcessor
from byline.setting_table import SETTINGS

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


def pytest_configure() -> None:
    """Let Ctrl-C end the processes of tests also if a shell runs the tests in the background, and ignores it there."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish() -> None:
    """Save what coverage has measured so far: pytest-xdist kills a worker that takes longer than 10 s to end."""
    coverage: Any = sys.modules.get("coverage")
    measured = None if coverage is None else coverage.Coverage.current()
    if measured is not None:
        measured.save()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Run the tests of named folders and files in one process: they take less time than the start of others."""
    return 0 if config.args_source is pytest.Config.ArgsSource.ARGS else None


#: The processes that the test has started.
_PROCESSES: list[str] = []

# Not by an audit hook: with one in Python, a thread that starts while coverage traces another new thread fails with
# "Cannot install a trace function while another trace function is being installed" (Python 3.11).
os.register_at_fork(before=lambda: _PROCESSES.append("fork"))


class _SwitchedSampler(Sampler):
    """The SDK's default sampler until a test replaces the inner one, because tracers keep their first sampler."""

    def __init__(self) -> None:
        self.inner: Sampler = DEFAULT_ON

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        return self.inner.should_sample(*args, **kwargs)

    def get_description(self) -> str:
        return self.inner.get_description()


# The global provider can be set only once in a process.
_SAMPLER = _SwitchedSampler()
_EXPORTER = InMemorySpanExporter()
_ATTRIBUTION = AttributionSpanProcessor()
_ATTRIBUTION.switch_off()
_PROVIDER = TracerProvider(sampler=_SAMPLER, shutdown_on_exit=False)
_PROVIDER.add_span_processor(_ATTRIBUTION)
_PROVIDER.add_span_processor(SimpleSpanProcessor(_EXPORTER))
trace.set_tracer_provider(_PROVIDER)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """Reset logged errors, counters and results before each test; fail if a request context is left attached."""
    errors.once.clear()
    internal_metrics.clear()
    # Finalizers of objects that earlier tests dropped.
    deferred.run_deferred()
    http.clear_results()
    _EXPORTER.clear()
    yield
    context = request_context.current_context()
    request_context.attach(None)
    assert context is None, "the test left a request context attached"


@pytest.fixture(autouse=True)
def _no_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let only marked tests start processes: each process takes as long as a hundred other tests."""
    if any(request.node.get_closest_marker(marker) for marker in ("integration", "matrix", "benchmark")):
        yield
        return
    # Each new HTTP client loads all trusted certificates: about 150 of the system take 25 ms, this one 0.2 ms.
    monkeypatch.setenv("SSL_CERT_FILE", str(Path(__file__).with_name("ca.pem")))
    start = subprocess.Popen.__init__

    def note_process(process: subprocess.Popen[Any], args: Any, *rest: Any, **options: Any) -> None:
        # SDKs ask small programs of the system for its name.
        if sys.executable in args:
            _PROCESSES.append(f"{args}")
        start(process, args, *rest, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", note_process)
    _PROCESSES.clear()
    yield
    assert _PROCESSES == [], "mark tests that start processes with pytest.mark.integration"


@pytest.fixture
def not_instrumented(no_settings: None) -> Iterator[None]:
    """Call ``uninstrument()`` before and after the test, which calls ``instrument()``."""
    byline.uninstrument()
    yield
    byline.uninstrument()


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset every environment variable that byline reads."""
    for setting in SETTINGS:
        for name in setting.variables:
            monkeypatch.delenv(name, raising=False)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    """Return the empty exporter of the global provider. Without `provider` its spans get no attribution."""
    return _EXPORTER


@pytest.fixture
def provider() -> Iterator[TracerProvider]:
    """Return the global provider; LLM spans get their attribution until the test ends.

    Tests of `byline.instrument` need only ``exporter``, because instrument() adds its own processor.
    """
    _ATTRIBUTION.switch_on("llm")
    yield _PROVIDER
    _ATTRIBUTION.switch_off()


@pytest.fixture
def stamp_all(provider: TracerProvider) -> None:
    """Set the attribution on every span of a request instead of only on LLM spans."""
    _ATTRIBUTION.switch_on("all")


@pytest.fixture
def finished(provider: TracerProvider, exporter: InMemorySpanExporter) -> Callable[[], Sequence[ReadableSpan]]:
    """Return a function that gives the spans that ended in this test, in order."""
    return exporter.get_finished_spans


@pytest.fixture
def unsampled(provider: TracerProvider) -> Iterator[None]:
    """Drop every span by sampling."""
    _SAMPLER.inner = ALWAYS_OFF
    yield
    _SAMPLER.inner = DEFAULT_ON


@pytest.fixture
def no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the global tracer provider until the test ends."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)


@pytest.fixture
def production(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Return the log; hooks log their errors as in production instead of raising them."""
    monkeypatch.delenv("PYTEST_VERSION")
    caplog.set_level(logging.WARNING, logger="byline")
    return caplog
