"""Every code block of the README is executed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from byline.cli import variables

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETUPS = (ROOT / "docs" / "setups.md").read_text(encoding="utf-8")
CALLS = (ROOT / "docs" / "calls.md").read_text(encoding="utf-8")
GATEWAYS = (ROOT / "docs" / "gateways.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
OTHERS = [
    code
    for page in (SETUPS, CALLS, GATEWAYS)
    for code in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
]
SHELL = [code.strip() for language, code in BLOCKS if language == "bash"]


@pytest.mark.parametrize(
    "code", [code for code in OTHERS if "django" not in code], ids=lambda code: code.splitlines()[-1][:40]
)
def test_python_block_of_the_other_pages_runs_by_itself(code: str) -> None:
    """Django's needs a project around it."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_page_of_settings_is_what_the_code_has() -> None:
    """Made anew by ``python -m byline.cli.variables > docs/settings.md``."""
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == variables.write()


@pytest.mark.parametrize("code", PYTHON, ids=[code.splitlines()[-1][:40] for code in PYTHON])
def test_python_block_runs_by_itself(code: str) -> None:
    """A reader can paste each block into a file of its own, and warnings stay away."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_shell_blocks_are_the_two_commands() -> None:
    """Both commands install from a clone; what they run after it is run here, or is this very run."""
    assert SHELL == ["pip install -e '.[demo]' && byline demo", "pip install -e '.[dev]' && pytest"]


@pytest.mark.newest
def test_demo_command_prints_signed_traces() -> None:
    """What the first command runs after the installation."""
    done = subprocess.run([sys.executable, "-m", "byline.cli", "demo"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "session_abc" in done.stdout
    assert "Document Processing Pipeline" in done.stdout


DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("examples/**/*.md")]
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=[document.name for document in DOCUMENTS])
def test_links_lead_somewhere(document: Path) -> None:
    """Every file that a page links is there, and every heading that it points at."""
    for target in re.findall(r"\]\(([^)#\s]+)?(#[^)\s]+)?\)", document.read_text(encoding="utf-8")):
        name, anchor = target
        if name.startswith(("http://", "https://")):
            continue
        linked = (document.parent / name) if name else document
        assert linked.exists(), f"{document.name} links {name}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
            assert anchor[1:] in slugs, f"{document.name} points at {name}{anchor}"
