"""``python -m tests.matrix.scenario CELL FILE``: runs every scenario of one cell and writes what was exported.

Runs in the cell's own environment, where neither pytest nor the other cells' packages are.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import secrets
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import byline
from byline.gateways import OpenRouter
from byline.genai.pricing import prices
from byline.testing import Receiver
from tests.matrix import cells, setups
from tests.matrix.app import Answer, ask, make_app
from tests.matrix.provider import CountingGateway, total
from tests.matrix.scenarios import SCENARIOS, Scenario


async def run(scenario: Scenario, app: Any, gateway: CountingGateway, calls: Any) -> dict[str, Any]:
    """Run one scenario; return session and trace of each request, its response, and the gateway's requests."""
    method, before = scenario.method, len(gateway.usage)
    name = scenario.name.replace(" ", "-")
    asked = [(f"session-{name}-{number}", secrets.token_hex(16)) for number in range(scenario.requests)]
    if scenario.status is not None:
        gateway.fail(scenario.status, times=scenario.requests)
    if scenario.leaves:
        gateway.hold(after=3)
    answers: list[Answer] = await asyncio.wait_for(
        asyncio.gather(*(ask(app, method, session, trace, leaves=scenario.leaves) for session, trace in asked)), 30
    )
    if scenario.leaves:
        gateway.release()
    gc.collect()
    return {
        "requests": [
            {"session": session, "trace": trace, "ids": answer.ids, "error": answer.error}
            for (session, trace), answer in zip(asked, answers, strict=True)
        ],
        "calls": len(gateway.usage) - before,
        "provider": total(gateway.usage[before:]),
        "unsaid": getattr(calls, "unsaid", {}).get(method, []),
    }


async def run_all(cell: cells.Cell, gateway: CountingGateway) -> dict[str, Any]:
    """Run every scenario for which the SDK has an API."""
    calls = importlib.import_module(f"tests.matrix.sdks.{cell.sdk}").Calls(gateway.url)
    gateway.reply = getattr(calls, "reply", None)
    app = make_app(calls)
    done: dict[str, Any] = {}
    for scenario in SCENARIOS:
        if hasattr(calls, scenario.method):
            print(scenario.name, file=sys.stderr, flush=True)
            # One after the other without a pause: a late span belongs to its scenario by its trace.
            done[scenario.name] = await run(scenario, app, gateway, calls)
    return done


def shape_of(span: ReadableSpan) -> dict[str, Any]:
    """Return a span in memory in the shape of a received one, as far as the verdict looks at it."""
    context, scope = span.get_span_context(), span.instrumentation_scope
    return {
        "name": span.name,
        "trace_id": f"{context.trace_id:032x}" if context else "",
        "kind": span.kind.name,
        "status": span.status.status_code.name,
        "scope": scope.name if scope else "",
        "attributes": dict(span.attributes or {}),
    }


def main() -> None:
    """Run a cell."""
    cell, target = cells.find(sys.argv[1]), Path(sys.argv[2])
    for name in [name for name in os.environ if name.startswith(("OTEL_", "LANGFUSE_", "OPENAI_", "BYLINE_"))]:
        del os.environ[name]
    # Destinations send all the time, so that no verdict depends on the moment at which a batch leaves.
    os.environ["OTEL_BSP_SCHEDULE_DELAY"] = "20"
    with CountingGateway() as gateway, Receiver() as receiver, Receiver() as langfuse:
        setups.before(cell.name)
        destinations = [
            byline.destinations.OTLP(receiver.url, spans="all"),
            byline.destinations.Langfuse("pk-lf-matrix", "sk-lf-matrix", base_url=langfuse.url),
        ]
        byline.instrument(
            destinations=destinations, gateways=[OpenRouter(gateway.base_url)], capture_content=cell.is_agent
        )
        # An exporter of the app's own, which byline knows nothing of.
        others = InMemorySpanExporter()
        provider: Any = trace.get_tracer_provider()
        provider.add_span_processor(SimpleSpanProcessor(others))
        setups.after(cell.name)
        # No exporter but byline's gets an estimate that comes after the span has ended, as that of a first call may.
        prices.load()
        done = asyncio.run(run_all(cell, gateway))
        gc.collect()
        if cell.settles:
            time.sleep(cell.settles)
        byline.flush()
        spans = [span._asdict() for span in receiver.spans]
        found = {
            "cell": cell.name,
            "versions": {name: version(name) for name in cell.shown},
            "scenarios": done,
            "spans": spans,
            "langfuse": [span._asdict() for span in langfuse.spans],
            "others": [shape_of(span) for span in others.get_finished_spans()],
            "stats": byline.stats(),
        }
        target.write_text(json.dumps(found, indent=1, default=str))
        byline.uninstrument()
    # Threads that an SDK left behind are not waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
