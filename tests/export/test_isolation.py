"""Isolation: no value of one request is on another request's span, also if gateways repeat response ids."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import SpanKind

import byline
from byline import asgi, wsgi
from byline.export import OTLP, Langfuse
from byline.testing import ReceivedSpan, Receiver
from tests.support import Sent, claim, run_asgi, run_wsgi

CACHED = {
    "id": "chatcmpl-cached",
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "answer"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    byline.uninstrument()


class DropSome(Sampler):
    """Drops the traces of the named routes."""

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *args: Any, **kwargs: Any) -> SamplingResult:
        return SamplingResult(Decision.DROP if "dropped" in name else Decision.RECORD_AND_SAMPLE)

    def get_description(self) -> str:
        return "DropSome"


def ask_in_request(provider: TracerProvider, client: httpx2.Client, route: str, fields: dict[str, Any]) -> None:
    with (
        byline.bound(**fields),
        provider.get_tracer("app").start_as_current_span(f"POST {route}", kind=SpanKind.SERVER),
    ):
        client.post("http://localhost:1/v1/chat/completions", json={"model": "m", "messages": []})


def values_of(attributes: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: attributes[key] for key in keys if key in attributes}


def test_an_anonymous_call_with_a_cached_reply_carries_no_earlier_callers_values() -> None:
    """The owner's attribution must not wait under the id of a reply, which a gateway's cache repeats."""
    provider = TracerProvider(sampler=ParentBased(DropSome()), shutdown_on_exit=False)
    with (
        Receiver() as receiver,
        httpx2.Client(transport=httpx2.MockTransport(lambda _: httpx2.Response(200, json=CACHED))) as client,
    ):
        byline.instrument(tracer_provider=provider, destinations=[OTLP(receiver.url)])
        for number in range(3):
            named = {"user_id": f"user-{number}", "session_id": f"s-{number}", "metadata": {"iban": f"DE{number}"}}
            ask_in_request(provider, client, "/dropped", named)
            ask_in_request(provider, client, "/anonymous", {})
        byline.flush()
        calls = [span for span in receiver.spans if span.kind == "CLIENT"]
    assert len(calls) == 3
    strange = ("user.id", "session.id", "langfuse.trace.metadata.iban")
    assert [values_of(span.attributes, strange) for span in calls] == [{}, {}, {}]


# --- Many tenants at once ---

HOSTS: Final = {"plain": "llm.internal", "litellm": "litellm.internal", "broadcasting": "broadcasting.internal"}
STEPS: Final = (
    "call",
    "gather",
    "stream",
    "instrumented",
    "ended_before_reply",
    "late_span",
    "thread",
    "thread_with_context",
    "thread_with_otel_context",
    "part",
)
MARK: Final = re.compile(r"t\d+t")
TRACEPARENT: Final = f"00-{0xC0FFEE:032x}-{0xBEEF:016x}-01"
CHAT_SPAN: Final = {"gen_ai.operation.name": "chat"}


class RepeatingIds(IdGenerator):
    """Draws span ids from 50 numbers, which all traces share."""

    def __init__(self) -> None:
        self._span_ids = itertools.cycle(range(1, 51))
        self._trace_ids = itertools.count(1)

    def generate_span_id(self) -> int:
        return next(self._span_ids)

    def generate_trace_id(self) -> int:
        return next(self._trace_ids) << 64 | 1


@dataclass(frozen=True)
class Tenant:
    """One request; all its values contain a mark of its own."""

    door: Literal["asgi", "wsgi", "job"]
    steps: tuple[str, ...]
    gateway: str
    is_anonymous: bool
    is_dropped: bool
    has_server_span: bool
    shares_traceparent: bool
    shares_trace_id: bool
    inner: Tenant | None = None


def tenants() -> st.SearchStrategy[Tenant]:
    def build(inner: st.SearchStrategy[Tenant | None], booleans: st.SearchStrategy[bool]) -> st.SearchStrategy[Tenant]:
        return st.builds(
            Tenant,
            door=st.sampled_from(["asgi", "wsgi", "job"]),
            steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=4).map(tuple),
            gateway=st.sampled_from(sorted(HOSTS)),
            is_anonymous=booleans,
            is_dropped=booleans,
            has_server_span=booleans,
            shares_traceparent=booleans,
            shares_trace_id=booleans,
            inner=inner,
        )

    return build(st.none() | build(st.none(), st.booleans()), st.booleans())


@dataclass
class Call:
    """One call to the model, and who made it."""

    mark: str
    tenant: Tenant
    #: Whether the context variables of its request were there.
    in_context: bool
    #: Whether a destination that records unsampled calls must get tokens and cost exactly once.
    must_arrive: bool


class World:
    """Runs the requests of many tenants side by side, against one simulated gateway.

    Attributes:
        calls: The calls by their number, which is also the number of their input tokens.
        sent: Headers and body of each HTTP request as the gateway received them.
    """

    def __init__(self, *, llm_spans: Literal["auto"] | bool) -> None:
        self.llm_spans = llm_spans
        self.calls: dict[int, Call] = {}
        self.sent: list[str] = []
        self._numbers = itertools.count(1)
        self._marks = itertools.count(1)
        self._tracer = trace.get_tracer_provider().get_tracer("tests.instrumentation")
        self._client = httpx2.Client(transport=httpx2.MockTransport(self._reply))
        self._async_client = httpx2.AsyncClient(transport=httpx2.MockTransport(self._reply_later))
        self._middlewares: dict[tuple[str, bool], Any] = {
            (door, spans): module.AttributionMiddleware(app, app_span="auto" if spans else False)
            for door, module, app in (("asgi", asgi, self._asgi_app), ("wsgi", wsgi, self._wsgi_app))
            for spans in (True, False)
        }

    def _reply(self, request: httpx2.Request) -> httpx2.Response:
        self.sent.append(f"{request.headers.raw!r} {request.content!r}")
        body = json.loads(request.content)
        reply = {
            **CACHED,
            "model": f"answer-{body['model']}",
            "usage": {"prompt_tokens": body["seed"], "completion_tokens": 1, "cost": body["seed"] / 8},
        }
        if not body.get("stream"):
            return httpx2.Response(200, json=reply)
        head = {**reply, "choices": [{"index": 0, "delta": {"content": "a"}}], "usage": None}
        end = {**reply, "choices": []}
        chunks = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in (head, end)] + [b"data: [DONE]\n\n"]
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=iter(chunks))

    async def _reply_later(self, request: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(0)
        return self._reply(request)

    # The requests

    def claims(self, tenant: Tenant, mark: str) -> dict[str, Any]:
        claims: dict[str, Any] = {}
        if not tenant.is_anonymous:
            claims = {
                "session_id": f"session-{mark}",
                "user_id": f"user-{mark}",
                "tags": [f"tag-{mark}"],
                "metadata": {"iban": f"IBAN-{mark}"},
                "span_name": "step",
                "environment": "even" if int(mark.strip("t")) % 2 == 0 else "odd",
            }
        if tenant.shares_trace_id:
            claims["trace_id"] = "shared"
        return claims

    def _request(self, tenant: Tenant, mark: str, *, is_inner: bool) -> Sent:
        claims = self.claims(tenant, mark)
        body: dict[str, Any] = {"trace": {key: claims[key] for key in claims.keys() & {"trace_id", "span_name"}}}
        body["trace"] |= {key: claims[key] for key in claims.keys() & {"environment", "tags"}}
        body |= {key: claims[key] for key in claims.keys() & {"metadata"}}
        headers = [(f"x-{name}", claims[key]) for name, key in _HEADERS.items() if key in claims]
        if tenant.shares_traceparent and not is_inner:
            headers.append(("traceparent", TRACEPARENT))
        return claim(body, headers=headers, path=f"/{'dropped' if tenant.is_dropped else 'kept'}/{mark}")

    async def run(self, tenant: Tenant, *, around: Tenant | None = None, mark: str = "") -> None:
        """Send the request of one tenant in this task."""
        mark = mark or f"t{next(self._marks)}t"
        token = _running.set((tenant, mark))
        try:
            if tenant.door == "asgi":
                sent = self._request(tenant, mark, is_inner=around is not None)
                result = await run_asgi(self._middlewares["asgi", tenant.has_server_span], sent)
                assert result.error is None
            elif around is None:
                await asyncio.to_thread(self._run_sync, tenant, mark, is_inner=False)
            else:
                self._run_sync(tenant, mark, is_inner=True)
        finally:
            _running.reset(token)

    def _run_sync(self, tenant: Tenant, mark: str, *, is_inner: bool) -> None:
        token = _running.set((tenant, mark))
        try:
            if tenant.door == "wsgi":
                sent = self._request(tenant, mark, is_inner=is_inner)
                result = run_wsgi(self._middlewares["wsgi", tenant.has_server_span], sent)
                assert result.error is None
            else:
                name = f"{'dropped' if tenant.is_dropped else 'kept'} {mark}"
                span: Any = contextlib.nullcontext()
                if tenant.has_server_span:
                    span = self._tracer.start_as_current_span(name, kind=SpanKind.SERVER)
                # A job in a request is a request of its own.
                around: Any = byline.unbound() if is_inner else contextlib.nullcontext()
                with around, byline.bound(**self.claims(tenant, mark)), span:
                    self._work(tenant, mark)
        finally:
            _running.reset(token)

    async def _asgi_app(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        tenant, mark = _running.get()
        for step in tenant.steps:
            if step == "gather":
                await asyncio.gather(self._call_async(tenant, mark), self._call_async(tenant, mark))
            else:
                self._step(step, tenant, mark)
                await asyncio.sleep(0)
        if tenant.inner is not None:
            await self.run(tenant.inner, around=tenant)
            self._step("call", tenant, mark)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def _wsgi_app(self, environ: Any, start_response: Any) -> Iterator[bytes]:
        environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        tenant, mark = _running.get()
        start_response("200 OK", [])
        yield b"first"
        self._work(tenant, mark)
        yield b"last"

    def _work(self, tenant: Tenant, mark: str) -> None:
        for step in tenant.steps:
            self._step(step, tenant, mark)
        if tenant.inner is not None and tenant.inner.door != "asgi":
            self._run_sync(tenant.inner, f"t{next(self._marks)}t", is_inner=True)
            self._step("call", tenant, mark)

    # The calls

    def _begin(self, tenant: Tenant, mark: str, *, arrives: bool = True, **body: Any) -> tuple[str, dict[str, Any]]:
        number = next(self._numbers)
        arrives = arrives and self.llm_spans is not False and tenant.gateway != "broadcasting"
        self.calls[number] = Call(mark, tenant, _running.get(None) is not None, arrives)
        url = f"http://{HOSTS[tenant.gateway]}/v1/chat/completions"
        return url, {"model": f"m-{mark}", "messages": [], "seed": number, **body}

    def _call(self, tenant: Tenant, mark: str, **options: Any) -> None:
        url, body = self._begin(tenant, mark, **options)
        assert self._client.post(url, json=body).status_code == 200

    async def _call_async(self, tenant: Tenant, mark: str) -> None:
        url, body = self._begin(tenant, mark)
        assert (await self._async_client.post(url, json=body)).status_code == 200

    def _stream(self, tenant: Tenant, mark: str, span: Any = None) -> None:
        url, body = self._begin(tenant, mark, stream=True)
        with self._client.stream("POST", url, json=body) as response:
            if span is not None:
                span.end()
            assert response.read()

    def _late_span(self, mark: str) -> None:
        attributes = {**CHAT_SPAN, "gen_ai.request.model": f"m-{mark}", "gen_ai.response.id": "chatcmpl-cached"}
        self._tracer.start_span(f"late {mark}", attributes=attributes).end()

    def _step(self, step: str, tenant: Tenant, mark: str) -> None:
        attributes = {**CHAT_SPAN, "gen_ai.request.model": f"m-{mark}"}
        if step in ("call", "gather"):
            self._call(tenant, mark)
        elif step == "stream":
            self._stream(tenant, mark)
        elif step == "instrumented":
            with self._tracer.start_as_current_span(f"chat {mark}", attributes=attributes):
                self._call(tenant, mark)
        elif step == "ended_before_reply":
            span = self._tracer.start_span(f"chat {mark}", attributes=attributes)
            with trace.use_span(span, end_on_exit=False):
                self._stream(tenant, mark, span)
        elif step == "late_span":
            self._call(tenant, mark)
            self._late_span(mark)
        elif step == "part":
            with byline.bound(tags=[f"part-{mark}"], span_name="part"):
                self._call(tenant, mark)
                with byline.bound(metadata={"part": mark}):
                    self._step("late_span", tenant, mark)
        elif step == "thread":
            run_in_thread(contextvars.Context(), self._work_in_thread, tenant, mark)
        elif step == "thread_with_context":
            run_in_thread(contextvars.copy_context(), self._work_in_thread, tenant, mark)
        else:
            context = otel_context.get_current()
            run_in_thread(contextvars.Context(), self._work_in_otel_context, context, tenant, mark)

    def _work_in_thread(self, tenant: Tenant, mark: str) -> None:
        self._call(tenant, mark)
        self._late_span(mark)

    def _work_in_otel_context(self, context: otel_context.Context, tenant: Tenant, mark: str) -> None:
        otel_context.attach(context)
        self._work_in_thread(tenant, mark)


_HEADERS: Final = {"session-id": "session_id", "litellm-end-user-id": "user_id"}
_running: contextvars.ContextVar[tuple[Tenant, str]] = contextvars.ContextVar("tests_running")


def run_in_thread(context: contextvars.Context, function: Callable[..., None], *args: Any) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            context.run(function, *args)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert errors == []


def marks_of(text: str) -> set[str]:
    return set(MARK.findall(text))


def text_of(span: ReceivedSpan | ReadableSpan) -> str:
    return f"{span.name} {dict(span.attributes or {})!r}"


def check_spans(spans: Sequence[ReceivedSpan | ReadableSpan], calls: dict[int, Call]) -> Counter[int]:
    """Assert that each span has values of one tenant only; return the calls with usage on the spans."""
    arrived: Counter[int] = Counter()
    for span in spans:
        assert len(marks_of(text_of(span))) <= 1, text_of(span)
        attributes = span.attributes or {}
        number = attributes.get("gen_ai.usage.input_tokens")
        if number is None:
            assert "gen_ai.usage.cost" not in attributes
            continue
        arrived[int(str(number))] += 1
        call = calls[int(str(number))]
        assert marks_of(text_of(span)) == {call.mark}
        if call.in_context and not call.tenant.is_anonymous:
            assert attributes["session.id"] == f"session-{call.mark}"
            assert attributes["user.id"] == f"user-{call.mark}"
        if "gen_ai.usage.cost" in attributes:
            assert attributes["gen_ai.usage.cost"] == int(str(number)) / 8
    return arrived


def check_isolation(
    tenants: Sequence[Tenant], llm_spans: Literal["auto"] | bool, receivers: dict[str, Receiver]
) -> None:
    """Run the requests side by side and compare all that leaves with the requests."""
    provider: Any = trace.get_tracer_provider()
    exporter = InMemorySpanExporter()
    own_exporter = SimpleSpanProcessor(exporter)
    for receiver in receivers.values():
        receiver.clear()
    with pytest.MonkeyPatch.context() as patch:
        drop_some = DropSome()
        patch.setattr(provider.sampler, "inner", ParentBased(drop_some, remote_parent_sampled=drop_some))
        patch.setattr(provider, "id_generator", RepeatingIds())
        byline.instrument(
            tracer_provider=provider,
            destinations=[
                Langfuse("pk-lf-x", "sk-lf-x", receivers["langfuse"].url, unsampled="record"),
                OTLP(receivers["all"].url, unsampled="record", spans="all"),
                OTLP(receivers["filtered"].url, unsampled="skip", environments=["even"], spans="llm"),
            ],
            gateways=[
                byline.gateways.LiteLLM(f"http://{HOSTS['litellm']}"),
                byline.gateways.OpenRouter(f"http://{HOSTS['broadcasting']}/v1", broadcasts=True),
            ],
            llm_spans=llm_spans,
        )
        # Added to the provider for this run only.
        processors = provider._active_span_processor
        patch.setattr(processors, "_span_processors", (*processors._span_processors, own_exporter))
        try:
            world = World(llm_spans=llm_spans)

            async def run_all() -> None:
                await asyncio.gather(*(world.run(tenant) for tenant in tenants))

            asyncio.run(run_all())
            assert byline.flush()
        finally:
            byline.uninstrument()
    for sent in world.sent:
        assert len(marks_of(sent)) == 1, sent
    arrived = {name: check_spans(receiver.spans, world.calls) for name, receiver in receivers.items()}
    arrived["own"] = check_spans(exporter.get_finished_spans(), world.calls)
    for numbers in arrived.values():
        assert all(count == 1 for count in numbers.values()), numbers
    for name in ("all", "langfuse"):
        lost = {
            number: call for number, call in world.calls.items() if call.must_arrive and number not in arrived[name]
        }
        assert lost == {}
    assert all(span.attributes.get("langfuse.environment") == "even" for span in receivers["filtered"].spans)


# A bigger run: pytest tests/export/test_isolation.py --hypothesis-profile=thorough
@pytest.fixture(scope="module")
def receivers() -> Iterator[dict[str, Receiver]]:
    with Receiver() as langfuse, Receiver() as everything, Receiver() as filtered:
        yield {"langfuse": langfuse, "all": everything, "filtered": filtered}


@given(requests=st.lists(tenants(), min_size=2, max_size=6), llm_spans=st.sampled_from(["auto", True, False]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_no_request_meets_another(requests: list[Tenant], llm_spans: Any, receivers: dict[str, Receiver]) -> None:
    check_isolation(requests, llm_spans, receivers)


@pytest.mark.parametrize("llm_spans", ["auto", True, False])
def test_no_request_meets_another_among_many(llm_spans: Any, receivers: dict[str, Receiver]) -> None:
    """Sixty requests of all kinds at once, the same in every run."""
    chosen = random.Random(7)

    def choose(*, is_inner: bool = False) -> Tenant:
        flags = ("is_anonymous", "is_dropped", "has_server_span", "shares_traceparent", "shares_trace_id")
        return Tenant(
            door=chosen.choice(("asgi", "wsgi", "job")),
            steps=tuple(chosen.choices(STEPS, k=3)),
            gateway=chosen.choice(sorted(HOSTS)),
            inner=None if is_inner or chosen.random() < 0.6 else choose(is_inner=True),
            **{flag: chosen.random() < 0.4 for flag in flags},
        )

    check_isolation([choose() for _ in range(60)], llm_spans, receivers)


def test_a_span_with_an_explicit_parent_belongs_to_the_request_of_the_parent(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    """A worker that one request has started makes the spans of all, as the callbacks of LangChain and LiteLLM do."""
    tracer = provider.get_tracer("tests.worker")
    with byline.bound(user_id="ada", session_id="s-ada"), tracer.start_as_current_span("job"):
        worker = contextvars.copy_context()
    with byline.bound(user_id="bob"), tracer.start_as_current_span("job") as job:
        parent = trace.set_span_in_context(job)
        span = worker.run(tracer.start_span, "chat", parent, attributes=CHAT_SPAN)
        span.end()
    chat = exporter.get_finished_spans()[-2]
    assert values_of(dict(chat.attributes or {}), ("user.id", "session.id")) == {"user.id": "bob"}


@pytest.mark.parametrize("is_current", [True, False])
def test_a_call_of_an_inner_request_leaves_the_llm_span_of_the_outer_one_alone(is_current: bool) -> None:
    """An app that sends a request to itself, without a server, while an LLM span is open."""
    provider: Any = trace.get_tracer_provider()
    exporter = InMemorySpanExporter()
    byline.instrument(tracer_provider=provider, destinations=[])
    client = httpx2.Client(transport=httpx2.MockTransport(lambda _: httpx2.Response(200, json=CACHED)))
    with pytest.MonkeyPatch.context() as patch:
        processors = provider._active_span_processor
        added = (*processors._span_processors, SimpleSpanProcessor(exporter))
        patch.setattr(processors, "_span_processors", added)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            client.post("http://localhost:1/v1/chat/completions", json={"model": "m", "messages": []})

        inner = claim(headers=[("x-session-id", "s-inner")])
        with byline.bound(user_id="outer"):
            span = provider.get_tracer("tests.outer").start_span("outer", attributes=CHAT_SPAN)
            with trace.use_span(span) if is_current else contextlib.nullcontext():
                asyncio.run(run_asgi(asgi.AttributionMiddleware(app, app_span=False), inner))
            span.end()
    spans = {span.name: dict(span.attributes or {}) for span in exporter.get_finished_spans()}
    keys = ("user.id", "session.id", "gen_ai.usage.input_tokens")
    assert values_of(spans["outer"], keys) == {"user.id": "outer"}
    assert values_of(spans["chat m"], keys) == {"session.id": "s-inner", "gen_ai.usage.input_tokens": 1}


def test_a_thread_of_an_inner_request_without_a_span_belongs_to_that_request(receivers: dict[str, Receiver]) -> None:
    """The thread has only OpenTelemetry's context, in which the server span of the outer request is current."""
    flags: dict[str, Any] = {
        "is_anonymous": False,
        "is_dropped": False,
        "shares_traceparent": False,
        "shares_trace_id": False,
    }
    doors: tuple[Literal["asgi", "wsgi"], ...] = ("asgi", "wsgi")
    for door in doors:
        inner = Tenant(door, ("thread_with_otel_context",), "litellm", has_server_span=False, **flags)
        outer = Tenant("asgi", ("call",), "litellm", has_server_span=True, inner=inner, **flags)
        check_isolation([outer], "auto", receivers)
