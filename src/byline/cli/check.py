"""``byline check``: which settings are in force, and whether each destination takes spans."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from byline import export, settings
from byline.export import CheckResult
from byline.settings import SettingError


def run(*, as_json: bool) -> int:
    """Print the settings and the results; return 1 if anything failed or nothing is configured."""
    # The exporter's own log lines would stand between the rows; their substance is in the rows.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    rows = [_setting(setting) for setting in settings.SETTINGS]
    results = list(_test())
    failed = not all(result.ok for result in results)
    if as_json:
        print(json.dumps({"settings": rows, "checks": [result._asdict() for result in results]}))
        return int(failed)
    print_table(
        ("setting", "value", "from"), [(row["name"], row["value"] or "-", row["variable"] or "default") for row in rows]
    )
    print()
    print_table(
        ("check", "", "detail", "what to do"),
        [(result.name, "ok" if result.ok else "FAILED", result.detail, result.advice) for result in results],
    )
    return int(failed)


def _setting(setting: settings.Setting) -> dict[str, Any]:
    try:
        found = settings.find(setting.name)
    except SettingError as error:
        return {"name": setting.name, "value": f"{error.id}: {error.problem}", "variable": None}
    value = "" if found.value is None else str(found.value)
    return {
        "name": setting.name,
        "value": settings.mask(value) if setting.secret else value,
        "variable": found.variable,
    }


def _test() -> Sequence[CheckResult]:
    try:
        destinations = export.from_environment()
    except SettingError as error:
        return [CheckResult("settings", False, f"{error.id}: {error.problem}", error.advice)]
    if not destinations:
        advice = "set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY, or OTEL_EXPORTER_OTLP_ENDPOINT"
        return [CheckResult("destinations", False, "the environment names none", advice)]
    return [result for destination in destinations for result in destination.check()]


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns of the width that they need."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for number, line in enumerate(lines):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths).rstrip())
