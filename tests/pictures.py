"""Makes the pictures of the docs: ``python -m tests.pictures``.

Needs Phoenix, at ``BYLINE_PHOENIX`` or on the path, and Chromium, at ``BYLINE_CHROMIUM`` or on the path.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import httpx2

from tests.integration.conftest import need, phoenix_server
from tests.integration.travel_app import send_conversations

PICTURES: Final = Path(__file__).parents[1] / "docs" / "pictures"
_PROJECT: Final = "travel-assistant"
#: Virtual time that a page gets for its requests, in milliseconds.
_PAGE_BUDGET: Final = 20_000
_QUERY: Final = """{ projects { edges { node { id name sessions(first: 50) { edges { node {
  id sessionId userId numTraces firstInput { value } lastOutput { value } tokenUsage { prompt completion }
  traces(first: 50) { edges { node { traceId rootSpan {
    id name spanKind statusCode statusMessage input { value } output { value }
  } } } }
} } } } } } }"""


def read_pages(phoenix: str, project: str, spans: int) -> dict[str, Any]:
    """Return a project as its pages show it, once it has so many spans: sessions by their id, with their traces."""
    deadline = time.monotonic() + 60
    url = f"{phoenix}/v1/projects/{project}/spans"
    found: list[Any] = []
    while len(found) < spans:
        assert time.monotonic() < deadline, f"{len(found)} of {spans} spans arrived"
        answer = httpx2.get(url, params={"limit": 1000}, timeout=10)
        found = answer.json()["data"] if answer.status_code == 200 else []
        time.sleep(0.1)
    reply = httpx2.post(f"{phoenix}/graphql", json={"query": _QUERY}, timeout=30).json()
    projects = [edge["node"] for edge in reply["data"]["projects"]["edges"]]
    (shown,) = [each for each in projects if each["name"] == project]
    sessions = [edge["node"] for edge in shown["sessions"]["edges"]]
    for session in sessions:
        session["traces"] = [edge["node"] for edge in session["traces"]["edges"]]
    return {"id": shown["id"], "spans": found, "sessions": {session["sessionId"]: session for session in sessions}}


def find_chromium() -> str:
    """Return the program; without one the calling test is skipped, or fails in CI."""
    return need("BYLINE_CHROMIUM", "chromium")


def draw(url: str, picture: Path, size: tuple[int, int] = (1500, 620)) -> None:
    """Draw a web page with a headless Chromium."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            *(find_chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--hide-scrollbars", "--force-color-profile=srgb"),
            *(f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"),
            *(f"--virtual-time-budget={_PAGE_BUDGET}", f"--screenshot={picture}", url),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)


def draw_phoenix(phoenix: str, pages: dict[str, Any], folder: Path, prefix: str = "") -> None:
    """Draw the pages of a project that has the conversations of the travel assistant."""
    base = f"{phoenix}/projects/{pages['id']}"
    sessions = pages["sessions"]
    trip, photos = sessions[f"{prefix}trip-to-lisbon"], sessions[f"{prefix}holiday-photos"]
    tool_call = trip["traces"][1]
    failed = photos["traces"][1]
    folder.mkdir(exist_ok=True)
    draw(f"{base}/sessions", folder / "phoenix-sessions.png")
    draw(f"{base}/traces", folder / "phoenix-traces.png", (1500, 640))
    draw(f"{base}/sessions/{trip['id']}", folder / "phoenix-session.png", (1500, 900))
    draw(f"{base}/traces/{tool_call['traceId']}", folder / "phoenix-tool-call.png", (1500, 900))
    draw(f"{base}/traces/{failed['traceId']}", folder / "phoenix-error.png", (1500, 700))


def main() -> None:
    """Start Phoenix, hold the conversations, and draw its pages."""
    with tempfile.TemporaryDirectory() as directory, phoenix_server(Path(directory)) as phoenix:
        spans = send_conversations(phoenix.url, _PROJECT)
        draw_phoenix(phoenix.url, read_pages(phoenix.url, _PROJECT, spans), PICTURES)


if __name__ == "__main__":
    main()
