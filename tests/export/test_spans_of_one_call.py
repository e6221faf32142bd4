"""One span of each call carries tokens and cost, also if the span of an instrumentation is recognised late."""

from __future__ import annotations

import gc
import json
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, StatusCode

import byline
from byline.export import OTLP
from byline.gateways import OpenRouter
from byline.genai import call_spans
from byline.testing import Gateway, ReceivedSpan, Receiver
from tests.export.support import tree

MODEL = "openai/gpt-4o"
TOKENS = {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 8}
CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": MODEL}
OPENINFERENCE: dict[str, Any] = {
    "openinference.span.kind": "LLM",
    "llm.model_name": "gpt-4o",
    "llm.token_count.prompt": 10,
    "llm.token_count.completion": 8,
}


class App:
    """An app with one LLM request after the other, and its spans at a Langfuse destination."""

    def __init__(self, gateway: Gateway, receiver: Receiver, provider: TracerProvider) -> None:
        self.gateway = gateway
        self.receiver = receiver
        self.provider = provider

    def call(self, model: str = MODEL, messages: Sequence[str] = ("Who wrote this?",)) -> dict[str, Any]:
        """Call the model without an SDK, and return the body of the response."""
        body = {"model": model, "messages": [{"role": "user", "content": text} for text in messages]}
        with httpx2.Client() as client:
            answer: dict[str, Any] = client.post(f"{self.gateway.base_url}/chat/completions", json=body).json()
        return answer

    def tracer(self, scope: str) -> trace.Tracer:
        return self.provider.get_tracer(scope)

    @contextmanager
    def request(self, **fields: Any) -> Iterator[Any]:
        with (
            byline.bound(**{"session_id": "s-1", "generation_name": "Generate", **fields}),
            self.tracer("app").start_as_current_span("POST /chat", kind=SpanKind.SERVER) as span,
        ):
            yield span

    def spans(self) -> list[ReceivedSpan]:
        """Return the spans that arrived by the end of the process."""
        byline.uninstrument()
        return self.receiver.spans

    def tree(self) -> dict[str | None, list[str]]:
        return tree(self.spans())


@contextmanager
def running(spans: Any = "llm", *, framework_spans: bool = False, **settings: Any) -> Iterator[App]:
    provider = TracerProvider(shutdown_on_exit=False)
    with Gateway() as gateway, Receiver() as receiver:
        byline.instrument(
            tracer_provider=provider,
            destinations=[
                OTLP(receiver.url, conventions=["langfuse"], spans=spans, root=False, framework_spans=framework_spans)
            ],
            gateways=[OpenRouter(gateway.base_url)],
            **settings,
        )
        yield App(gateway, receiver, provider)
        byline.uninstrument()


@pytest.fixture
def app() -> Iterator[App]:
    with running() as found:
        yield found


def types(spans: list[ReceivedSpan]) -> dict[str, str]:
    return {span.name: span.attributes["langfuse.observation.type"] for span in spans}


def tokens(spans: list[ReceivedSpan]) -> list[tuple[int, int]]:
    """Return input and output tokens as Langfuse would sum them, one pair for each span that has any."""
    details = [json.loads(span.attributes.get("langfuse.observation.usage_details", "{}")) for span in spans]
    pairs = [(each.get("input", 0), each.get("output", 0)) for each in details]
    return [pair for pair in pairs if pair != (0, 0)]


def costs(spans: list[ReceivedSpan]) -> list[float]:
    return [span.attributes["gen_ai.usage.cost"] for span in spans if "gen_ai.usage.cost" in span.attributes]


def generations(spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
    return [span for span in spans if span.attributes["langfuse.observation.type"] == "generation"]


def usage_of(*bodies: dict[str, Any]) -> list[tuple[int, int]]:
    return [(body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) for body in bodies]


@contextmanager
def started(tracer: trace.Tracer, name: str, /, **attributes: Any) -> Iterator[Any]:
    """Start a span whose attributes are set just after its start."""
    with tracer.start_as_current_span(name) as span:
        span.set_attributes(attributes)
        yield span


@pytest.mark.parametrize("scope", ["strands.telemetry.tracer", "agent_framework"])
def test_attributes_set_just_after_the_start(app: App, scope: str) -> None:
    """Strands and Microsoft's Agent Framework."""
    tracer = app.tracer(scope)
    with (
        app.request(),
        started(tracer, "invoke_agent", **{"gen_ai.operation.name": "invoke_agent"}) as agent,
        started(tracer, "cycle", **{"gen_ai.operation.name": "execute_event_loop_cycle"}),
    ):
        with started(tracer, "chat", **CHAT) as chat:
            body = app.call()
            chat.set_attributes(TOKENS)
        agent.set_attributes(TOKENS)
    spans = app.spans()
    assert tree(spans) == {None: ["invoke_agent"], "invoke_agent": ["cycle"], "cycle": ["Generate"]}
    assert types(spans) == {"invoke_agent": "agent", "cycle": "chain", "Generate": "generation"}
    assert len(tokens(spans)) == 1
    assert costs(spans) == [body["usage"]["cost"]]


def test_attributes_set_after_the_response(app: App) -> None:
    """Google ADK; a span without attributes is no model call if there is one below."""
    tracer = app.tracer("gcp.vertex.agent")
    with (
        app.request(),
        tracer.start_as_current_span("invocation"),
        started(tracer, "invoke_agent", **{"gen_ai.operation.name": "invoke_agent"}),
    ):
        with tracer.start_as_current_span("call_llm") as span:
            first = app.call()
            span.set_attributes({"gen_ai.request.model": MODEL, "gen_ai.system": "gcp.vertex.agent", **TOKENS})
        with started(tracer, "execute_tool", **{"gen_ai.operation.name": "execute_tool"}):
            second = app.call()
    spans = app.spans()
    assert tree(spans) == {
        None: ["invocation"],
        "invocation": ["invoke_agent"],
        "invoke_agent": ["Generate", "execute_tool"],
        "execute_tool": ["Generate"],
    }
    assert types([span for span in spans if span.name != "Generate"]) == {
        "invocation": "span",
        "invoke_agent": "agent",
        "execute_tool": "tool",
    }
    assert len(tokens(spans)) == 2
    assert sorted(costs(spans)) == sorted(body["usage"]["cost"] for body in (first, second))


def test_an_instrumentation_that_writes_every_call_onto_the_agents_span(app: App) -> None:
    """OpenInference with Google ADK: the span keeps the tokens of its own call, the next call has a span of its own."""
    call = {"openinference.span.kind": "LLM", "llm.model_name": "gpt-4o"}
    with app.request(), app.tracer("gcp.vertex.agent").start_as_current_span("invoke_agent") as span:
        span.set_attributes(call)
        first = app.call()
        span.set_attributes({"llm.token_count.prompt": first["usage"]["prompt_tokens"]})
        second = app.call(messages=["Who wrote this?", "And who else?"])
        span.set_attributes({"llm.token_count.prompt": second["usage"]["prompt_tokens"]})
    spans = app.spans()
    assert sorted(tokens(spans)) == sorted(usage_of(first, second))
    assert sorted(costs(spans)) == sorted(body["usage"]["cost"] for body in (first, second))


@pytest.mark.parametrize(("selected", "framework_spans"), [("llm", False), ("all", False), ("all", True)])
def test_an_instrumentation_that_writes_a_call_onto_the_frameworks_span(selected: str, framework_spans: bool) -> None:
    """LiteLLM's callback writes onto the current span, ``fastapi.endpoint``, which stands for no call."""
    call: dict[str, Any] = {**CHAT, **TOKENS, "langfuse.observation.type": "generation", "gen_ai.cost.total_cost": 0.5}
    with running(selected, framework_spans=framework_spans) as app:
        with app.request(), app.tracer("fastapi").start_as_current_span("fastapi.endpoint") as endpoint:
            body = app.call()
            endpoint.set_attributes(call)
        spans = app.spans()
    (generation,) = generations(spans)
    assert (generation.scope, generation.name) == ("byline", "Generate")
    assert tokens(spans) == usage_of(body)
    assert costs(spans) == [body["usage"]["cost"]]
    for span in spans:
        if span.scope == "fastapi":
            assert call.keys() & span.attributes.keys() == {"langfuse.observation.type"}
    assert [span.name for span in spans if span.scope == "fastapi"] == ["fastapi.endpoint"] * framework_spans


def test_an_instrumentation_that_counts_tokens_wrongly(app: App) -> None:
    """OpenLLMetry adds up the output tokens of all events of Anthropic's streams, which repeat them."""
    with (
        app.request(),
        app.tracer("opentelemetry.instrumentation.anthropic").start_as_current_span("chat", attributes=CHAT) as span,
    ):
        body = app.call()
        span.set_attribute("gen_ai.usage.output_tokens", body["usage"]["completion_tokens"] + 1)
    assert tokens(app.spans()) == usage_of(body)


def test_a_step_that_states_its_kind_at_its_end(app: App) -> None:
    """OpenInference with LlamaIndex: the step around a streamed call is current, the span of the call is not."""
    tracer = app.tracer("openinference.instrumentation.llama_index")
    with app.request(), tracer.start_as_current_span("run_step") as step:
        model = tracer.start_span("astream_chat")
        body = app.call()
        counts = {"llm.token_count.prompt": body["usage"]["prompt_tokens"]}
        counts["llm.token_count.completion"] = body["usage"]["completion_tokens"]
        model.set_attributes({"openinference.span.kind": "LLM", "llm.model_name": MODEL, **counts})
        model.end()
        step.set_attributes({"openinference.span.kind": "CHAIN", "input.value": "the step's own"})
    spans = app.spans()
    assert types(spans) == {"run_step": "chain", "Generate": "generation"}
    assert tokens(spans) == usage_of(body)
    assert costs(spans) == [body["usage"]["cost"]]


def test_a_step_that_is_the_only_span_of_its_call(app: App) -> None:
    """OpenLLMetry with LlamaIndex: the step is shown as the call that was made in it."""
    tracer = app.tracer("opentelemetry.instrumentation.llamaindex")
    with app.request(), tracer.start_as_current_span("model.task") as step:
        body = app.call()
        step.set_attributes({"traceloop.span.kind": "task"})
    (span,) = app.spans()
    assert span.attributes["langfuse.observation.type"] == "generation"
    assert tokens([span]) == usage_of(body)


def test_a_span_around_the_span_of_the_same_call_is_no_second_generation(app: App) -> None:
    """OpenInference makes a span of each method of a model that calls another one."""
    tracer = app.tracer("openinference.instrumentation.llama_index")
    attributes = {"openinference.span.kind": "LLM", "llm.model_name": MODEL}
    with (
        app.request(),
        tracer.start_as_current_span("complete", attributes=attributes),
        tracer.start_as_current_span("chat", attributes=attributes),
    ):
        body = app.call()
    spans = app.spans()
    assert [span.attributes["langfuse.observation.type"] for span in spans] == ["generation", "chain"]
    assert tokens(spans) == usage_of(body)


def test_a_span_that_ends_after_the_first_chunk() -> None:
    """The rest of the stream replaces what byline has set of its beginning."""
    with running(capture_content=True) as app:
        _end_after_the_first_chunk(app)
        (span,) = generations(app.spans())
    assert "This is the answer to 1 message(s)." in span.attributes["gen_ai.output.messages"]
    assert span.attributes["gen_ai.response.finish_reasons"] == ["stop"]


def _end_after_the_first_chunk(app: App) -> None:
    app.gateway.hold(after=3)
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "Who wrote this?"}]}
    with app.request(), httpx2.Client() as client:
        with app.tracer("gcp.vertex.agent").start_as_current_span("call_llm", attributes=CHAT):
            request = client.build_request("POST", f"{app.gateway.base_url}/chat/completions", json=body)
            response = client.send(request, stream=True)
            chunks = response.iter_raw()
            # A comment, which states nothing, and the first word.
            for _ in range(2):
                next(chunks)
        app.gateway.release()
        for _ in chunks:
            pass


def test_an_unknown_framework(app: App) -> None:
    """Its spans look like the app's until they end."""
    tracer = app.tracer("somebody.agents")
    with app.request():
        with tracer.start_as_current_span("ask") as span:
            body = app.call()
            span.set_attributes({"gen_ai.request.model": "gpt-4o"})
        with tracer.start_as_current_span("not an LLM span"):
            app.call()
    spans = app.spans()
    assert {span.scope for span in spans} == {"somebody.agents", "byline"}
    assert [span.attributes["session.id"] for span in spans] == ["s-1"] * 2
    (taken,) = [span for span in spans if span.scope == "somebody.agents"]
    assert taken.name == "Generate"
    assert costs([taken]) == [body["usage"]["cost"]]
    assert tokens([taken]) == usage_of(body)


def in_other_context(action: Callable[[], Any]) -> Any:
    """Run in a copy of the context, as LangChain runs synchronous callbacks of asynchronous calls."""
    return copy_context().run(action)


def test_spans_that_are_never_current(app: App) -> None:
    """LangChain with OpenInference: two calls at once, in a context that byline does not see."""
    tracer = app.tracer("openinference.instrumentation.langchain")
    with app.request():
        first, second = (in_other_context(lambda: tracer.start_span("ChatOpenAI")) for _ in range(2))
        bodies = [app.call(), app.call()]
        for span in (second, first):
            span.set_attributes(OPENINFERENCE)
            span.end()
    spans = app.spans()
    assert [span.scope for span in spans] == ["openinference.instrumentation.langchain"] * 2
    assert [span.name for span in spans] == ["Generate"] * 2
    assert sorted(costs(spans)) == sorted(body["usage"]["cost"] for body in bodies)
    assert {span.attributes["gen_ai.response.id"] for span in spans} == {body["id"] for body in bodies}


def test_attempts_of_an_sdk(app: App) -> None:
    """A failed attempt and the one that succeeded are one call; the error is not its outcome."""
    tracer = app.tracer("openinference.instrumentation.langchain")
    app.gateway.fail(429)
    with app.request():
        span = in_other_context(lambda: tracer.start_span("ChatOpenAI"))
        app.call()
        body = app.call()
        span.set_attributes(OPENINFERENCE)
        span.end()
    (arrived,) = app.spans()
    assert costs([arrived]) == [body["usage"]["cost"]]
    assert "error.type" not in arrived.attributes


@pytest.mark.parametrize(
    "attributes", [{**OPENINFERENCE, "llm.model_name": "gpt-4o-mini"}, {"openinference.span.kind": "CHAIN"}]
)
def test_spans_of_other_calls_change_nothing(app: App, attributes: dict[str, Any]) -> None:
    tracer = app.tracer("openinference.instrumentation.langchain")
    with app.request():
        span = in_other_context(lambda: tracer.start_span("Something"))
        body = app.call()
        span.set_attributes(attributes)
        span.end()
    other, own = sorted(app.spans(), key=lambda each: each.scope == "byline")
    assert (costs([own]), tokens([own])) == ([body["usage"]["cost"]], usage_of(body))
    assert costs([other]) == []


def test_a_span_of_another_request_changes_nothing(app: App) -> None:
    """At the same time, of the same model."""
    tracer = app.tracer("openinference.instrumentation.langchain")
    with app.request(session_id="s-1"):
        first = in_other_context(lambda: tracer.start_span("ChatOpenAI"))
    with app.request(session_id="s-2"):
        body = app.call()
    first.set_attributes(OPENINFERENCE)
    first.end()
    spans = app.spans()
    assert {span.scope: span.attributes["session.id"] for span in spans} == {
        "byline": "s-2",
        "openinference.instrumentation.langchain": "s-1",
    }
    assert costs(spans) == [body["usage"]["cost"]]
    assert "gen_ai.response.id" not in next(span for span in spans if span.scope != "byline").attributes


def test_a_span_of_another_provider_changes_nothing(app: App) -> None:
    """It does not reach the destination that has byline's own span."""
    provider = TracerProvider(shutdown_on_exit=False)
    with Receiver() as receiver:
        byline.instrument(tracer_provider=provider, destinations=[OTLP(receiver.url, label="other")])
        with app.request():
            tracer = provider.get_tracer("openinference.instrumentation.langchain")
            span = in_other_context(lambda: tracer.start_span("ChatOpenAI"))
            body = app.call()
            span.set_attributes(OPENINFERENCE)
            span.end()
        (own,) = app.spans()
        assert costs([own]) == [body["usage"]["cost"]]
        assert [other.scope for other in receiver.spans] == ["openinference.instrumentation.langchain"]
        assert costs(receiver.spans) == []


def make_later(app: App, parent: Any, times: tuple[int, int]) -> None:
    """Make a span as LangSmith does: in a thread of its own, below the span that was current then."""

    def make() -> None:
        tracer, context = app.tracer("langsmith"), trace.set_span_in_context(parent)
        span = tracer.start_span("ChatOpenAI", context=context, start_time=times[0])
        span.set_attributes({**CHAT, "langsmith.span.kind": "llm", **TOKENS})
        span.end(times[1])

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()


def timed_call(app: App) -> tuple[dict[str, Any], tuple[int, int]]:
    with app.tracer("clock").start_as_current_span("call") as clock:
        body = app.call()
    span: Any = clock
    return body, (span.start_time, span.end_time)


def test_a_span_that_is_made_after_its_request(app: App) -> None:
    """LangSmith: while byline's own span has not been exported, the instrumentation's span takes its place."""
    with app.request() as server:
        body, times = timed_call(app)
    make_later(app, server, times)
    (arrived,) = app.spans()
    assert (arrived.scope, arrived.name) == ("langsmith", "Generate")
    assert arrived.attributes["session.id"] == "s-1"
    assert costs([arrived]) == [body["usage"]["cost"]]


def test_a_span_that_langsmiths_thread_makes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the destination sends spans meanwhile, for byline's own span waits for it."""
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    monkeypatch.setitem(sys.modules, "langsmith._internal.otel._otel_exporter", ModuleType("_otel_exporter"))
    monkeypatch.setattr(call_spans, "_TIMEOUT", 600.0)
    monkeypatch.setattr(call_spans, "_TIMEOUT_UNKNOWN", 600.0)
    with running() as app:
        with app.request() as server:
            body, times = timed_call(app)
        app.tracer("app").start_span("later", attributes={"gen_ai.operation.name": "execute_tool"}).end()
        assert [each.name for each in app.receiver.wait_for(1, timeout=60)] == ["later"]
        make_later(app, server, times)
        _, span = app.spans()
    assert span.scope == "langsmith"
    assert costs([span]) == [body["usage"]["cost"]]


@pytest.mark.parametrize(("stated", "error"), [({}, "429"), ({"gen_ai.usage.input_tokens": 10}, None)])
def test_a_failed_call_whose_span_says_that_all_is_well(app: App, stated: Any, error: str | None) -> None:
    """LangSmith, at times. A span that states tokens has a response, of an attempt that byline has not seen."""
    app.gateway.fail(429)
    tracer = app.tracer("langsmith")
    with app.request():
        span = in_other_context(lambda: tracer.start_span("ChatOpenAI"))
        app.call()
        span.set_attributes({**CHAT, **stated})
        span.set_status(StatusCode.OK)
        span.end()
    (arrived,) = app.spans()
    assert arrived.attributes.get("error.type") == error
    assert arrived.status == ("OK" if error is None else "ERROR")


def test_a_span_that_is_made_after_the_export(app: App) -> None:
    """Tokens and cost have been sent with byline's own span, and are not sent again."""
    with app.request() as server:
        body, times = timed_call(app)
    assert byline.flush()
    make_later(app, server, times)
    own, late = app.spans()
    assert (own.scope, late.scope) == ("byline", "langsmith")
    assert costs([own, late]) == [body["usage"]["cost"]]
    assert tokens([own, late]) == usage_of(body)


def test_a_flush_waits_for_no_span_of_the_app(app: App) -> None:
    """It waits for an LLM span that is open."""
    with app.request(), app.tracer("app").start_as_current_span("answer"):
        app.call()
        assert byline.flush()
        assert len(app.receiver.spans) == 1
        in_other_context(lambda: app.tracer("openinference.x").start_span("ChatOpenAI")).end()
        span = in_other_context(lambda: app.tracer("openinference.x").start_span("ChatOpenAI"))
        app.call()
        byline.flush()
        assert len([each for each in app.receiver.spans if each.scope == "byline"]) == 1
        span.end()
    assert len([each for each in app.spans() if each.scope == "byline"]) == 2


def test_spans_are_held_for_a_bounded_time(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    with app.request():
        span = in_other_context(lambda: app.tracer("openinference.x").start_span("ChatOpenAI"))
        app.call()
        monkeypatch.setattr(call_spans, "_TIMEOUT", -1.0)
        byline.flush()
        assert [each.scope for each in app.receiver.spans] == ["byline"]
        span.set_attributes(OPENINFERENCE)
        span.end()
    assert len(tokens(app.spans())) == 1


def test_no_span_waits_for_a_clock_that_was_set_back(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    with app.request():
        span = in_other_context(lambda: app.tracer("openinference.x").start_span("ChatOpenAI"))
        app.call()
        monkeypatch.setattr(call_spans, "time", SimpleNamespace(time_ns=lambda: 0))
        byline.flush()
        assert [each.scope for each in app.receiver.spans] == ["byline"]
        span.end()


class CutStream:
    """A stream that the app has left after its first chunk, below a span that has ended then.

    LiteLLM with OpenInference: nobody closes the response before the garbage collector does.
    """

    def __init__(self, app: App, **attributes: Any) -> None:
        app.gateway.hold(after=3)
        self._app = app
        tracer = app.tracer("openinference.instrumentation.litellm")
        body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "Who wrote this?"}]}
        self._client = client = httpx2.Client()
        with app.request(), tracer.start_as_current_span("completion") as span:
            request = client.build_request("POST", f"{app.gateway.base_url}/chat/completions", json=body)
            self._response = client.send(request, stream=True)
            self._chunks = self._response.iter_raw()
            for _ in range(2):
                next(self._chunks)
            span.set_attributes({"openinference.span.kind": "LLM", "llm.model_name": MODEL, **attributes})

    def close(self) -> None:
        self._response.close()
        self._app.gateway.release()
        self._client.close()

    def read(self) -> None:
        self._app.gateway.release()
        for _ in self._chunks:
            pass
        self.close()


def own_and_other(spans: list[ReceivedSpan]) -> tuple[list[ReceivedSpan], list[ReceivedSpan]]:
    return [each for each in spans if each.scope == "byline"], [each for each in spans if each.scope != "byline"]


@pytest.mark.parametrize("ends_in_thread", [False, True])
def test_a_span_that_ends_long_before_the_response(monkeypatch: pytest.MonkeyPatch, *, ends_in_thread: bool) -> None:
    """The span waits for the result, also if the destination sends spans meanwhile."""
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    with running() as app:
        stream = CutStream(app)
        app.tracer("app").start_span("later", attributes={"gen_ai.operation.name": "execute_tool"}).end()
        assert [each.name for each in app.receiver.wait_for(1, timeout=60)] == ["later"]
        if ends_in_thread:
            thread = threading.Thread(target=stream.close)
            thread.start()
            thread.join()
        else:
            stream.close()
        _, span = app.spans()
    assert span.scope == "openinference.instrumentation.litellm"
    assert span.attributes["byline.stream.cut"] == "app"
    assert span.attributes["gen_ai.response.id"].startswith("gen-")


# The httpx2 of Python 3.10 (2.14) keeps a request whose stream was cut in a cycle of its own, and with it the span.
@pytest.mark.newest
def test_spans_of_one_call_that_no_destination_selects_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the garbage collector, which an app may have switched off."""
    start = call_spans.start_span
    states: list[weakref.ref[Any]] = []

    def remember(state: Any, span: Any, destinations: int) -> None:
        states.append(weakref.ref(state))
        start(state, span, destinations)

    monkeypatch.setattr(call_spans, "start_span", remember)
    with running(lambda _: False) as app:
        gc.disable()
        try:
            stream = CutStream(app)
            stream.close()
            del stream
            assert app.spans() == []
            assert [each() for each in states] == [None] * 3
        finally:
            gc.enable()


def test_a_flush_does_not_wait_for_the_response(app: App) -> None:
    """The span takes the beginning of the response, and is the only one of the call."""
    stream = CutStream(app)
    assert byline.flush()
    (sent,) = app.receiver.spans
    assert sent.scope == "openinference.instrumentation.litellm"
    assert sent.attributes["gen_ai.response.id"].startswith("gen-")
    stream.close()
    assert len(app.spans()) == 1


def test_a_response_that_is_never_closed(app: App) -> None:
    stream = CutStream(app)
    (sent,) = app.spans()
    assert sent.scope == "openinference.instrumentation.litellm"
    assert sent.attributes["gen_ai.response.id"].startswith("gen-")
    stream.close()


def test_a_response_that_is_closed_too_late(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    monkeypatch.setattr(call_spans, "_TIMEOUT", -1.0)
    with running() as impatient:
        stream = CutStream(impatient)
        (sent,) = impatient.receiver.wait_for(1, timeout=60)
        assert sent.scope == "openinference.instrumentation.litellm"
        stream.close()
        assert len(impatient.spans()) == 1


def test_usage_that_comes_after_the_export_of_the_other_span(app: App) -> None:
    """Two spans, of which one has the tokens and the cost: a call without them would be missing on the bill."""
    stream = CutStream(app)
    assert byline.flush()
    stream.read()
    (own,), (other,) = own_and_other(app.spans())
    assert len(tokens([own])) == len(costs([own])) == 1
    assert (tokens([other]), costs([other])) == ([], [])


def test_usage_that_the_exported_span_has_stated(app: App) -> None:
    """It is not stated once more."""
    stream = CutStream(app, **{"llm.token_count.prompt": 10, "llm.token_count.completion": 8})
    assert byline.flush()
    stream.read()
    own, other = own_and_other(app.spans())
    assert (len(own), tokens(other)) == (0, [(10, 8)])


def test_a_worker_that_looks_while_a_span_ends(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the end of a span and its comparison with others, neither of two spans of one call leaves."""
    compare, start = call_spans._compare_spans, call_spans.start_span
    states: dict[bool, Any] = {}
    looked: list[tuple[str, bool, bool]] = []

    def remember(state: Any, span: Any, destinations: int) -> None:
        states[span.instrumentation_scope.name == "byline"] = state
        start(state, span, destinations)

    def look_first(state: Any, span: Any) -> None:
        scope = span.instrumentation_scope.name
        looked.append((scope, call_spans.is_provisional(states[True]), call_spans.is_provisional(states[False])))
        compare(state, span)

    monkeypatch.setattr(call_spans, "start_span", remember)
    monkeypatch.setattr(call_spans, "_compare_spans", look_first)
    with app.request(), app.tracer("openinference.x").start_as_current_span("completion") as span:
        app.call()
        span.set_attributes(OPENINFERENCE)
    assert looked[1] == ("openinference.x", True, False)
    looked.clear()
    CutStream(app).close()
    assert looked[1] == ("byline", False, True)
    assert {each.scope for each in app.spans()} == {"openinference.x", "openinference.instrumentation.litellm"}


def test_nodes_of_a_graph(app: App) -> None:
    """OpenLLMetry's spans of LangGraph: nodes are no model calls."""
    tracer = app.tracer("opentelemetry.instrumentation.langchain")
    task = {"gen_ai.operation.name": "execute_task", "traceloop.span.kind": "task"}
    with app.request(), started(tracer, "execute_task ask", **task):
        chat = in_other_context(lambda: tracer.start_span("ChatOpenAI.chat", attributes=CHAT))
        body = app.call()
        chat.end()
    spans = app.spans()
    assert tree(spans) == {None: ["execute_task ask"], "execute_task ask": ["Generate"]}
    assert types(spans) == {"execute_task ask": "chain", "Generate": "generation"}
    assert (costs(spans), tokens(spans)) == ([body["usage"]["cost"]], usage_of(body))


def test_operations_that_nobody_knows(app: App) -> None:
    """They are model calls if no model call is below or above, and no other span has stated their response."""
    tracer = app.tracer("opentelemetry.instrumentation.genai.openai")
    reply: Any = {"gen_ai.response.id": "r-1", "gen_ai.response.model": "gpt-4o", **TOKENS}
    with app.request():
        with (
            tracer.start_as_current_span("turn", attributes={"gen_ai.operation.name": "handle_turn", **TOKENS}),
            tracer.start_as_current_span("chat", attributes={**CHAT, **reply}),
        ):
            tracer.start_span("below", attributes={"gen_ai.operation.name": "stage", **TOKENS}).end()
        tracer.start_span("again", attributes={"gen_ai.operation.name": "fetch_response", **reply}).end()
        other: Any = {**reply, "gen_ai.response.id": "r-2", "gen_ai.operation.name": "fetch_response"}
        tracer.start_span("stored", attributes=other).end()
    spans = app.spans()
    assert types([span for span in spans if span.name != "Generate"]) == {
        "turn": "span",
        "below": "span",
        "again": "span",
    }
    assert tokens(spans) == [(10, 8)] * 2
    assert len(generations(spans)) == 2


def test_a_turn_with_calls_that_no_instrumentation_sees(app: App) -> None:
    """An unknown operation around calls keeps neither their tokens nor their names."""
    tracer = app.tracer("opentelemetry.instrumentation.genai.openai")
    with app.request(), tracer.start_as_current_span("turn", attributes={"gen_ai.operation.name": "turn"}) as turn:
        bodies = [app.call(), app.call()]
        turn.set_attributes({"gen_ai.usage.input_tokens": 20, "gen_ai.usage.output_tokens": 16})
    spans = app.spans()
    assert tree(spans) == {None: ["turn"], "turn": ["Generate", "Generate"]}
    assert tokens(spans) == usage_of(*bodies)


def test_a_replaced_span_with_an_exported_child() -> None:
    """The child was sent with the id of byline's own span as its parent: that span is sent, as no model call."""
    with running("all") as app:
        tracer = app.tracer("openinference.instrumentation.langchain")
        with app.request():
            span = in_other_context(lambda: tracer.start_span("ChatOpenAI"))
            with httpx2.Client(transport=TracedTransport(app.tracer("http"))) as client:
                url, body = f"{app.gateway.base_url}/chat/completions", {"model": MODEL, "messages": []}
                client.post(url, json=body)
            byline.flush()
            span.set_attributes(OPENINFERENCE)
            span.end()
        spans = app.spans()
        assert tree(spans) == {
            None: ["POST /chat"],
            "POST /chat": ["Generate", "chat openai/gpt-4o"],
            "chat openai/gpt-4o": ["POST"],
        }
        assert types(spans)["chat openai/gpt-4o"] == "span"
        assert len(tokens(spans)) == len(costs(spans)) == 1


class TracedTransport(httpx2.HTTPTransport):
    """Makes a span of each HTTP exchange, as OpenTelemetry's instrumentation does."""

    def __init__(self, tracer: trace.Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        with self._tracer.start_as_current_span("POST", kind=SpanKind.CLIENT):
            return super().handle_request(request)


#: What xai-sdk 1.21.0 writes onto its span, which stands for a call over gRPC.
XAI: dict[str, Any] = {
    "gen_ai.response.id": "r-1",
    "gen_ai.response.model": "grok-4",
    "gen_ai.usage.input_tokens": 100,
    "gen_ai.usage.output_tokens": 50,
    "gen_ai.usage.reasoning_tokens": 30,
    "gen_ai.usage.total_tokens": 180,
    "gen_ai.usage.cached_prompt_text_tokens": 40,
    "gen_ai.usage.prompt_text_tokens": 100,
    "gen_ai.usage.prompt_image_tokens": 0,
}


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"gen_ai.usage.cost_in_usd_ticks": 12_000_000}, {"output_tokens": 80, "cost": 0.0012, "source": "response"}),
        ({}, {"output_tokens": 80, "cost": None, "source": None}),
        ({"gen_ai.usage.cost_in_usd_ticks": -1}, {"output_tokens": 80, "cost": None, "source": None}),
        ({"gen_ai.usage.output_tokens": 80}, {"output_tokens": 80, "cost": None, "source": None}),
    ],
)
@pytest.mark.parametrize("scope", ["xai_sdk.sync.chat", "xai_sdk.aio.chat"])
def test_usage_of_a_span_of_xais_sdk(scope: str, stated: dict[str, Any], expected: dict[str, Any]) -> None:
    """Reasoning is part of the output, and the cost is in USD, on the one span of the call."""
    with running() as app, app.request():
        with app.tracer(scope).start_as_current_span("chat.sample grok-4", attributes=CHAT) as span:
            span.set_attributes({**XAI, **stated})
        (found,) = app.spans()
    attributes = found.attributes
    assert {
        "output_tokens": attributes["gen_ai.usage.output_tokens"],
        "cost": attributes.get("gen_ai.usage.cost"),
        "source": attributes.get("byline.cost.source"),
    } == expected
    assert attributes["gen_ai.usage.reasoning.output_tokens"] == 30
    assert attributes["session.id"] == "s-1"
    usage = json.loads(attributes["langfuse.observation.usage_details"])
    total = usage.pop("total")
    assert (total, sum(usage.values())) == (180, 180)
    assert usage["input_cached_tokens"] == 40


def test_such_counts_of_other_scopes_stay() -> None:
    """Other instrumentations may mean something else by these names."""
    with running() as app, app.request():
        with app.tracer("xai_sdk_of_mine").start_as_current_span("chat", attributes=CHAT) as span:
            span.set_attributes(XAI)
        (found,) = app.spans()
    assert found.attributes["gen_ai.usage.output_tokens"] == 50


def test_a_span_of_xais_sdk_with_a_count_that_is_no_number(app: App) -> None:
    with app.request(), app.tracer("xai_sdk.sync.chat").start_as_current_span("chat", attributes=CHAT) as span:
        span.set_attributes({**XAI, "gen_ai.usage.input_tokens": "many"})
    (found,) = app.spans()
    assert found.attributes["gen_ai.usage.output_tokens"] == 50
