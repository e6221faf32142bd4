"""The variants of the end-to-end measurement: how each is set up, as its own documentation has it, and what it sends.

A variant with packages of its own runs in its own virtual environment. All use the same versions of FastAPI, uvicorn
and the OpenAI SDK. The app reads session and user of a request by hand for those that take them from the app's code.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import Any, Final, Literal, NamedTuple

#: What all environments have in the version of this one.
_SHARED: Final = ("fastapi", "starlette", "uvicorn", "uvicorn-worker", "gunicorn", "openai", "pydantic")


class App:
    """The app of a variant while it is set up.

    Attributes:
        asgi: The FastAPI app.
        url: The variant's receiver, without a path.
        client: The client of the OpenAI SDK that the app uses.
        session: Makes the context of a model call, from session and user.
    """

    def __init__(self, asgi: Any, url: str, client: Any) -> None:
        self.asgi = asgi
        self.url = url
        self.client = client
        self.session: Callable[[str, str], AbstractContextManager[Any]] = lambda session, user: nullcontext()


class Variant(NamedTuple):
    """A way to trace the app.

    Attributes:
        name: The name of its environment.
        title: The name in the table.
        set_up: Sets the app up.
        packages: The packages of its environment; none for a variant that runs in this one.
        sends: The spans that the receiver must have got for each request with a model call: ``server`` and ``llm``
            spans, LLM spans with the ``session``, and with the ``content`` of the prompt.
        is_in_response: Whether the response has the session in a header; the variant makes no spans.
    """

    name: str
    title: str
    set_up: Callable[[App], None]
    packages: tuple[str, ...] = ()
    sends: frozenset[str] = frozenset()
    is_in_response: bool = False

    @property
    def all_packages(self) -> tuple[str, ...]:
        """The packages of its environment with those that all variants share."""
        return (*self.packages, *(f"{name}=={version(name)}" for name in _SHARED))


def _nothing(app: App) -> None:
    """Leave the app as it is."""


def _correlation_id(app: App) -> None:
    module: Any = importlib.import_module("asgi_correlation_id")
    app.asgi.add_middleware(module.CorrelationIdMiddleware, header_name="x-session-id", validator=None)


def _opentelemetry(app: App, *processors: Any) -> None:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    for processor in (*processors, BatchSpanProcessor(OTLPSpanExporter(f"{app.url}/v1/traces"))):
        provider.add_span_processor(processor)
    # FastAPI makes the server span as soon as there is a provider.
    trace.set_tracer_provider(provider)


def _with_llm_spans(app: App, *processors: Any) -> None:
    _opentelemetry(app, *processors)
    module: Any = importlib.import_module("opentelemetry.instrumentation.genai.openai")
    module.OpenAIInstrumentor().instrument()


def _by_hand(app: App) -> None:
    from tests.benchmarks.by_hand import HandMiddleware, HandProcessor

    _with_llm_spans(app, HandProcessor())
    app.asgi.add_middleware(HandMiddleware)


def _byline(
    spans: Literal["llm", "all"] | None, *, over: bool = False, capture_content: bool = False
) -> Callable[[App], None]:
    def set_up(app: App) -> None:
        import byline
        from byline.asgi import AttributionMiddleware

        if over:
            _with_llm_spans(app)
        destinations = [] if spans is None else [byline.destinations.OTLP(f"{app.url}/own/v1/traces", spans=spans)]
        byline.instrument(destinations=destinations, capture_content=capture_content)
        app.asgi.add_middleware(AttributionMiddleware)

    return set_up


def _openinference(app: App) -> None:
    _opentelemetry(app)
    instrumentor: Any = importlib.import_module("openinference.instrumentation.openai")
    instrumentor.OpenAIInstrumentor().instrument()
    module: Any = importlib.import_module("openinference.instrumentation")
    app.session = lambda session, user: module.using_attributes(session_id=session, user_id=user)


def _langfuse(app: App) -> None:
    module: Any = importlib.import_module("langfuse")
    module.Langfuse(public_key="pk-lf-1", secret_key="sk-lf-1", base_url=app.url)
    wrapped: Any = importlib.import_module("langfuse.openai")
    app.client = wrapped.AsyncOpenAI(base_url=app.client.base_url, api_key=app.client.api_key)
    app.session = lambda session, user: module.propagate_attributes(session_id=session, user_id=user)


def _logfire(app: App) -> None:
    module: Any = importlib.import_module("logfire")
    module.configure(
        token="pylf_v1_local_1",
        console=False,
        inspect_arguments=False,
        advanced=module.AdvancedOptions(base_url=app.url),
    )
    module.instrument_fastapi(app.asgi)
    module.instrument_openai()
    app.session = lambda session, user: module.set_baggage(session_id=session, user_id=user)


def _traceloop(app: App) -> None:
    module: Any = importlib.import_module("traceloop.sdk")
    module.Traceloop.init(app_name="app", api_endpoint=app.url, api_key="k", telemetry_enabled=False)

    def session(session: str, user: str) -> AbstractContextManager[Any]:
        module.Traceloop.set_association_properties({"session_id": session, "user_id": user})
        return nullcontext()

    app.session = session


def _langsmith(app: App) -> None:
    os.environ |= {"LANGSMITH_TRACING": "true", "LANGSMITH_API_KEY": "k", "LANGSMITH_ENDPOINT": app.url}
    app.client = importlib.import_module("langsmith.wrappers").wrap_openai(app.client)
    middleware: Any = importlib.import_module("langsmith.middleware")
    app.asgi.add_middleware(middleware.TracingMiddleware)
    module: Any = importlib.import_module("langsmith")
    app.session = lambda session, user: module.tracing_context(metadata={"session_id": session, "user_id": user})


_LLM: Final = frozenset({"llm", "session"})
_ALL: Final = _LLM | {"server"}
_CONTENT: Final = frozenset({"content"})
BASE: Final = "opentelemetry"
VARIANTS: Final = (
    Variant("bare", "no tracing", _nothing),
    Variant(
        "correlation-id",
        "asgi-correlation-id",
        _correlation_id,
        ("asgi-correlation-id==5.0.1",),
        is_in_response=True,
    ),
    Variant(BASE, "OpenTelemetry", _opentelemetry, sends=frozenset({"server"})),
    Variant("genai", "OpenTelemetry, GenAI spans", _with_llm_spans, sends=frozenset({"server", "llm"})),
    Variant("by-hand", "the same, ids by hand", _by_hand, sends=_ALL),
    Variant("byline-over", "byline over it", _byline(None, over=True), sends=_ALL),
    Variant("byline-over-llm", 'byline over it, own "llm"', _byline("llm", over=True), sends=_ALL),
    Variant("byline-over-all", 'byline over it, own "all"', _byline("all", over=True), sends=_ALL),
    Variant("byline-llm", 'byline, "llm"', _byline("llm"), sends=_LLM),
    Variant("byline-content", 'byline, "llm", content', _byline("llm", capture_content=True), sends=_LLM | _CONTENT),
    Variant("byline-all", 'byline, "all"', _byline("all"), sends=_ALL),
    Variant(
        "openinference",
        "OpenInference",
        _openinference,
        ("openinference-instrumentation-openai==0.1.66",),
        _ALL | _CONTENT,
    ),
    Variant("langfuse", "Langfuse's SDK", _langfuse, ("langfuse==5.0.4",), _LLM | _CONTENT),
    Variant("logfire", "Logfire", _logfire, ("logfire[fastapi]==5.4.0",), _ALL | _CONTENT),
    Variant("traceloop", "Traceloop", _traceloop, ("traceloop-sdk==0.62.4", "httpx==0.28.1"), _ALL | _CONTENT),
    Variant("langsmith", "LangSmith", _langsmith, ("langsmith==0.15.1",), _LLM | _CONTENT),
)
