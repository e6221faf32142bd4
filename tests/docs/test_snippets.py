"""Every code block of the README and of docs/ runs as it stands, each in a process and a folder of its own.

Nothing is changed or appended: processes end as a reader's process ends, without ``uninstrument()``. What is left
behind, such as the folder of a spool, is in the temporary folder of the test.
"""

from __future__ import annotations

import html
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.docs.pages import ROOT, code_blocks
from tests.support import environment_without_settings

PYTHON = list(code_blocks("python"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = [code.strip() for page, code in code_blocks("bash") if page == "README.md"]
#: A Django project around a block; other blocks ignore both.
DJANGO = "SECRET_KEY = 'x'\nALLOWED_HOSTS = ['*']\nROOT_URLCONF = 'project_urls'\n"


def run_block(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a block as a file, in an environment without byline's variables."""
    (folder / "project_settings.py").write_text(DJANGO)
    (folder / "project_urls.py").write_text("urlpatterns = []\n")
    (folder / "snippet.py").write_text(code, encoding="utf-8")
    env = environment_without_settings()
    env["DJANGO_SETTINGS_MODULE"] = "project_settings"
    command = [sys.executable, "-W", "error", "snippet.py"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("page", "code"), PYTHON, ids=[f"{page}-{code.splitlines()[-1].strip()[:40]}" for page, code in PYTHON]
)
def test_python_block_runs_as_it_stands(page: str, code: str, tmp_path: Path) -> None:
    """Without an error, a warning or a message on standard error. A second process finds the same spool."""
    run = run_block(code, tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    if "spool=" in code:
        folders = subfolders(tmp_path)
        run_block(code, tmp_path)
        assert subfolders(tmp_path) == folders != []


def without_durations(text: str) -> str:
    return re.sub(r"\d+ ms", "… ms", text)


def subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_dir() and path.name != "__pycache__")


@pytest.mark.parametrize(("page", "code"), PYTHON)
def test_no_block_undoes_its_own_effect(page: str, code: str) -> None:
    """A reader who pastes it wants the spans to be sent."""
    assert "uninstrument(" not in code
    assert "destinations=[]" not in code


@pytest.mark.parametrize(("page", "code"), list(code_blocks("json")))
def test_json_blocks_are_json(page: str, code: str) -> None:
    assert json.loads(code)


def test_shell_blocks_of_the_readme_are_these_commands() -> None:
    """The first two install from a clone; ``pytest`` runs this test, and the tests below run the others."""
    assert SHELL[:3] == [
        "pip install -e '.[demo]' && byline demo",
        "pip install -e '.[dev]' && pytest",
        "byline gateway uvicorn main:app",
    ]
    assert [shlex.split(command)[0] for command in SHELL[3:]] == ["curl"]


@pytest.mark.integration
@pytest.mark.newest
def test_the_first_app_of_the_readme_answers_and_its_call_is_printed(tmp_path: Path) -> None:
    """Started and called with the commands of the README, but on a free port."""
    _, url, _, content_type, _, session, _, body = shlex.split(SHELL[3].replace("\\\n", ""))
    (tmp_path / "main.py").write_text(PYTHON[0][1], encoding="utf-8")
    arguments = [*shlex.split(SHELL[2])[2:], "--port", "0"]
    command = [sys.executable, "-m", "byline.cli", "gateway", sys.executable, "-m", *arguments]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment_without_settings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stderr is not None
        address = next(found[1] for line in run.stderr if (found := re.search(r"running on (http://\S+)", line)))
        headers = dict(header.split(": ") for header in (content_type, session))
        path = url.removeprefix("http://127.0.0.1:8000")
        reply = httpx2.post(address + path, headers=headers, content=body, trust_env=False)
        run.terminate()
        output, errors = run.communicate(timeout=20)
    assert (reply.status_code, "Traceback" in errors) == (200, False), errors
    (line,) = (line for line in output.splitlines() if line.startswith("chat gpt-4o "))
    assert without_durations(line) in without_durations(README)


@pytest.mark.integration
@pytest.mark.newest
def test_the_demo_command_prints_traces() -> None:
    run = subprocess.run([sys.executable, "-m", "byline.cli", "demo"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "session_abc" in run.stdout
    assert "Document Processing Pipeline" in run.stdout
    (tree,) = (code for page, code in code_blocks("text") if page == "README.md" and "  trace workflow_12345" in code)
    assert without_durations(tree) in without_durations(run.stdout)
    # The spans of FastAPI's inside are left out of destinations.
    assert "Not in the tree" not in run.stdout


def texts_of(svg: str) -> list[str]:
    """Return the lines of a picture of a terminal, without durations and the lines of the tree."""
    rows: dict[str, str] = {}
    for row, text in re.findall(r'y="([\d.]+)"[^>]*clip-path[^>]*>([^<]*)<', svg):
        rows[row] = rows.get(row, "") + html.unescape(text)
    return [without_durations(" ".join(line.split())) for line in rows.values()]


@pytest.mark.integration
@pytest.mark.newest
def test_the_picture_of_the_readme_is_that_of_the_demo(tmp_path: Path) -> None:
    """``byline demo --svg docs/demo.svg`` draws it again. The picture loads nothing from elsewhere."""
    picture = tmp_path / "demo.svg"
    command = [sys.executable, "-m", "byline.cli", "demo", "--svg", str(picture)]
    subprocess.run(command, capture_output=True, text=True, check=True)
    stored = (ROOT / "docs" / "demo.svg").read_text(encoding="utf-8")
    assert texts_of(stored) == texts_of(picture.read_text(encoding="utf-8"))
    assert len(texts_of(stored)) > 10
    assert "url(http" not in stored
    assert 'src="docs/demo.svg"' in README
