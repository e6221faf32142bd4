"""What Phoenix's pages show of a travel assistant's conversations, read back through Phoenix's own API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.travel_app import send_conversations
from tests.pictures import draw_phoenix, find_chromium, read_pages

pytestmark = pytest.mark.integration

#: First input, last output, and tokens of each session.
SESSIONS: dict[str, tuple[str, str, tuple[int, int], int]] = {
    "trip-to-lisbon": (
        "Where should I go in May?",
        "Three days are enough for the old town, Belém and Sintra.",
        (27 + 71 + 104 + 131, 18 + 17 + 14 + 16),
        3,
    ),
    "holiday-photos": (
        "Where was this photo taken?\n[image/png, 396 bytes omitted]",
        '{"error": {"code": "429", "message": "Rate limit exceeded: try again in 20 s."}}',
        (812, 13),
        2,
    ),
    # Both requests are in the one trace that the caller names.
    "session_abc": ("Summarize the contract.", "Two years, renews, cancel early.", (840, 24), 1),
}
#: Name, kind and status of the root of each turn.
ROOTS: dict[str, list[tuple[str, str, str]]] = {
    "trip-to-lisbon": [("POST /chat", "chain", "OK")] * 3,
    "holiday-photos": [("POST /chat", "chain", "OK"), ("POST /chat", "chain", "ERROR")],
    "session_abc": [("Document Processing Pipeline", "chain", "OK")],
}
#: The same of a destination that gets LLM spans alone.
LLM_ROOTS: dict[str, list[tuple[str, str, str]]] = {
    "trip-to-lisbon": [
        ("chat openai/gpt-4o", "llm", "OK"),
        ("POST /chat", "chain", "OK"),
        ("chat openai/gpt-4o", "llm", "OK"),
    ],
    "holiday-photos": [("chat openai/gpt-4o", "llm", "OK"), ("chat openai/gpt-4o", "llm", "ERROR")],
    "session_abc": [("Summarization Step", "chain", "OK")],
}


@pytest.mark.parametrize(("spans", "roots"), [("all", ROOTS), ("llm", LLM_ROOTS)])
def test_the_lists_of_sessions_and_traces(phoenix: str, spans: str, roots: dict[str, Any]) -> None:
    """First input, last output and the tokens of every turn; name, kind, input, output and status of every trace."""
    prefix = f"{spans}-"
    accepted = send_conversations(phoenix, f"travel-{spans}", spans=spans, prefix=prefix)
    sessions = read_pages(phoenix, f"travel-{spans}", accepted)["sessions"]
    assert {name.removeprefix(prefix): _columns(session) for name, session in sessions.items()} == SESSIONS
    shown = {name.removeprefix(prefix): session["traces"] for name, session in sessions.items()}
    assert {
        name: [
            (each["rootSpan"]["name"], each["rootSpan"]["spanKind"], each["rootSpan"]["statusCode"]) for each in traces
        ]
        for name, traces in shown.items()
    } == roots
    for traces in shown.values():
        for trace in traces:
            assert trace["rootSpan"]["input"]["value"]
            assert trace["rootSpan"]["output"]["value"]
    (_, failed) = shown["holiday-photos"]
    assert failed["rootSpan"]["statusMessage"] == "429: Rate limit exceeded: try again in 20 s."


def test_a_tool_call_and_an_error_read_as_such(phoenix: str) -> None:
    accepted = send_conversations(phoenix, "travel-details", prefix="details-")
    pages = read_pages(phoenix, "travel-details", accepted)
    spans = pages["spans"]
    calls = [span for span in spans if span["span_kind"] == "LLM"]
    (asking,) = [
        span["attributes"]
        for span in calls
        if "llm.output_messages.0.message.tool_calls.0.tool_call.function.name" in span["attributes"]
    ]
    path = "llm.output_messages.0.message.tool_calls.0.tool_call."
    assert asking[f"{path}function.name"] == "get_weather"
    assert asking[f"{path}function.arguments"] == '{"city":"Lisbon"}'
    assert '"get_weather"' in asking["llm.tools.0.tool.json_schema"]
    (tool,) = [span for span in spans if span["span_kind"] == "TOOL"]
    assert (tool["attributes"]["tool.name"], tool["attributes"]["input.value"]) == ("get_weather", '{"city": "Lisbon"}')
    assert tool["attributes"]["output.value"] == '{"temperature": 24, "sky": "sunny"}'
    assert {tool["attributes"][f"{side}.mime_type"] for side in ("input", "output")} == {"application/json"}
    failed = [span for span in spans if span["status_code"] == "ERROR"]
    assert {span["span_kind"] for span in failed} == {"CHAIN", "LLM"}
    assert {span["status_message"] for span in failed} == {"429: Rate limit exceeded: try again in 20 s."}


def test_the_pictures_of_the_docs_can_be_made(phoenix: str, tmp_path: Path) -> None:
    find_chromium()
    # A trace id belongs to one project of Phoenix, and other tests use the one of the example.
    accepted = send_conversations(phoenix, "travel-assistant", prefix="drawn-")
    draw_phoenix(phoenix, read_pages(phoenix, "travel-assistant", accepted), tmp_path, "drawn-")
    pictures = sorted(tmp_path.iterdir())
    assert len(pictures) == 5
    assert all(picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 30_000 for picture in pictures)


def _columns(session: dict[str, Any]) -> tuple[str, str, tuple[int, int], int]:
    tokens = session["tokenUsage"]
    return (
        session["firstInput"]["value"],
        session["lastOutput"]["value"],
        (int(tokens["prompt"]), int(tokens["completion"])),
        session["numTraces"],
    )
