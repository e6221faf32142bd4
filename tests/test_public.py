"""The public names: complete, sorted, documented and unchanged."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import byline

ROOT = Path(__file__).parent.parent
MODULES = [
    # The demo imports what its extra brings.
    pytest.param(name, marks=pytest.mark.newest if name == "byline.cli.demo" else ())
    for name in sorted(
        module.name
        for module in pkgutil.walk_packages(byline.__path__, "byline.")
        # Running a module as a program is not importing it.
        if not module.name.endswith("__main__")
    )
]


def test_all_is_sorted_and_complete() -> None:
    """``__all__`` names exactly the public attributes of the package."""
    shown = {
        name
        for name, value in vars(byline).items()
        if not name.startswith("_") and not (isinstance(value, ModuleType) and name not in byline.__all__)
    }
    assert list(byline.__all__) == sorted(byline.__all__)
    assert shown == set(byline.__all__)


@pytest.mark.parametrize(
    "name", ["aiohttp_web", "asgi", "destinations", "django", "flask", "gateways", "logging", "testing", "wsgi"]
)
def test_all_of_a_public_module_exists(name: str) -> None:
    """Ruff holds the order."""
    module = importlib.import_module(f"byline.{name}")
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, each) for each in module.__all__)


def test_the_version_is_that_of_the_project() -> None:
    """Written in pyproject.toml alone."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (version,) = re.findall(r'^version = "(.+)"$', text, re.MULTILINE)
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    assert f'"{version}"' not in sources
    assert not hasattr(byline, "__version__")


@pytest.mark.integration
def test_the_public_names_work_as_the_typed_file_uses_them() -> None:
    """The same file is read by two type checkers."""
    code = "from tests import public_use as use; use.functions(); use.tests(); use.asgi_apps(); use.wsgi_app(); "
    code += "use.setup('http://127.0.0.1:9')"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_instrument_has_the_promised_parameters() -> None:
    """Keyword-only, in the promised order."""
    parameters = inspect.signature(byline.instrument).parameters
    assert list(parameters) == [
        "tracer_provider",
        "destinations",
        "gateways",
        "clients",
        "llm_spans",
        "stamp",
        "capture_content",
        "propagate_to",
        "queues",
        "threads",
    ]
    assert {parameter.kind for parameter in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}


def test_attribution_has_the_promised_fields() -> None:
    """Users build their own identity functions on these names."""
    assert byline.Attribution.__struct_fields__ == (
        "session_id",
        "user_id",
        "trace_id",
        "trace_name",
        "span_name",
        "generation_name",
        "parent_span_id",
        "environment",
        "release",
        "version",
        "tags",
        "metadata",
        "organization_id",
        "environment_id",
    )


@pytest.mark.parametrize("name", MODULES)
def test_module_has_a_docstring_and_its_examples_run(name: str) -> None:
    """The examples are those in all docstrings of the module."""
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip()
    assert doctest.testmod(module).failed == 0


@pytest.mark.integration
def test_import_loads_no_framework_client_or_sdk() -> None:
    """An app may have them installed and not use them. The price list of genai-prices is not loaded either."""
    code = "import sys, byline, byline.asgi, byline.wsgi, byline.testing; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    theirs = """
        aiohttp anthropic boto3 botocore django fastapi flask genai_prices httpx httpx2 langfuse litellm openai pydantic
        rich uvicorn yarl
    """
    assert loaded.isdisjoint(theirs.split())


def test_every_error_id_is_documented_once() -> None:
    """docs/errors.md has one row for each id in the code, and no other."""
    said: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        said.update(re.findall(r'"(byline\.E\d{3})[":]', path.read_text(encoding="utf-8")))
    rows = re.findall(
        r"^\| `(byline\.E\d{3})` ", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert rows == sorted(set(rows))
    assert set(rows) == said
