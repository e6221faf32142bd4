"""``byline demo``: a conversation from client to backend on this machine, without account or network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

import byline
from byline import settings
from byline.cli import check, demo_app, demo_tree, phoenix
from byline.export import OTLP, Destination, Langfuse
from byline.gateways import OpenRouter
from byline.genai.tracer_provider import has_tracer_provider
from byline.settings import SettingError
from byline.testing import Gateway, ReceivedSpan, Receiver


def run_demo(
    *, wsgi: bool, as_json: bool, langfuse: bool, otlp: str | None, opens: bool = False, svg: str | None = None
) -> int:
    """Run the demo and say on standard error what happens; return the exit code.

    Args:
        wsgi: Run the app with Flask instead of FastAPI.
        as_json: Print all spans as one JSON object.
        langfuse: Also send to the Langfuse of the environment.
        otlp: Also send to this OTLP/HTTP endpoint.
        svg: Also write the traces as a picture into this file.
        opens: Also send to a Phoenix, which is started for this and shown in the browser until Ctrl-C.

    Raises:
        SettingError: ``byline.E052`` if the environment turns byline off, ``byline.E053`` if the
            conversation fails, ``byline.E160`` if Phoenix is not installed or does not start, and the errors of the
            destinations in ``langfuse`` and ``otlp``.
    """
    disabled = settings.find("disabled")
    if disabled.value:
        raise SettingError("byline.E052", f"{disabled.variable} turns byline off", f"unset {disabled.variable}")
    backends: list[Destination] = [Langfuse()] if langfuse else []
    backends += [OTLP(otlp)] if otlp else []
    if not _all_accept(backends):
        return 1
    _bypass_proxies()
    with Gateway() as gateway, Receiver() as receiver, phoenix.serve() if opens else nullcontext() as phoenix_url:
        if phoenix_url is not None:
            backends.append(OTLP(phoenix_url, label="phoenix"))
        _say(f"A gateway answers at {gateway.base_url}, in place of a provider.")
        with _instrumented([OTLP(receiver.url), *backends], gateway), _serve_app(gateway, wsgi=wsgi) as url:
            _say(f"A {'Flask' if wsgi else 'FastAPI'} app with byline serves at {url}.")
            _say("A client, which is another process, sends two requests …")
            _run_caller(url)
        # uninstrument() has flushed all spans by now.
        spans = sorted(receiver.spans, key=lambda span: span.start)
        _say(f"{len(gateway.requests)} LLM calls were answered, {len(spans)} spans have arrived.")
        if svg is not None:
            demo_tree.save_picture(spans, Path(svg))
        _print_result(spans, wsgi=wsgi, as_json=as_json, backends=backends)
        if phoenix_url is not None:
            phoenix.show(phoenix_url)
    return 0 if spans else 1


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_result(spans: list[ReceivedSpan], *, wsgi: bool, as_json: bool, backends: Sequence[Destination]) -> None:
    if as_json:
        print(json.dumps({"spans": [_span_as_json(span) for span in spans]}, indent=2))
    else:
        sent_to = [check.hide_secrets(backend.endpoint) for backend in backends]
        demo_tree.print_tree(spans, framework="Flask" if wsgi else "FastAPI", sent_to=sent_to)
        sys.stdout.flush()


def _all_accept(destinations: Sequence[Destination]) -> bool:
    """Test the backends before the demo runs, because a failed export shows only in the log."""
    failed = [result for backend in destinations for result in check.export_nothing(backend) if not result.ok]
    for line in check.result_lines(failed):
        print(line, file=sys.stderr)
    return not failed


def _bypass_proxies() -> None:
    """Exclude 127.0.0.1 from the proxies of this process and of the caller's process."""
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))


@contextmanager
def _instrumented(destinations: Sequence[Destination], gateway: Gateway) -> Iterator[None]:
    if not has_tracer_provider():
        # Record every span: a sampler of the environment could drop both requests.
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
def _serve_app(gateway: Gateway, *, wsgi: bool) -> Iterator[str]:
    if wsgi:
        server = demo_app.serve_wsgi(demo_app.make_flask(gateway.base_url))
    else:
        server = demo_app.serve_asgi(demo_app.make_fastapi(gateway.base_url))
    with server as url:
        yield url


def _run_caller(url: str) -> None:
    command = [sys.executable, "-m", "byline.cli.demo_caller", f"{url}/v1"]
    caller = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if caller.returncode:
        last_line = (caller.stderr.strip() or f"exit code {caller.returncode}").splitlines()[-1]
        raise SettingError(
            "byline.E053", f"the demo's conversation failed: {last_line}", "read the app's messages above, if any"
        )


def _span_as_json(span: ReceivedSpan) -> dict[str, Any]:
    names = ("name", "trace_id", "span_id", "parent_id", "kind", "attributes")
    return {name: getattr(span, name) for name in names}
