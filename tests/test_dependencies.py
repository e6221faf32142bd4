"""The dependencies in pyproject.toml are those that the package imports."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "byline"
#: Imported only if the app has installed them: the extras `wsgi` and `prices`, and aiohttp by its hook.
OPTIONAL = {
    "aiohttp",
    "genai-prices",
    "opentelemetry-instrumentation-threading",
    "opentelemetry-instrumentation-wsgi",
    "yarl",
}
#: Declared for the encoder and `requests` in versions that fit together.
NOT_IMPORTED = {"opentelemetry-exporter-otlp-proto-http"}
#: The command line has the extra `demo` for its imports, tests bring their own packages, pytest loads its plugin, and
#: apps of a framework import the adapter of the framework.
LEFT_OUT = ("aiohttp_web.py", "cli/", "django.py", "flask.py", "pytest_plugin.py", "testing/", "tornado.py")


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Yield the modules that code imports when it runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imported_modules(other)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # A namespace package imports modules: ``from opentelemetry import trace``.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imported_modules(node)


@cache
def providers() -> dict[str, str]:
    """Return the distribution of each installed module, by its dotted name."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        for path in distribution.files or ():
            if path.suffix in (".py", ".so", ".pyd"):
                parts = path.parts[:-1] if path.name == "__init__.py" else (*path.parts[:-1], path.name.split(".")[0])
                found[".".join(parts)] = name
    return found


def provider_of(module: str) -> str | None:
    """Return the distribution that brings a module, or the module that has a name."""
    while module:
        if module in providers():
            return providers()[module]
        module = module.rpartition(".")[0]
    return None


def imported_distributions(path: Path) -> dict[str, str]:
    """Return the distributions that a file imports, with a module of each."""
    modules = {
        module
        for module in imported_modules(ast.parse(path.read_text(encoding="utf-8")))
        if module.partition(".")[0] not in {*sys.stdlib_module_names, "byline"}
    }
    return {provider_of(module) or module: module for module in sorted(modules)}


def declared_distributions() -> set[str]:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (block,) = re.findall(r"^dependencies = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    return set(re.findall(r'^ +"([\w-]+)>=', block, re.MULTILINE))


@pytest.fixture(scope="module")
def imported() -> dict[str, dict[str, str]]:
    """The imported distributions of each file."""
    names = [path.relative_to(SOURCE).as_posix() for path in sorted(SOURCE.rglob("*.py"))]
    return {name: imported_distributions(SOURCE / name) for name in names if not name.startswith(LEFT_OUT)}


def test_every_import_is_declared(imported: dict[str, dict[str, str]]) -> None:
    """A dependency of a dependency may go with its next version."""
    allowed = declared_distributions() | OPTIONAL
    undeclared = {
        f"{name} imports {module} of {distribution}"
        for name, found in imported.items()
        for distribution, module in found.items()
        if distribution not in allowed
    }
    assert undeclared == set()


def test_every_declared_dependency_is_imported(imported: dict[str, dict[str, str]]) -> None:
    """A package without an import needs no declaration."""
    assert declared_distributions() - NOT_IMPORTED - {each for found in imported.values() for each in found} == set()


#: Web frameworks, exporters, clients and extras: modules of each are imported by the apps that use them.
NOT_AT_START = {
    "anyio",
    "asgiref",
    "genai_prices",
    "google",
    "httpx",
    "httpx2",
    "opentelemetry.exporter",
    "opentelemetry.instrumentation.asgi",
    "opentelemetry.instrumentation.threading",
    "opentelemetry.instrumentation.wsgi",
    "opentelemetry.proto",
    "packaging",
    "pydantic",
    "requests",
    "starlette",
    "urllib3",
    "yaml",
}
OF_THREADS = {"opentelemetry.instrumentation.threading", "packaging"}
#: Upper bounds: lower them when `import byline` needs less, do not raise them for what few apps use.
OWN_MODULES, OTHER_MODULES = 144, 175
_START = """
import json, sys
import opentelemetry.sdk.trace
before = set(sys.modules)
import byline
at_import = set(sys.modules) - before
byline.instrument(destinations=[], clients=())
print(json.dumps([sorted(at_import), sorted(set(sys.modules) - before)]))
"""


@pytest.mark.integration
def test_import_and_instrument_load_what_every_app_needs() -> None:
    """Time depends on the machine, the set of modules does not."""
    printed = subprocess.run([sys.executable, "-c", _START], capture_output=True, text=True, check=True).stdout
    at_import, with_instrument = (set(modules) for modules in json.loads(printed))
    # `instrument` asks OpenTelemetry's instrumentation of threads, if that is installed, whether it is active.
    for loaded, unwanted in ((at_import, NOT_AT_START), (with_instrument, NOT_AT_START - OF_THREADS)):
        assert not {name for name in loaded if any(f"{name}.".startswith(f"{each}.") for each in unwanted)}
    own = {name for name in at_import if name.split(".")[0] == "byline"}
    assert (len(own) <= OWN_MODULES, len(at_import - own) <= OTHER_MODULES) == (True, True), (
        len(own),
        len(at_import - own),
    )
