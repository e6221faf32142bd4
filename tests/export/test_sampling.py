"""Which spans a destination gets: by session, by trace, by error; by organization, environment, key and model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.trace import Status, StatusCode

import byline
from byline.export import OTLP
from byline.export.decisions import is_sampled
from byline.settings import SettingError
from byline.testing import Receiver
from tests.export.support import AGENT, CHAT, named, running, tree


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def llm(receiver: Receiver, **options: Any) -> OTLP:
    return OTLP(receiver.url, spans="llm", **options)


SESSIONS = [f"session-{number}" for number in range(400)]


def test_sessions_are_sampled_whole(receiver: Receiver) -> None:
    """In any traces, about as many as the ratio."""
    with running(llm(receiver, sampling=0.25)) as app:
        for _ in range(3):
            for session in SESSIONS:
                with app.request(session_id=session):
                    app.chat()
    kept = [span.attributes["session.id"] for span in receiver.spans]
    assert set(kept) == {session for session in SESSIONS if is_sampled(session, 0.25)}
    assert len(kept) == 3 * len(set(kept))
    assert 60 < len(set(kept)) < 140
    assert byline.stats()["otlp.spans.left_out"] == 1200 - len(kept)


@pytest.mark.integration
def test_the_answer_is_the_same_in_every_process() -> None:
    """Hashes of texts differ between Python processes; this one does not."""
    code = f"""
from byline.export.decisions import is_sampled
print("".join(str(int(is_sampled(f"session-{{n}}", 0.25))) for n in range({len(SESSIONS)})))
"""
    said = {subprocess.check_output([sys.executable, "-c", code], text=True).strip() for _ in range(2)}
    assert said == {"".join(str(int(is_sampled(session, 0.25))) for session in SESSIONS)}


def test_larger_ratio_keeps_the_sessions_of_a_smaller_ratio() -> None:
    for session in SESSIONS:
        assert is_sampled(session, 0.1) <= is_sampled(session, 0.5) <= is_sampled(session, 1.0)
        assert not is_sampled(session, 0.0)


def test_traces_without_a_session_are_sampled_whole(receiver: Receiver) -> None:
    """By the caller's trace id if there is one, in any spelling."""
    with running(llm(receiver, sampling=0.5)) as app:
        for number in range(40):
            for written in (f"ab{number:030x}", f"AB{number:030X}"):
                with app.request(trace_id=written), app.span("agent", AGENT):
                    app.chat()
        for _ in range(40):
            with app.request(), app.span("agent", AGENT):
                app.chat()
    spans = receiver.spans
    traces: dict[str, int] = {}
    for span in spans:
        traces[span.trace_id] = traces.get(span.trace_id, 0) + 1
    assert 15 < len(traces) < 65
    assert set(traces.values()) <= {2, 4}
    tree(spans)


def test_errors_can_be_kept_always(receiver: Receiver) -> None:
    """Without the spans around them, below a root of their own."""
    with running(llm(receiver, sampling=0.0, keep_errors=True)) as app, app.request(session_id="s"):
        with app.span("agent", AGENT):
            with app.span("failed", CHAT) as span:
                span.set_status(Status(StatusCode.ERROR, "no"))
            app.chat("fine")
        app.chat("refused", **{"error.type": "429"})
    assert tree(receiver.spans) == {None: ["request"], "request": ["failed", "refused"]}


def test_each_destination_has_its_own_share(receiver: Receiver) -> None:
    with Receiver() as whole, running(llm(receiver, sampling=0.0), OTLP(whole.url)) as app:
        with app.request(session_id="s"):
            app.chat()
        app.close()
        assert len(whole.spans) == 2
    assert receiver.spans == []


def test_the_environment_sets_the_share_of_all(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYLINE_SAMPLING", "0")
    with running(llm(receiver)) as app:
        app.chat()
    assert receiver.spans == []


FILTERS: list[tuple[dict[str, Any], list[str]]] = [
    ({"organizations": ["acme"]}, ["acme"]),
    ({"organizations": ["a*", "other"]}, ["acme"]),
    ({"environments": ["production"]}, ["acme"]),
    ({"environments": ["env-2"]}, ["umbrella"]),
    ({"keys": ["hash-1"]}, ["acme"]),
    ({"keys": ["team-*"]}, ["umbrella"]),
    ({"models": ["openai/*"]}, ["acme"]),
    ({"models": ["openai/*", "anthropic/*"], "organizations": ["umbrella"]}, ["umbrella"]),
    ({"where": lambda span: span.attributes["byline.organization.id"] == "umbrella"}, ["umbrella"]),
    ({"organizations": []}, []),
    ({}, ["acme", "nobody", "umbrella"]),
]


@pytest.mark.parametrize(("filters", "expected"), FILTERS, ids=[str(sorted(row[0])) + str(row[1]) for row in FILTERS])
def test_filters(receiver: Receiver, filters: dict[str, Any], expected: list[str]) -> None:
    with running(llm(receiver, **{"where": lambda span: "name" not in filters, **filters})) as app:
        with app.request(organization_id="acme", environment="production"):
            app.chat("acme", **{"gen_ai.request.model": "openai/gpt-4o", "byline.caller.key.hash": "hash-1"})
        with app.request(organization_id="umbrella", environment_id="env-2"):
            app.chat("umbrella", **{"gen_ai.response.model": "anthropic/x", "byline.gateway.key.alias": "team-red"})
        if "where" not in filters:
            with app.request():
                app.chat("nobody", **{"gen_ai.request.model": "mistral"})
    assert sorted(span.name for span in receiver.spans) == expected


def test_filtered_span_leaves_no_dangling_parent(receiver: Receiver) -> None:
    """Models count for model calls alone."""
    with running(llm(receiver, models=["gpt-4o"])) as app, app.request(), app.span("agent", AGENT):
        with app.span("mini", {**CHAT, "gen_ai.request.model": "gpt-4o-mini"}):
            app.chat("inner")
        app.chat("outer")
    assert tree(receiver.spans) == {None: ["agent"], "agent": ["inner", "outer"]}
    assert named(receiver.spans, "inner").attributes["gen_ai.request.model"] == "gpt-4o"


def test_a_predicate_that_fails_lets_nothing_through(receiver: Receiver, production: pytest.LogCaptureFixture) -> None:
    def where(span: Any) -> bool:
        raise RuntimeError("with a prompt in it")

    with running(llm(receiver, where=where)) as app:
        app.chat()
    assert receiver.spans == []
    assert "with a prompt in it" not in production.text
    assert "RuntimeError" in production.text


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"sampling": 1.5}, "E045"),
    ({"sampling": -0.1}, "E045"),
    ({"sampling": "half"}, "E045"),
    ({"sampling": True}, "E045"),
    ({"organizations": "acme"}, "E047"),
    ({"models": [1]}, "E047"),
    ({"where": "always"}, "E047"),
    ({"unsampled": "maybe"}, "E048"),
    ({"traces": "session"}, "E056"),
    ({"traces": "call", "spans": "all"}, "E056"),
]


@pytest.mark.parametrize(("wrong", "identifier"), WRONG, ids=[str(row[0]) for row in WRONG])
def test_settings_that_cannot_be_used(wrong: dict[str, Any], identifier: str) -> None:
    with pytest.raises(SettingError, match=rf"byline\.{identifier}"):
        OTLP("https://collector.example", **wrong)
