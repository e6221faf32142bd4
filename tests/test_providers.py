"""Several tracer providers side by side, and providers that are not the SDK's plain one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ConcurrentMultiSpanProcessor, SpanProcessor, TracerProvider

import byline
from byline.http.call_config import configs
from byline.instrument import runtimes
from byline.settings import SettingError
from tests.export.support import CHAT, Memory


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    byline.uninstrument()
    yield
    byline.uninstrument()


@pytest.fixture
def first() -> TracerProvider:
    return TracerProvider(shutdown_on_exit=False)


@pytest.fixture
def second() -> TracerProvider:
    return TracerProvider(shutdown_on_exit=False)


class Wrapper:
    """A vendor's provider around the SDK's."""

    def __init__(self, inner: TracerProvider) -> None:
        self._inner = inner

    def add_span_processor(self, processor: SpanProcessor) -> None:
        self._inner.add_span_processor(processor)

    def get_tracer(self, *args: Any, **kwargs: Any) -> Any:
        return self._inner.get_tracer(*args, **kwargs)


def provider_of_calls() -> Any:
    """Return the provider whose settings apply to a call that starts now."""
    config = configs.current()
    return None if config is None else config.tracer_provider


def test_each_provider_has_its_destinations(first: TracerProvider, second: TracerProvider) -> None:
    one, other = Memory(), Memory()
    byline.instrument(tracer_provider=first, destinations=[one], clients=())
    byline.instrument(tracer_provider=second, destinations=[other], clients=())
    with first.get_tracer("app").start_as_current_span("outer"):
        second.get_tracer("app").start_span("inner").end()
    assert byline.flush()
    assert (one.names, other.names) == (["outer"], ["inner"])


def test_labels_are_unique_in_the_process(first: TracerProvider, second: TracerProvider) -> None:
    """Counters and gauges are named by them."""
    one, other = Memory(), Memory()
    byline.instrument(tracer_provider=first, destinations=[one], clients=())
    byline.instrument(tracer_provider=second, destinations=[other], clients=())
    assert (one.label, other.label) == ("destination", "destination-2")
    assert {"destination.queue", "destination-2.queue"} <= byline.stats().keys()


def test_destinations_of_two_providers_do_not_share_a_spool(
    first: TracerProvider, second: TracerProvider, tmp_path: Any
) -> None:
    one, other = [Memory(label="audit", spool=tmp_path, headers={"key": key}) for key in ("one", "other")]
    byline.instrument(tracer_provider=first, destinations=[one], clients=())
    with pytest.raises(SettingError, match=r"byline\.E049"):
        byline.instrument(tracer_provider=second, destinations=[other], clients=())


def test_calls_of_a_provider_without_clients_are_not_those_of_another_provider(
    first: TracerProvider, second: TracerProvider
) -> None:
    """They would be captured by the settings of the other, and sent to its destinations."""
    byline.instrument(tracer_provider=first, destinations=[], capture_content=True)
    byline.instrument(tracer_provider=second, destinations=[], clients=())
    with second.get_tracer("app").start_as_current_span("job"):
        assert provider_of_calls() is None
    with first.get_tracer("app").start_as_current_span("job"):
        assert provider_of_calls() is first
    assert provider_of_calls() is first


def test_calls_outside_any_span_use_the_first_settings_that_see_calls(
    first: TracerProvider, second: TracerProvider
) -> None:
    byline.instrument(tracer_provider=first, destinations=[], clients=())
    assert (provider_of_calls(), configs.active) == (None, False)
    byline.instrument(tracer_provider=second, destinations=[])
    assert (provider_of_calls(), configs.active) == (second, True)


def test_calls_of_a_vendors_provider_use_its_settings(first: TracerProvider, second: TracerProvider) -> None:
    wrapper: Any = Wrapper(second)
    byline.instrument(tracer_provider=first, destinations=[])
    byline.instrument(tracer_provider=wrapper, destinations=[])
    with wrapper.get_tracer("app").start_as_current_span("job"):
        assert provider_of_calls() is wrapper


def test_a_call_that_replaces_the_entry_points_leaves_other_providers_alone(
    first: TracerProvider, second: TracerProvider
) -> None:
    memory = Memory()
    byline.instrument(tracer_provider=first, destinations=[], clients=())
    replaced = runtimes.find(first)
    assert replaced is not None
    replaced.is_from_entry_point = True
    byline.instrument(tracer_provider=second, destinations=[memory], clients=())
    byline.instrument(tracer_provider=first, destinations=[], clients=(), stamp="all")
    assert runtimes.find(first) is not replaced
    second.get_tracer("app").start_span("job").end()
    assert byline.flush()
    assert memory.names == ["job"]


def test_a_provider_that_refuses_the_processor_leaves_no_destination_running() -> None:
    class Frozen(TracerProvider):
        def add_span_processor(self, _: SpanProcessor) -> None:
            raise RuntimeError("frozen")

    memory = Memory()
    with pytest.raises(RuntimeError, match="frozen"):
        byline.instrument(tracer_provider=Frozen(shutdown_on_exit=False), destinations=[memory], clients=())
    assert "destination.queue" not in byline.stats()


def test_a_processor_that_calls_others_on_threads_of_its_own() -> None:
    """The request context and the current span are those of the app's thread."""
    provider = TracerProvider(active_span_processor=ConcurrentMultiSpanProcessor(2), shutdown_on_exit=False)
    memory = Memory()
    byline.instrument(tracer_provider=provider, destinations=[memory], clients=())
    tracer = provider.get_tracer("app")
    with byline.bound(session_id="s"), tracer.start_as_current_span("root"):
        tracer.start_span("chat", attributes=CHAT).end()
    assert byline.flush()
    spans = {span.name: span for span in memory.kept.spans}
    assert memory.values("session.id") == {"root": "s", "chat": "s"}
    assert spans["chat"].parent is not None
    assert spans["root"].context is not None
    assert spans["chat"].parent.span_id == spans["root"].context.span_id
    provider.shutdown()
