"""The price list is loaded with the first LLM call, and a response that comes before has its cost at the export."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import byline
from byline.asgi import AttributionMiddleware
from byline.call_result import CallResult
from byline.destinations import OTLP
from byline.gateways import OpenRouter
from byline.genai import price_library
from byline.genai.pricing import estimate_cost, prices
from byline.testing import ReceivedSpan, Receiver
from tests.support import claim, run_asgi

_URL = "https://api.openai.com/v1/chat/completions"
_REPLY = {
    "id": "c-1",
    "model": "gpt-4o",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1000, "completion_tokens": 100},
}
#: Of gpt-4o, in USD.
_COST = 0.0035


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> TracerProvider:
    """A provider whose spans nobody but byline's destinations gets."""
    provider = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return provider


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the list be loaded when somebody waits for it, and return the names of the threads that did."""
    names: list[str] = []
    load = prices.load

    def noted() -> None:
        names.append(threading.current_thread().name)
        load()

    monkeypatch.setattr(prices, "is_loaded", False)
    monkeypatch.setattr(prices, "load", noted)
    # Some installers write no bytecode.
    monkeypatch.setattr(price_library, "is_compiled", lambda: True)
    # The thread that is started with the call comes too late.
    monkeypatch.setattr(prices, "load_in_thread", lambda: None)
    return names


def _ask(
    provider: TracerProvider,
    receiver: Receiver,
    *,
    instrumentation: str,
    gateways: Any = (),
    reply: Any = _REPLY,
    headers: Any = None,
) -> None:
    """Send a request to an app that calls a model, and export its spans."""
    tracer = provider.get_tracer("opentelemetry.instrumentation.openai_v2")
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o"}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        transport = httpx2.MockTransport(lambda request: httpx2.Response(200, json=reply, headers=headers))
        async with httpx2.AsyncClient(transport=transport) as client:
            if instrumentation == "around":
                with tracer.start_as_current_span("chat gpt-4o", attributes=attributes):
                    await client.post(_URL, json={"model": "gpt-4o", "messages": []})
            else:
                await client.post(_URL, json={"model": "gpt-4o", "messages": []})
        if instrumentation == "afterwards":
            made = {**attributes, "gen_ai.response.id": "c-1"}
            tracer.start_span("chat gpt-4o", attributes=made).end()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    byline.instrument(
        tracer_provider=provider,
        destinations=[OTLP(receiver.url, spans="all")],
        gateways=gateways,
        llm_spans=True if instrumentation == "none" else "auto",
    )
    try:
        asyncio.run(run_asgi(AttributionMiddleware(app, app_span=True), claim({"session_id": "s-1"})))
        assert byline.flush()
    finally:
        byline.uninstrument()


@pytest.mark.usefixtures("no_settings", "loading")
@pytest.mark.parametrize("is_loaded", [False, True])
def test_cost_that_a_cached_body_repeats_is_what_the_cache_has_saved(
    is_loaded: bool, provider: TracerProvider, receiver: Receiver
) -> None:
    """The call that filled the cache has cost that; this one costs nothing."""
    if is_loaded:
        prices.load()
    reply = {**_REPLY, "usage": {**_REPLY["usage"], "cost": 0.25}}  # type: ignore[dict-item]
    headers = {"x-openrouter-cache-status": "HIT"}
    gateways = [OpenRouter("https://api.openai.com/v1")]
    _ask(provider, receiver, instrumentation="none", gateways=gateways, reply=reply, headers=headers)
    assert _costs(receiver.spans, "gen_ai.usage.cost") == [0.0]
    assert _costs(receiver.spans, "byline.cache.savings") == [0.25]
    assert _costs(receiver.spans, "byline.llm.cost") == [0.0]


@pytest.mark.usefixtures("no_settings", "loading")
@pytest.mark.parametrize("calls_before_loading", [1, 2])
def test_totals_contain_calls_before_and_after_loading(
    calls_before_loading: int, provider: TracerProvider, receiver: Receiver
) -> None:
    """The estimate of an early call changes the cost of the request, not the number of its calls."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        transport = httpx2.MockTransport(lambda request: httpx2.Response(200, json=_REPLY))
        async with httpx2.AsyncClient(transport=transport) as client:
            for number in range(3):
                if number == calls_before_loading:
                    prices.load()
                    prices.complete()
                await client.post(_URL, json={"model": "gpt-4o", "messages": []})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    byline.instrument(tracer_provider=provider, destinations=[OTLP(receiver.url, spans="all")], llm_spans=True)
    try:
        asyncio.run(run_asgi(AttributionMiddleware(app, app_span=True), claim({"session_id": "s-1"})))
        assert byline.flush()
    finally:
        byline.uninstrument()
    assert _costs(receiver.spans, "byline.llm.calls") == [3]
    assert _costs(receiver.spans, "byline.llm.input_tokens") == [3000]
    assert _costs(receiver.spans, "byline.llm.output_tokens") == [300]
    assert _costs(receiver.spans, "byline.llm.cost") == [round(3 * _COST, 12)]
    assert _costs(receiver.spans, "gen_ai.usage.cost") == [_COST] * 3


def _costs(spans: list[ReceivedSpan], name: str) -> list[Any]:
    return [span.attributes[name] for span in spans if name in span.attributes]


@pytest.mark.usefixtures("no_settings")
@pytest.mark.parametrize("instrumentation", ["none", "around", "afterwards"])
def test_response_before_the_list_has_its_cost_at_the_export(
    instrumentation: str, provider: TracerProvider, receiver: Receiver, loading: list[str]
) -> None:
    """Once, on the span of the call and in the totals; only the destination's thread waits for the list."""
    _ask(provider, receiver, instrumentation=instrumentation)
    assert _costs(receiver.spans, "gen_ai.usage.cost") == [_COST]
    assert _costs(receiver.spans, "byline.cost.source") == ["estimate"]
    assert _costs(receiver.spans, "byline.cost.output") == [0.001]
    assert _costs(receiver.spans, "byline.llm.cost") == [_COST]
    assert set(loading) == {"byline-otlp"}


@pytest.mark.usefixtures("no_settings")
@pytest.mark.parametrize("is_loaded", [False, True])
def test_cost_of_a_broadcasting_gateway_stays_on_the_gateways_span(
    is_loaded: bool, provider: TracerProvider, receiver: Receiver, loading: list[str]
) -> None:
    if is_loaded:
        prices.load()
    gateways = [OpenRouter("https://api.openai.com/v1", broadcasts=True)]
    _ask(provider, receiver, instrumentation="none", gateways=gateways)
    assert _costs(receiver.spans, "gen_ai.usage.cost") == []
    assert _costs(receiver.spans, "byline.llm.cost") == [_COST]


@pytest.mark.usefixtures("no_settings", "loading")
@pytest.mark.parametrize("has_exporter", [False, True])
def test_list_is_loaded_at_start_for_the_exporters_of_the_app(has_exporter: bool) -> None:
    """They read a span as it ends. byline's destinations can wait."""
    provider = TracerProvider(shutdown_on_exit=False)
    if has_exporter:
        provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    byline.instrument(tracer_provider=provider, destinations=[OTLP("http://127.0.0.1:9")])
    try:
        assert prices.is_loaded is has_exporter
    finally:
        byline.uninstrument()


@pytest.mark.usefixtures("no_settings")
def test_list_without_bytecode_is_loaded_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """To compile the list in a thread would stop all other threads for a quarter of a second."""
    monkeypatch.setattr(prices, "is_loaded", False)
    monkeypatch.setattr(sys, "pycache_prefix", "/nowhere")
    byline.instrument(tracer_provider=TracerProvider(shutdown_on_exit=False), destinations=[OTLP("http://127.0.0.1:9")])
    try:
        assert prices.is_loaded
    finally:
        byline.uninstrument()


@pytest.mark.usefixtures("no_settings")
@pytest.mark.parametrize("module", [types.ModuleType("genai_prices"), None])
def test_library_that_cannot_be_found_stops_nothing(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub of an app's tests has no specification, and a package that is blocked is None."""
    monkeypatch.setattr(prices, "is_loaded", False)
    monkeypatch.setattr(prices, "library", None)
    monkeypatch.setitem(sys.modules, "genai_prices", module)
    result = CallResult(provider="openai", response_model="gpt-4o", input_tokens=1000, output_tokens=100)
    byline.instrument(tracer_provider=TracerProvider(shutdown_on_exit=False), destinations=[OTLP("http://127.0.0.1:9")])
    try:
        estimate_cost(result)
    finally:
        byline.uninstrument()
    assert result.cost is None


#: The list is loaded in a thread while an SDK asks, in each call, whether the app uses the other version of httpx.
_CLIENT_OF_THE_APP = """
import sys, threading
from byline.genai.pricing import prices
seen = []

class Seen:
    def find_spec(self, name, path=None, target=None):
        seen.append(name)

sys.meta_path.insert(0, Seen())
thread = threading.Thread(target=prices.load)
thread.start()
thread.join()
assert "genai_prices.types" in seen and prices.library is not None
print([name for name in seen if name.startswith("httpx")], [name for name in sys.modules if name.startswith("httpx")])

import genai_prices
from genai_prices import UpdatePrices, wait_prices_updated_sync
from genai_prices.update_prices import UpdatePrices as same
print(UpdatePrices is genai_prices.UpdatePrices is same, genai_prices.update_prices.UpdatePrices is same)
print(hasattr(genai_prices, "nothing"), type(genai_prices.__spec__.loader).__module__)
"""


@pytest.mark.integration
def test_thread_that_loads_the_list_imports_no_http_client() -> None:
    """A half-imported httpx in ``sys.modules`` breaks the calls of SDKs that look for it there."""
    done = subprocess.run([sys.executable, "-c", _CLIENT_OF_THE_APP], capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout.splitlines()) == (
        "",
        ["[] []", "True True", "False _frozen_importlib_external"],
    )


def test_estimate_of_a_loaded_list_is_made_at_once() -> None:
    result = CallResult(provider="openai", response_model="gpt-4o", input_tokens=1000, output_tokens=100)
    prices.load()
    prices.when_loaded(lambda: estimate_cost(result))
    assert result.cost == _COST


def test_fork_before_the_thread_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another thread, while the first call starts the thread that loads the list."""
    outcomes: list[BaseException | None] = []

    def start(_: threading.Thread) -> None:
        # Python ignores errors of the functions that are called before a fork, but writes them to stderr.
        try:
            prices._wait_for_thread()
            outcomes.append(None)
        except BaseException as error:
            outcomes.append(error)

    monkeypatch.setattr(prices, "is_loaded", False)
    monkeypatch.setattr(prices, "_thread", None)
    monkeypatch.setattr(threading.Thread, "start", start)
    prices.load_in_thread()
    assert outcomes == [None]


_FORKS = """
import os, signal, sys
from byline.genai.pricing import prices
from byline.genai import pricing
from byline.call_result import CallResult
prices.load_in_thread()
child = os.fork()
result = CallResult(provider="openai", response_model="gpt-4o", input_tokens=1000, output_tokens=100)
if not child:
    # A lock that the thread held at the fork would never be released.
    signal.alarm(60)
pricing.estimate_cost(result)
assert result.cost == 0.0035, result.cost
if child:
    sys.exit(os.waitpid(child, 0)[1])
os._exit(0)
"""


@pytest.mark.integration
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_while_the_list_is_loaded() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _FORKS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
