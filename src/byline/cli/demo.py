"""``byline demo``: a signed conversation from end to end on this machine, without account or network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

import byline
from byline import settings
from byline.cli import apps, report, servers, tree
from byline.export import OTLP, Destination, Langfuse
from byline.gateways import OpenRouter
from byline.genai import server_span
from byline.settings import SettingError
from byline.testing import Gateway, ReceivedSpan, Receiver


def run_demo(*, wsgi: bool, as_json: bool, langfuse: bool, otlp: str | None) -> int:
    """Run the demo; return its exit code.

    Raises:
        SettingError: ``byline.E052`` where the environment turns byline off, ``byline.E053`` where
            the conversation fails, and those of the destinations that are asked for.
    """
    off = settings.find("disabled")
    if off.value:
        raise SettingError("byline.E052", f"{off.variable} turns byline off", f"unset {off.variable}")
    others: list[Destination] = [Langfuse()] if langfuse else []
    others += [OTLP(otlp)] if otlp else []
    if not _all_answer(others):
        return 1
    _keep_off_proxies()
    with Gateway() as gateway, Receiver() as receiver:
        with _signed([OTLP(receiver.url), *others], gateway), _serving(gateway, wsgi=wsgi) as url:
            _converse(url)
        # All of it has been sent by now: to undo instrument() is to flush.
        spans = sorted(receiver.spans, key=lambda span: span.start)
    if as_json:
        print(json.dumps({"spans": [_as_json(span) for span in spans]}))
    else:
        sent_to = [report.hide_secrets(other.endpoint) for other in others]
        tree.print_tree(spans, framework="Flask" if wsgi else "FastAPI", sent_to=sent_to)
    return 0 if spans else 1


def _all_answer(destinations: Sequence[Destination]) -> bool:
    """Test the real destinations before anything runs: the SDK says only in its log that an export failed."""
    failed = [result for other in destinations for result in report.probe(other) if not result.ok]
    for line in report.result_lines(failed):
        print(line, file=sys.stderr)
    return not failed


def _keep_off_proxies() -> None:
    """Let nothing of this process or of its caller go through a proxy to reach this machine."""
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))


@contextmanager
def _signed(destinations: Sequence[Destination], gateway: Gateway) -> Iterator[None]:
    if not server_span.has_tracer_provider():
        # Every span, whatever sampler the environment names: two requests are all there is to see.
        resource = Resource.create({SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME") or "byline-demo"})
        trace.set_tracer_provider(TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False))
    byline.instrument(destinations=destinations, gateways=[OpenRouter(gateway.base_url)])
    OpenAIInstrumentor().instrument()
    try:
        yield
    finally:
        OpenAIInstrumentor().uninstrument()
        byline.uninstrument()


@contextmanager
def _serving(gateway: Gateway, *, wsgi: bool) -> Iterator[str]:
    if wsgi:
        with servers.serve_wsgi(apps.make_flask(gateway.base_url)) as url:
            yield url
    else:
        with servers.serve_asgi(apps.make_fastapi(gateway.base_url)) as url:
            yield url


def _converse(url: str) -> None:
    # In a process of its own, as callers are: what is instrumented here is the app alone.
    command = [sys.executable, "-m", "byline.cli.caller", f"{url}/v1"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise SettingError(
            "byline.E053", f"the demo's conversation failed: {last}", "see what the app said above, if anything"
        )


def _as_json(span: ReceivedSpan) -> dict[str, Any]:
    names = ("name", "trace_id", "span_id", "parent_id", "kind", "attributes")
    return {name: getattr(span, name) for name in names}
