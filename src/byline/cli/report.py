"""Tests destinations and says what it found, in plain text, without any secret."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

from opentelemetry.sdk.trace.export import SpanExportResult

from byline import settings
from byline.export import CheckResult, Destination, Langfuse
from byline.export.otlp import parse_headers
from byline.export.redaction.secrets import scrub
from byline.export.self_test import silence_logs
from byline.settings import SettingError


def test(destination: Destination) -> list[CheckResult]:
    """Test a destination for real; whatever goes wrong is a result."""
    try:
        with silence_logs():
            return destination.check()
    except Exception as error:
        advice = f"check that {destination.endpoint} is what you mean, and that this machine reaches it"
        return [CheckResult(f"{destination.name} check", False, type(error).__name__, advice)]


def probe(destination: Destination) -> list[CheckResult]:
    """Test a destination with an export of no spans, which leaves nothing behind there.

    Returns:
        Nothing where it was accepted, else what to do about it.
    """
    with silence_logs(), contextlib.suppress(Exception):
        exporter = destination.exporter()
        try:
            if exporter.export([]) is SpanExportResult.SUCCESS:
                return []
        finally:
            exporter.shutdown()
    if isinstance(destination, Langfuse):
        # Its credentials can be told from its address.
        return test(destination)
    advice = "check the endpoint, its credentials, and that it takes OTLP over HTTP"
    return [CheckResult(f"{destination.name} export", False, destination.endpoint, advice)]


def hide_secrets(text: str) -> str:
    """Mask every secret of the environment, and what looks like one."""
    for secret in _secrets():
        # Anything shorter would be found in half of all words.
        if len(secret) >= 8:
            text = text.replace(secret, settings.mask(secret))
    return scrub(text)


def _secrets() -> Iterator[str]:
    for setting in settings.SETTINGS:
        for variable in setting.variables if setting.secret else ():
            value = os.environ.get(variable, "").strip()
            yield value
            if setting.name == "otlp_headers":
                # What cannot be read has been said as a whole.
                with contextlib.suppress(SettingError):
                    yield from _parts(value)


def _parts(headers: str) -> Iterator[str]:
    for header in parse_headers(headers).values():
        yield header
        yield header.rpartition(" ")[2]


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table whose columns are as wide as they need to be."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for number, line in enumerate(lines):
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        if number == 0:
            yield "  ".join("-" * width for width in widths)


def result_lines(results: Sequence[CheckResult]) -> Iterator[str]:
    """Yield a line a result, and below each failure what to do about it."""
    width = max((len(result.name) for result in results), default=0)
    for result in results:
        yield f"{_mark(ok=result.ok)}  {result.name.ljust(width)}  {hide_secrets(result.detail)}".rstrip()
        if not result.ok and result.advice:
            yield f"        → {hide_secrets(result.advice)}"


def _mark(*, ok: bool) -> str:
    word = "ok    " if ok else "FAILED"
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return word
    return f"\033[{32 if ok else 31}m{word}\033[0m"
