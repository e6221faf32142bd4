"""``byline demo``: a signed conversation from end to end on this machine, without account or network."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

import byline
from byline.cli import apps, servers, tree
from byline.export import OTLP, Destination, Langfuse
from byline.gateways import OpenRouter
from byline.testing import Gateway, Receiver


def run(*, wsgi: bool, as_json: bool, langfuse: bool, otlp: str | None) -> int:
    """Run the demo; return its exit code."""
    with Gateway() as gateway, Receiver() as receiver:
        destinations: list[Destination] = [OTLP(receiver.url)]
        if langfuse:
            destinations.append(Langfuse())
        if otlp:
            destinations.append(OTLP(otlp))
        byline.instrument(destinations=destinations, gateways=[OpenRouter(gateway.base_url)])
        OpenAIInstrumentor().instrument()
        try:
            serving = (
                servers.serve_wsgi(apps.make_flask(gateway.base_url))
                if wsgi
                else servers.serve_asgi(apps.make_fastapi(gateway.base_url))
            )
            with serving as url:
                _converse(url)
            sent = byline.flush()
        finally:
            OpenAIInstrumentor().uninstrument()
            byline.uninstrument()
        spans = receiver.spans
    if as_json:
        print(json.dumps({"spans": [_as_json(span) for span in spans]}))
    else:
        tree.show(spans, framework="Flask" if wsgi else "FastAPI")
    if not sent:
        print("Not every destination took the spans: byline check says why.", file=sys.stderr)
    return 0 if sent and spans else 1


def _converse(url: str) -> None:
    # In a process of its own, as callers are: what is instrumented here is the app alone.
    done = subprocess.run(
        [sys.executable, "-m", "byline.cli.caller", f"{url}/v1"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the demo's caller failed:\n{done.stderr}")


def _as_json(span: Any) -> dict[str, Any]:
    names = ("name", "trace_id", "span_id", "parent_id", "kind", "attributes")
    return {name: getattr(span, name) for name in names}
