"""``byline check``: which settings are in force, and whether each destination takes spans."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from byline import export, gateways, settings
from byline.cli import report
from byline.export import CheckResult
from byline.export.otlp import parse_headers
from byline.settings import Setting, SettingError


def run_check(*, as_json: bool) -> int:
    """Print the settings and the results; return 1 if anything failed or nothing is configured."""
    rows = [_row(setting) for setting in settings.SETTINGS]
    # A setting may be looked at by more than one destination.
    results = list(dict.fromkeys([*_test_settings(), *_test_destinations()]))
    failed = sum(not result.ok for result in results)
    if as_json:
        checks = [
            {
                **result._asdict(),
                "detail": report.hide_secrets(result.detail),
                "advice": report.hide_secrets(result.advice),
            }
            for result in results
        ]
        print(json.dumps({"ok": not failed, "settings": rows, "checks": checks}))
        return int(bool(failed))
    cells = [(row["name"], row["value"] or "-", row["variable"] or f"default ({row['variables'][0]})") for row in rows]
    for line in report.print_table(("setting", "value", "from"), cells):
        print(line)
    print()
    for line in report.result_lines(results):
        print(line)
    print()
    print(f"{failed} of {len(results)} checks failed." if failed else "All is well: spans arrive.")
    return int(bool(failed))


def _row(setting: Setting) -> dict[str, Any]:
    try:
        value, variable = settings.find(setting.name)
    except SettingError as error:
        named = (name for name in setting.variables if os.environ.get(name, "").strip())
        unreadable = f"unreadable ({error.id})"
        return {
            "name": setting.name,
            "value": unreadable,
            "variable": next(named, None),
            "variables": list(setting.variables),
        }
    if isinstance(value, bool):
        value = "yes" if value else "no"
    elif setting.name == "otlp_headers":
        value = _headers(value)
    elif setting.name == "langfuse_public_key":
        value = settings.shorten(value)
    elif setting.secret:
        value = settings.mask(value)
    shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return {
        "name": setting.name,
        "value": report.hide_secrets(shown),
        "variable": variable,
        "variables": list(setting.variables),
    }


def _headers(text: str) -> str:
    try:
        return ",".join(f"{name}={settings.mask(secret)}" for name, secret in parse_headers(text).items())
    except SettingError as error:
        return f"unreadable ({error.id})"


def _test_settings() -> Iterator[CheckResult]:
    """Say what is wrong with the settings that no destination looks at."""
    for variable, meant in settings.misspelt().items():
        yield CheckResult("settings", False, f"byline.E002: {variable} is no setting", f"{meant} may be meant")
    for setting in settings.SETTINGS:
        try:
            found = settings.find(setting.name)
            if setting.name == "gateways":
                gateways.parse_gateways(found.value)
        except SettingError as error:
            yield CheckResult("settings", False, f"{error.id}: {error.problem}", error.advice)
            continue
        if setting.name == "disabled" and found.value:
            yield CheckResult("settings", False, f"{found.variable} turns byline off", f"unset {found.variable}")


def _test_destinations() -> Iterator[CheckResult]:
    try:
        destinations = export.destinations_from_environment()
    except SettingError as error:
        yield CheckResult("settings", False, f"{error.id}: {error.problem}", error.advice)
        return
    unused = export.unused_settings()
    for why, advice in unused:
        # It may be meant, where others are left.
        yield CheckResult("destinations", bool(destinations), why, advice)
    if not destinations and not unused:
        advice = "set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY, or OTEL_EXPORTER_OTLP_ENDPOINT"
        yield CheckResult("destinations", False, "the environment names none", advice)
    for destination in destinations:
        yield from report.test(destination)
