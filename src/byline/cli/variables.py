"""Writes docs/settings.md from the code: ``python -m byline.cli.variables > docs/settings.md``."""

from __future__ import annotations

import sys

from byline.settings import SETTINGS

_HEAD = """# Settings

What the environment can say, in the order in which `byline check` shows it. What is passed in code wins. This page is
made from the code by `python -m byline.cli.variables`.

| setting | variables, the first that is set counts | default | meaning |
|---|---|---|---|
"""
_TAIL = """
Besides these, the SDK's own variables hold: `OTEL_RESOURCE_ATTRIBUTES` (`deployment.environment.name` becomes the
environment in Langfuse), `OTEL_TRACES_SAMPLER`, `OTEL_BSP_MAX_QUEUE_SIZE`, `OTEL_BSP_SCHEDULE_DELAY`, and
`OTEL_PYTHON_EXCLUDED_URLS` for requests that are to have no app span.
"""


def write() -> str:
    """Return the page."""
    rows = []
    for setting in SETTINGS:
        variables = ", ".join(f"`{name}`" for name in setting.variables)
        default = f"`{setting.default}`" if setting.default else ""
        rows.append(f"| {setting.name} | {variables} | {default} | {setting.meaning} |")
    return _HEAD + "\n".join(rows) + "\n" + _TAIL


if __name__ == "__main__":
    sys.stdout.write(write())
