"""Writes docs/settings.md from the code: ``python -m byline.cli.variables > docs/settings.md``."""

from __future__ import annotations

import sys

from byline.settings import SETTINGS

_HEAD = """# Settings

Every setting that can be made in the environment, in the order in which `byline check` shows them. What is passed in
code wins over the environment. A variable that is empty counts as not set, and a value must not have quotes around it.

A switch takes `true` and `false`, `1` and `0`, `yes` and `no`, `on` and `off`. This page is made from the code by
`python -m byline.cli.variables`.

| setting | variables (the first that is set counts) | default | meaning |
|---|---|---|---|
"""
_TAIL = """
These variables of OpenTelemetry's SDK have their usual effect:

- `OTEL_RESOURCE_ATTRIBUTES`; its `deployment.environment.name` becomes the environment in Langfuse
- `OTEL_TRACES_SAMPLER`
- `OTEL_BSP_MAX_QUEUE_SIZE`, `OTEL_BSP_MAX_EXPORT_BATCH_SIZE` and `OTEL_BSP_SCHEDULE_DELAY`, for each destination
- `OTEL_EXPORTER_OTLP_CERTIFICATE` and `OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE`, for each destination
- `OTEL_PYTHON_EXCLUDED_URLS`: requests that get no app span

The other settings of a destination can be made in code only: [destinations.md](destinations.md).
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
