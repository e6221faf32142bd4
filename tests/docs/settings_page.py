"""Builds docs/settings.md from the table of settings."""

from __future__ import annotations

from byline.setting_table import SETTINGS

_HEAD = """# Settings

Every environment variable that byline reads, in the order of `byline check`. Arguments in code take precedence over the
environment, and the environment over the configuration file, whose keys are the names in the first column
([zero-code.md](zero-code.md#settings)). `BYLINE_CONFIG` names that file. An empty variable counts as not set, and a
value must not have quotes around it.

A switch takes `true` and `false`, `1` and `0`, `yes` and `no`, `on` and `off`. `python -m tests.docs` writes this page
from the code.

| setting | variables (the first one set is used) | default | meaning |
|---|---|---|---|
"""
_TAIL = """
OpenTelemetry's own variables work as usual:

- `OTEL_RESOURCE_ATTRIBUTES`; its `deployment.environment.name` becomes the environment in Langfuse
- `OTEL_TRACES_SAMPLER`
- `OTEL_BSP_MAX_QUEUE_SIZE`, `OTEL_BSP_MAX_EXPORT_BATCH_SIZE` and `OTEL_BSP_SCHEDULE_DELAY`, for each destination
- `OTEL_EXPORTER_OTLP_CERTIFICATE` and `OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE`:
  [destinations.md](destinations.md#certificates-and-proxies)
- `OTEL_PYTHON_EXCLUDED_URLS`: requests without a server span

The other settings of a destination are arguments only: [destinations.md](destinations.md).
"""


def settings_page() -> str:
    """Return the page."""
    rows = []
    for setting in SETTINGS:
        variables = ", ".join(f"`{name}`" for name in setting.variables)
        default = f"`{setting.default}`" if setting.default else ""
        meaning = setting.meaning.replace("|", r"\|")
        rows.append(f"| {setting.name} | {variables} | {default} | {meaning} |")
    return _HEAD + "\n".join(rows) + "\n" + _TAIL
