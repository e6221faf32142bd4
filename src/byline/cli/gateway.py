"""``byline gateway``: the testing gateway by itself, or around a command that calls it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from byline import settings
from byline.cli import words
from byline.settings import SettingError
from byline.testing import Gateway, Receiver, Request
from byline.testing.server import Handler

PORT: Final = 4010
_DESTINATIONS: Final = ("langfuse_public_key", "langfuse_secret_key", "otlp_endpoint")


def run_gateway(port: int | None, command: Sequence[str] = ()) -> int:
    """Serve until Ctrl-C, or as long as a command runs, and say of each model call what its span tells.

    Args:
        port: The port to serve on; by default a free one for a command, else 4010.
        command: A program and its arguments, which find the gateway where the SDKs of OpenAI, Anthropic
            and Google look, as in ``OPENAI_BASE_URL``; their spans come here where the environment names
            no destination.

    Returns:
        The command's exit code, 0 without one.

    Raises:
        SettingError: ``byline.E050`` where the port is taken, ``byline.E054`` where the command
            cannot be run.
    """
    command = command[1:] if command and command[0] == "--" else command
    if port is None:
        port = 0 if command else PORT
    with Gateway(port) as gateway, _Teller() as teller:
        found = {
            "OPENAI_BASE_URL": gateway.base_url,
            "OPENAI_API_KEY": "testing",
            "ANTHROPIC_BASE_URL": gateway.url,
            "ANTHROPIC_API_KEY": "testing",
            "GOOGLE_GEMINI_BASE_URL": gateway.url,
            "GEMINI_API_KEY": "testing",
        }
        if not any(settings.find(name).value for name in _DESTINATIONS):
            found |= {"OTEL_EXPORTER_OTLP_ENDPOINT": teller.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
        if command:
            return _run_command(command, {**os.environ, **found})
        ended = threading.Event()
        with _on_signals({signal.SIGINT: ended.set, signal.SIGTERM: ended.set}):
            print("export " + " ".join(f"{name}={value}" for name, value in found.items()), flush=True)
            ended.wait()
    return 0


class _Teller(Receiver):
    """Prints model calls as their spans arrive, and forgets them."""

    def __init__(self) -> None:
        super().__init__()
        self._telling = threading.Lock()

    def respond(self, request: Request, handler: Handler) -> None:
        with self._telling:
            super().respond(request, handler)
            for span in self.spans:
                if words.is_generation(span):
                    print(words.sentence(span), flush=True)
            self.clear()


def _run_command(command: Sequence[str], env: dict[str, str]) -> int:
    try:
        process = subprocess.Popen(command, env=env)
    except OSError as error:
        raise SettingError(
            "byline.E054", f"{command[0]} cannot be run: {error.strerror}", "check how it is written"
        ) from None
    # Ctrl-C reaches the command by itself: here it is only waited for.
    with _on_signals({signal.SIGINT: lambda: None, signal.SIGTERM: process.terminate}):
        code = process.wait()
    return code if code >= 0 else 128 - code


@contextmanager
def _on_signals(handlers: dict[signal.Signals, Callable[[], Any]]) -> Iterator[None]:
    before = {number: signal.signal(number, lambda *_, act=act: act()) for number, act in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
