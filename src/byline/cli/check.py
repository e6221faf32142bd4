"""``byline check``: tests whether each destination accepts spans, and prints the settings in force."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from opentelemetry.sdk.trace.export import SpanExportResult

from byline import export, gateways, settings
from byline.export import CheckResult, Destination, Langfuse
from byline.export.otlp import parse_headers
from byline.export.self_test import silence_logs
from byline.secrets import scrub
from byline.setting_table import SETTINGS, Setting
from byline.settings import SettingError

if TYPE_CHECKING:
    from byline.cli.doctor import Report
    from byline.cli.findings import Finding

_NO_DESTINATION: Final = "the environment names none"
_ESCAPES: Final = re.compile(r"\033\[[0-9;]*m")


class AppCheck(NamedTuple):
    """The app to check, and the request to send through it; see `byline.cli.doctor.check_app`."""

    target: str
    factory: bool = False
    path: str | None = None
    headers: Mapping[str, str] = {}
    body: bytes | None = None


def run_check(*, as_json: bool, verbose: bool = False, app: AppCheck | None = None) -> int:
    """Print the verdict, then the results and the settings.

    Args:
        as_json: Print one JSON object and nothing else.
        verbose: Print the settings with default values as well.
        app: The app to send a request through; ``None`` checks the settings and the destinations only.

    Returns:
        0 if all spans arrive, 1 if something is lost, a check failed or no destination is configured, 2 if the app
        cannot be checked.
    """
    report = None
    destinations = None
    with contextlib.redirect_stdout(sys.stderr) if app is not None else contextlib.nullcontext():
        if app is not None:
            from byline.cli import doctor

            report, evidence = doctor.check_app(**app._asdict())
            if evidence.runtime is not None:
                destinations = evidence.runtime.sending_destinations()
        # Two destinations may report the same setting.
        results = list(dict.fromkeys([*_check_settings(), *_check_destinations(destinations)]))
        if report is not None and destinations is None:
            # The finding about the app says why there is none, and which setting is wrong.
            told = {finding.problem for finding in report.findings}
            results = [result for result in results if result.name != "destinations" and result.detail not in told]
    failed = sum(not result.ok for result in results)
    code = max(int(bool(failed)), 0 if report is None else report.exit_code)
    rows = [_setting_row(setting) for setting in SETTINGS]
    if as_json:
        print(json.dumps(_as_json(code, rows, results, report)))
        return code
    if report is not None:
        verdict = hide_secrets(report.verdict)
    elif all(result.ok or result.detail == _NO_DESTINATION for result in results) and failed:
        verdict = "There is no destination, so spans go nowhere."
    elif failed:
        verdict = f"{failed} of {len(results)} checks failed."
    else:
        verdict = "All checks passed: spans arrive."
    print(_colored(verdict, 32 if code == 0 else 31, bold=True))
    if report is not None:
        print()
        print("\n".join(_report_lines(report)))
    if results:
        print()
        print("\n".join(result_lines(results)))
    cells = [
        (row["name"], row["value"] or "-", row["variable"] or f"default ({row['variables'][0]})")
        for row in rows
        if verbose or row["variable"]
    ]
    if cells:
        print()
        print("\n".join(_table_lines(("setting", "value", "from"), cells)))
    if not verbose:
        print("\nAll other settings have their defaults; byline check -v lists them.")
    return code


def _as_json(
    code: int, rows: list[dict[str, Any]], results: Sequence[CheckResult], report: Report | None
) -> dict[str, Any]:
    checks = [
        {**result._asdict(), "detail": hide_secrets(result.detail), "advice": hide_secrets(result.advice)}
        for result in results
    ]
    value: dict[str, Any] = {"ok": code == 0, "settings": rows, "checks": checks}
    if report is not None:
        value["verdict"] = hide_secrets(report.verdict)
        value["layers"] = [{**layer._asdict(), "detail": hide_secrets(layer.detail)} for layer in report.layers]
        value["findings"] = [
            {key: hide_secrets(text) for key, text in finding._asdict().items()} for finding in report.findings
        ]
    return value


def _report_lines(report: Report) -> Iterator[str]:
    """Yield a line for each layer, with the findings about it below."""
    shown = set()
    for layer in report.layers:
        status = "-     " if layer.ok is None else _status_text(ok=layer.ok)
        yield from _wrap(f"{status}  {layer.name.ljust(11)}  ", hide_secrets(layer.detail) or "not seen")
        for finding in report.findings:
            if finding.layer == layer.name:
                shown.add(finding)
                yield from _finding_lines(finding)
    for finding in report.findings:
        if finding not in shown:
            yield from _finding_lines(finding)


def _finding_lines(finding: Finding) -> Iterator[str]:
    color = 33 if finding.severity == "warning" else 31
    yield from _wrap(f"        {_colored(finding.id, color)}  ", hide_secrets(finding.problem))
    yield from _wrap("          → ", hide_secrets(finding.advice))


def _wrap(head: str, text: str) -> Iterator[str]:
    """Yield a text after a head, in lines as wide as the terminal, all below the first."""
    indent = len(_ESCAPES.sub("", head))
    width = max(shutil.get_terminal_size().columns - indent, 40) if sys.stdout.isatty() else 10_000
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
    yield f"{head}{lines[0]}".rstrip()
    for line in lines[1:]:
        yield f"{' ' * indent}{line}"


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
    for setting in SETTINGS:
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


def _check_destinations(of_app: Sequence[Destination] | None = None) -> Iterator[CheckResult]:
    """Test the destinations of the app, else those of the environment."""
    if of_app is not None:
        for destination in of_app:
            yield from _send_test_trace(destination)
        return
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
        advice = (
            "set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY, or OTEL_EXPORTER_OTLP_ENDPOINT; byline check main:app "
            "checks destinations that are made in code"
        )
        yield CheckResult("destinations", False, _NO_DESTINATION, advice)
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
    if _refuses_connections(destination.endpoint):
        # The exporter would retry for some seconds.
        advice = "start the backend, or check host and port"
        return [CheckResult(f"{destination.name} export", False, f"nothing listens at {destination.endpoint}", advice)]
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


def _refuses_connections(endpoint: str) -> bool:
    """Return whether the port of a URL is certainly closed."""
    parts = urlsplit(endpoint)
    if parts.hostname is None or (getproxies().get(parts.scheme) and not proxy_bypass(parts.hostname)):
        return False
    try:
        socket.create_connection((parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)), 3).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        # The export finds out what this is.
        return False
    return False


def hide_secrets(text: str) -> str:
    """Return a text with every secret of the environment masked, and everything that looks like a secret."""
    for secret in _environment_secrets():
        # A shorter one may be part of an ordinary word.
        if len(secret) >= 8:
            text = text.replace(secret, settings.mask_secret(secret))
    return scrub(text)


def _environment_secrets() -> Iterator[str]:
    for setting in SETTINGS:
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
        yield from _wrap(f"{_status_text(ok=result.ok)}  {result.name.ljust(width)}  ", hide_secrets(result.detail))
        if not result.ok and result.advice:
            yield from _wrap("        → ", hide_secrets(result.advice))


def _status_text(*, ok: bool) -> str:
    return _colored("ok    ", 32) if ok else _colored("FAILED", 31)


def _colored(text: str, color: int, *, bold: bool = False) -> str:
    """Return a text in a color if standard output is a terminal that has them; FORCE_COLOR and NO_COLOR decide."""
    if os.environ.get("NO_COLOR"):
        return text
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    if not is_terminal and not os.environ.get("FORCE_COLOR"):
        return text
    return f"\033[{'1;' * bold}{color}m{text}\033[0m"
