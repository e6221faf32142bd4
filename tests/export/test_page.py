"""docs/destinations.md says what the code does."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from byline.export import OTLP, Destination, Langfuse
from byline.export.options import Options

PAGE = (Path(__file__).parents[2] / "docs" / "destinations.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS)
def test_its_code_runs(code: str) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_its_example_is_json() -> None:
    (example,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert json.loads(example)["trace"]["trace_id"] == "workflow_12345"


def test_every_setting_has_a_row() -> None:
    table = PAGE[PAGE.index("| setting |") : PAGE.index("A setting that cannot")]
    named = set(re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines() if row)))
    settings = set(inspect.signature(Destination).parameters) - {"endpoint", "headers"}
    assert named == settings == {"spans", *Options.__annotations__}


def test_its_defaults_are_those_of_the_code() -> None:
    langfuse, otlp = Langfuse("pk-lf-1", "sk-lf-1"), OTLP("https://collector.example")
    for name in ("spans", "traces", "unsampled"):
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
        said = [cell.strip(" `") for cell in row.split("|")[-3:-1]]
        assert said == [f'"{getattr(langfuse, name)}"', f'"{getattr(otlp, name)}"']
