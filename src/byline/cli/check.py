"""``byline check``: prints the settings in force and tests whether each destination accepts spans."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from opentelemetry.sdk.trace.export import SpanExportResult

from byline import export, gateways, settings
from byline.export import CheckResult, Destination, Langfuse
from byline.export.otlp import parse_headers
from byline.export.self_test import silence_logs
from byline.secrets import scrub
from byline.settings import Setting, SettingError


def run_check(*, as_json: bool) -> int:
    """Print the settings and the results; return 1 if a check failed or no destination is configured."""
    rows = [_setting_row(setting) for setting in settings.SETTINGS]
    # Two destinations may report the same setting.
    results = list(dict.fromkeys([*_check_settings(), *_check_destinations()]))
    failed = sum(not result.ok for result in results)
    if as_json:
        checks = [
            {**result._asdict(), "detail": hide_secrets(result.detail), "advice": hide_secrets(result.advice)}
            for result in results
        ]
        print(json.dumps({"ok": not failed, "settings": rows, "checks": checks}))
        return int(bool(failed))
    cells = [(row["name"], row["value"] or "-", row["variable"] or f"default ({row['variables'][0]})") for row in rows]
    lines = [*_table_lines(("setting", "value", "from"), cells), "", *result_lines(results), ""]
    print("\n".join(lines))
    print(f"{failed} of {len(results)} checks failed." if failed else "All checks passed: spans arrive.")
    return int(bool(failed))


def _setting_row(setting: Setting) -> dict[str, Any]:
    row: dict[str, Any] = {"name": setting.name, "variables": list(setting.variables)}
    try:
        value, variable = settings.find(setting.name)
    except SettingError as error:
        is_set = (name for name in setting.variables if os.environ.get(name, "").strip())
        return {**row, "value": f"unreadable ({error.id})", "variable": next(is_set, None)}
    if isinstance(value, bool):
        value = "yes" if value else "no"
    elif setting.name == "otlp_headers":
        value = _masked_headers(value)
    elif setting.name == "langfuse_public_key":
        value = settings.shorten_public_key(value)
    elif setting.secret:
        value = settings.mask_secret(value)
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return {**row, "value": hide_secrets(text), "variable": variable}


def _masked_headers(text: str) -> str:
    try:
        return ",".join(f"{name}={settings.mask_secret(secret)}" for name, secret in parse_headers(text).items())
    except SettingError as error:
        return f"unreadable ({error.id})"


def _check_settings() -> Iterator[CheckResult]:
    """Yield errors in settings that no destination reads."""
    for variable, similar in settings.find_misspelt().items():
        yield CheckResult(
            "settings", False, f"byline.E002: {variable} is not a setting", f"rename it to {similar}, or unset it"
        )
    for setting in settings.SETTINGS:
        try:
            found = settings.find(setting.name)
            if setting.name == "gateways":
                gateways.parse_gateways(found.value)
        except SettingError as error:
            yield _failed_setting(error)
            continue
        if setting.name == "disabled" and found.value:
            yield CheckResult("settings", False, f"{found.variable} turns byline off", f"unset {found.variable}")


def _failed_setting(error: SettingError) -> CheckResult:
    return CheckResult("settings", False, f"{error.id}: {error.problem}", error.advice)


def _check_destinations() -> Iterator[CheckResult]:
    try:
        destinations = export.destinations_from_environment()
    except SettingError as error:
        yield _failed_setting(error)
        return
    unused = export.unused_settings()
    for reason, advice in unused:
        # Turning one destination off may be intended if another one is left.
        yield CheckResult("destinations", bool(destinations), reason, advice)
    if not destinations and not unused:
        advice = "set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY, or OTEL_EXPORTER_OTLP_ENDPOINT"
        yield CheckResult("destinations", False, "the environment names none", advice)
    for destination in destinations:
        yield from _send_test_trace(destination)


def _send_test_trace(destination: Destination) -> list[CheckResult]:
    """Return the results of ``destination.check()``; an exception is a failed result."""
    try:
        with silence_logs():
            return destination.check()
    except Exception as error:
        advice = f"check that {destination.endpoint} is right and that this machine can reach it"
        return [CheckResult(f"{destination.name} check", False, type(error).__name__, advice)]


def export_nothing(destination: Destination) -> list[CheckResult]:
    """Test a destination with an export of no spans, which stores nothing there.

    Returns:
        An empty list if the export was accepted, else failed results with advice.
    """
    with silence_logs(), contextlib.suppress(Exception):
        exporter = destination.exporter()
        try:
            if exporter.export([]) is SpanExportResult.SUCCESS:
                return []
        finally:
            exporter.shutdown()
    if isinstance(destination, Langfuse):
        # Langfuse has an API to test its keys, so the result can tell wrong keys from a wrong URL.
        return _send_test_trace(destination)
    advice = "check the endpoint, its credentials, and that it takes OTLP over HTTP"
    return [CheckResult(f"{destination.name} export", False, destination.endpoint, advice)]


def hide_secrets(text: str) -> str:
    """Return a text with every secret of the environment masked, and everything that looks like a secret."""
    for secret in _environment_secrets():
        # A shorter one may be part of an ordinary word.
        if len(secret) >= 8:
            text = text.replace(secret, settings.mask_secret(secret))
    return scrub(text)


def _environment_secrets() -> Iterator[str]:
    for setting in settings.SETTINGS:
        for variable in setting.variables if setting.secret else ():
            value = os.environ.get(variable, "").strip()
            yield value
            if setting.name == "otlp_headers":
                # Unreadable headers are masked as one text.
                with contextlib.suppress(SettingError):
                    for header in parse_headers(value).values():
                        yield header
                        yield header.rpartition(" ")[2]


def _table_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a text table with aligned columns."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for number, line in enumerate(lines):
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        if number == 0:
            yield "  ".join("-" * width for width in widths)


def result_lines(results: Sequence[CheckResult]) -> Iterator[str]:
    """Yield one line per result, and the advice below each failure."""
    width = max((len(result.name) for result in results), default=0)
    for result in results:
        yield f"{_status_text(ok=result.ok)}  {result.name.ljust(width)}  {hide_secrets(result.detail)}".rstrip()
        if not result.ok and result.advice:
            yield f"        → {hide_secrets(result.advice)}"


def _status_text(*, ok: bool) -> str:
    text = "ok    " if ok else "FAILED"
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\033[{32 if ok else 31}m{text}\033[0m"
