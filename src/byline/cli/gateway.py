"""``byline gateway``: serves the testing gateway, until Ctrl-C or while a command runs against it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from byline import settings
from byline.cli import span_summary
from byline.secrets import scrub
from byline.settings import SettingError
from byline.testing import Gateway, Receiver, Request
from byline.testing.server import Handler

_DEFAULT_PORT: Final = 4010
#: Members of a body, and parts of header names, that carry attribution.
_SHOWN_MEMBERS: Final = ("session_id", "user", "trace", "metadata", "prompt_cache_key", "safety_identifier")
_SHOWN_HEADERS: Final = ("session", "trace", "user-id", "metadata", "baggage")
_MAX_SHOWN: Final = 200
_DESTINATION_SETTINGS: Final = ("langfuse_public_key", "langfuse_secret_key", "otlp_endpoint")


def run_gateway(port: int | None, command: Sequence[str] = ()) -> int:
    """Serve until Ctrl-C, or while a command runs, and print one line about each model call.

    Args:
        port: The port to serve on; by default a free one for a command, else 4010.
        command: A program and its arguments. The gateway's address is put into the environment
            variables that the SDKs of OpenAI, Anthropic and Google read, such as
            ``OPENAI_BASE_URL``. Spans are sent here if the environment names no destination.

    Returns:
        The command's exit code, 0 without one.

    Raises:
        SettingError: ``byline.E050`` if the port is taken, ``byline.E054`` if the command cannot
            be run.
    """
    command = command[1:] if command and command[0] == "--" else command
    if port is None:
        port = 0 if command else _DEFAULT_PORT
    with _PrintingGateway(port) as gateway, _SpanPrinter() as printer:
        variables = {
            "OPENAI_BASE_URL": gateway.base_url,
            "OPENAI_API_KEY": "testing",
            "ANTHROPIC_BASE_URL": gateway.url,
            "ANTHROPIC_API_KEY": "testing",
            "GOOGLE_GEMINI_BASE_URL": gateway.url,
            "GEMINI_API_KEY": "testing",
        }
        if not any(settings.find(name).value for name in _DESTINATION_SETTINGS):
            variables |= {"OTEL_EXPORTER_OTLP_ENDPOINT": printer.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
        stop = "it ends with the command" if command else "stop with Ctrl-C"
        _say(f"byline gateway: serves the APIs of OpenAI, Anthropic and Gemini at {gateway.url}; {stop}.")
        if command:
            code = _run_command(command, {**os.environ, **variables})
            if gateway.calls and not printer.printed and "OTEL_EXPORTER_OTLP_ENDPOINT" in variables:
                _say(
                    "byline gateway: no span of these calls has arrived. Call byline.instrument() in the program, or "
                    "start it with byline run. A program with destinations in code, or killed by a signal, sends none."
                )
            return code
        ended = threading.Event()
        with _signal_handlers({signal.SIGINT: ended.set, signal.SIGTERM: ended.set}):
            _say("Run this line in the shell that starts your app:")
            print("export " + " ".join(f"{name}={value}" for name, value in variables.items()), flush=True)
            ended.wait()
    return 0


class _PrintingGateway(Gateway):
    """Prints on standard error what each call sent and got, and counts the calls."""

    calls = 0

    def respond(self, request: Request, handler: Handler) -> None:
        super().respond(request, handler)
        if request.method == "POST":
            self.calls += 1
            _say(_describe_call(request))
            self.requests.clear()


def _describe_call(request: Request) -> str:
    """Return path, model and ids of a call in one line, without prompts and keys."""
    try:
        body = request.json()
    except ValueError:
        body = None
    members = body if isinstance(body, dict) else {}
    parts = [f"→ {request.path}"]
    parts += [f"{name} {members[name]}" for name in ("model", "stream") if members.get(name)]
    parts += [f"{name}={json.dumps(members[name])[:_MAX_SHOWN]}" for name in _SHOWN_MEMBERS if name in members]
    parts += [f"{name}: {request.headers[name][:_MAX_SHOWN]}" for name in sorted(request.headers) if _is_shown(name)]
    # Some gateways take keys in the path, and metadata may be anything.
    return scrub(" · ".join(parts))


def _is_shown(header: str) -> bool:
    return any(word in header for word in _SHOWN_HEADERS)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _SpanPrinter(Receiver):
    """Prints a line for each model call that is exported, counts them, and keeps no span."""

    def __init__(self) -> None:
        super().__init__()
        self.printed = 0
        self._printing = threading.Lock()

    def respond(self, request: Request, handler: Handler) -> None:
        with self._printing:
            super().respond(request, handler)
            for span in self.spans:
                if span_summary.is_generation(span):
                    self.printed += 1
                    print(span_summary.summarize_span(span), flush=True)
            self.clear()


def _run_command(command: Sequence[str], env: dict[str, str]) -> int:
    try:
        process = subprocess.Popen(command, env=env)
    except OSError as error:
        raise SettingError(
            "byline.E054", f"{command[0]} cannot be run: {error.strerror}", "check its spelling and the PATH"
        ) from None
    # A terminal sends Ctrl-C to the command as well; this process waits for the command to end.
    with _signal_handlers({signal.SIGINT: lambda: None, signal.SIGTERM: process.terminate}):
        code = process.wait()
    return code if code >= 0 else 128 - code


@contextmanager
def _signal_handlers(handlers: dict[signal.Signals, Callable[[], Any]]) -> Iterator[None]:
    previous = {number: signal.signal(number, lambda *_, act=act: act()) for number, act in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
