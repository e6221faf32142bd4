"""``python -m tests.matrix.vendors VENDOR FILE ORDER [CALLBACK]``: one request, with a vendor's own set-up and byline.

``ORDER`` says when the vendor's set-up runs: ``before`` or ``after`` `byline.instrument`, or ``environment``: before,
and byline takes its destinations from an environment that names the vendor's endpoint. ``later``: as ``environment``,
but the set-up runs between two requests.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx2
from opentelemetry import trace
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import byline
from byline.asgi import AttributionMiddleware
from byline.destinations import Langfuse
from byline.gateways import OpenRouter
from byline.testing import Gateway, ReceivedSpan, Receiver
from tests.matrix.cells import Cell

_OPENAI: Final = "openai==3.57.0"
#: Cell of each vendor. ``settles``: seconds that its threads take.
VENDORS: Final = (
    Cell(
        "phoenix",
        "Phoenix, register()",
        ("arize-phoenix-otel", "openinference-instrumentation-openai"),
        (_OPENAI, "arize-phoenix-otel==0.17.2", "openinference-instrumentation-openai==0.1.66"),
    ),
    Cell("logfire-setup", "Logfire, configure()", ("logfire",), (_OPENAI, "logfire==5.4.0")),
    Cell("traceloop", "Traceloop, init()", ("traceloop-sdk",), (_OPENAI, "httpx==0.28.1", "traceloop-sdk==0.62.4")),
    Cell("langfuse-setup", "Langfuse's SDK", ("langfuse",), (_OPENAI, "langfuse==5.0.4")),
    Cell("langsmith", "LangSmith, OpenTelemetry", ("langsmith",), (_OPENAI, "langsmith[otel]==0.15.1"), settles=3.0),
    Cell("sentry", "Sentry", ("sentry-sdk",), (_OPENAI, "sentry-sdk==2.75.0")),
    Cell("ddtrace", "ddtrace, DD_TRACE_OTEL_ENABLED", ("ddtrace",), (_OPENAI, "ddtrace==4.16.0")),
)
#: LiteLLM's callbacks below FastAPI's own span of an endpoint, onto which they write the call.
LITELLM: Final = Cell(
    "litellm-fastapi",
    "LiteLLM SDK in FastAPI",
    ("litellm", "fastapi"),
    ("litellm[mcp]==1.106.2", "openai==2.54.0", "fastapi==0.165.0"),
    settles=3.0,
)
CALLBACKS: Final = ("otel", "langfuse_otel")
ORDERS: Final = ("before", "after", "environment")
_SESSION: Final = "s-1"
_CALLBACK_SECONDS: Final = 60


def _phoenix(url: str) -> None:
    module: Any = importlib.import_module("phoenix.otel")
    module.register(endpoint=f"{url}/v1/traces", protocol="http/protobuf", verbose=False)
    instrumentor: Any = importlib.import_module("openinference.instrumentation.openai")
    instrumentor.OpenAIInstrumentor().instrument()


def _logfire(url: str) -> None:
    # Logfire sends to this endpoint itself.
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = url
    module: Any = importlib.import_module("logfire")
    module.configure(send_to_logfire=False, console=False, metrics=False, service_name="app")
    module.instrument_openai()


def _traceloop(url: str) -> None:
    os.environ["TRACELOOP_METRICS_ENABLED"] = "false"
    module: Any = importlib.import_module("traceloop.sdk")
    module.Traceloop.init(app_name="app", api_endpoint=url, api_key="k", disable_batch=True, telemetry_enabled=False)


def _langfuse(url: str) -> None:
    module: Any = importlib.import_module("langfuse")
    module.Langfuse(public_key="pk-lf-1", secret_key="sk-lf-1", base_url=url)


def _langsmith(url: str) -> None:
    names = ("LANGSMITH_TRACING", "LANGSMITH_OTEL_ENABLED", "LANGSMITH_OTEL_ONLY")
    os.environ.update({**dict.fromkeys(names, "true"), "LANGSMITH_API_KEY": "k", "LANGSMITH_ENDPOINT": url})
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = url


def _sentry(url: str) -> None:
    module: Any = importlib.import_module("sentry_sdk")
    module.init(dsn=f"{url.replace('http://', 'http://k@')}/1", traces_sample_rate=1.0)


def _ddtrace(_: str) -> None:
    os.environ |= {"DD_TRACE_OTEL_ENABLED": "true", "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false"}
    importlib.import_module("ddtrace.auto")
    module: Any = importlib.import_module("ddtrace.opentelemetry")
    trace.set_tracer_provider(module.TracerProvider())


def _litellm(url: str) -> None:
    # Else it fetches its price list from the internet.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ |= {"LANGFUSE_PUBLIC_KEY": "pk-lf-1", "LANGFUSE_SECRET_KEY": "sk-lf-1", "LANGFUSE_OTEL_HOST": url}
    module: Any = importlib.import_module("litellm")
    module.callbacks = sys.argv[4:]


SETUPS: Final[dict[str, Callable[[str], None]]] = {
    "phoenix": _phoenix,
    "logfire-setup": _logfire,
    "traceloop": _traceloop,
    "langfuse-setup": _langfuse,
    "langsmith": _langsmith,
    "sentry": _sentry,
    "ddtrace": _ddtrace,
    LITELLM.name: _litellm,
}


async def _wait_for_attributes(span: Any, present: set[str]) -> None:
    while set(span.attributes) == present:
        await asyncio.sleep(0.01)


async def ask(vendor: str, gateway: Gateway) -> int:
    """Send one request to an app that calls a model, and return the status of its response."""
    openai: Any = importlib.import_module("openai")
    messages = [{"role": "user", "content": "hi"}]

    async def chat(request: Request) -> Response:
        await request.body()
        if vendor == LITELLM.name:
            litellm: Any = importlib.import_module("litellm")
            endpoint: Any = trace.get_current_span()
            present = set(endpoint.attributes)
            await litellm.acompletion(
                model="openai/openai/gpt-4o",
                messages=messages,
                api_base=gateway.base_url,
                api_key="sk-or-v1-0123456789",
            )
            # The callback's task writes onto the span while the endpoint does other work.
            await asyncio.wait_for(_wait_for_attributes(endpoint, present), _CALLBACK_SECONDS)
            return Response()
        client = openai.AsyncOpenAI(base_url=gateway.base_url, api_key="sk-or-v1-0123456789")
        if vendor == "langsmith":
            client = importlib.import_module("langsmith.wrappers").wrap_openai(client)
        await client.chat.completions.create(model="openai/gpt-4o", messages=messages)
        return Response()

    app: Any = Starlette(routes=[Route("/chat", chat, methods=["POST"])])
    if vendor == LITELLM.name:
        app = importlib.import_module("fastapi").FastAPI()
        app.post("/chat")(chat)
    app = AttributionMiddleware(app)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://app") as client:
        return (await client.post("/chat", json={"session_id": _SESSION, "user": "ada"})).status_code


def arrived(spans: list[ReceivedSpan]) -> dict[str, Any]:
    """Count the spans that arrived: model calls, those with session and cost, server spans, and repeated ids."""
    calls = [span for span in spans if "gen_ai.usage.cost" in span.attributes]
    return {
        "calls": sum(span.kind != "SERVER" for span in spans),
        "signed": sum(span.attributes.get("session.id") == _SESSION for span in calls),
        "servers": sum(span.kind == "SERVER" for span in spans),
        "twice": len(spans) - len({span.span_id for span in spans}),
    }


class _Ids(logging.Handler):
    """Collects the ids of byline's messages."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found += re.findall(r"byline\.(E\d+)", record.getMessage())


def main() -> None:
    """Run one vendor."""
    vendor, target, order = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    for name in [name for name in os.environ if name.startswith(("OTEL_", "LANGFUSE_", "OPENAI_", "BYLINE_"))]:
        del os.environ[name]
    logging.getLogger("byline").addHandler(ids := _Ids())
    with Gateway() as gateway, Receiver() as theirs, Receiver() as ours:
        url = theirs.url.rstrip("/")
        if from_environment := order not in ("before", "after"):
            os.environ |= {"LANGFUSE_PUBLIC_KEY": "pk-lf-2", "LANGFUSE_SECRET_KEY": "sk-lf-2"}
            os.environ["LANGFUSE_BASE_URL"] = ours.url
            if vendor == "langfuse-setup":
                # The project is the SDK's; the server has another URL here, which tells who sends.
                os.environ["LANGFUSE_PUBLIC_KEY"] = "pk-lf-1"
            else:
                os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = url
        if order in ("before", "environment"):
            SETUPS[vendor](url)
        destinations = None if from_environment else [Langfuse("pk-lf-2", "sk-lf-2", ours.url)]
        byline.instrument(destinations=destinations, gateways=[OpenRouter(gateway.base_url)])
        if order == "after":
            SETUPS[vendor](url)
        cell = next(cell for cell in (*VENDORS, LITELLM) if cell.name == vendor)
        if order == "later":
            asyncio.run(ask(vendor, gateway))
            byline.flush()
            SETUPS[vendor](url)
        status = asyncio.run(ask(vendor, gateway))
        time.sleep(cell.settles)
        byline.flush()
        provider: Any = trace.get_tracer_provider()
        if hasattr(provider, "force_flush"):
            provider.force_flush()
        found = {
            "status": status,
            "vendor": arrived(theirs.spans),
            "byline": arrived(ours.spans),
            "costs": [span.name for span in ours.spans if "gen_ai.usage.cost" in span.attributes],
            "ids": ids.found,
            "stats": byline.stats(),
        }
        target.write_text(json.dumps(found, indent=1))
    # Threads that an SDK left behind are not waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
