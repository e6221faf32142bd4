"""Values in a form that Langfuse cannot read are corrected or removed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import SpanLimits

from byline.export import Langfuse
from byline.testing import ReceivedSpan, Receiver
from tests.export.langfuse_model import moment, observations
from tests.export.support import TOOL, Memory, running

KEYS = ("pk-lf-1", "sk-lf-1")
OBSERVATION = "langfuse.observation."


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(keys=KEYS) as found:
        yield found


def call(receiver: Receiver, **attributes: Any) -> ReceivedSpan:
    """Return a model call with these attributes as Langfuse receives it."""
    with running(Langfuse(*KEYS, receiver.url)) as app:
        app.chat("call", **attributes)
    (span,) = receiver.spans
    return span


def test_usage_and_cost_in_texts_become_numbers(receiver: Receiver) -> None:
    """Langfuse drops a cost that is a text."""
    span = call(
        receiver,
        **{
            f"{OBSERVATION}usage_details": '{"input": "5", "output": 2.0, "note": "none", "bad": -1, "flag": true}',
            f"{OBSERVATION}cost_details": '{"input": "0.25", "total": "0.5"}',
        },
    )
    usage = json.loads(span.attributes[f"{OBSERVATION}usage_details"])
    assert usage == {"input": 5, "output": 2}
    assert {type(count) for count in usage.values()} == {int}
    assert json.loads(span.attributes[f"{OBSERVATION}cost_details"]) == {"input": 0.25, "total": 0.5}
    assert span.attributes["gen_ai.usage.cost"] == 0.5


def test_parameters_that_are_no_json_are_removed(receiver: Receiver) -> None:
    """One of them would make the whole object unreadable."""
    span = call(
        receiver,
        **{
            "gen_ai.request.temperature": float("nan"),
            "gen_ai.request.top_p": float("inf"),
            "gen_ai.request.weights": (0.5, float("-inf")),
            "gen_ai.request.max_tokens": 64,
        },
    )

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    parameters = json.loads(span.attributes[f"{OBSERVATION}model.parameters"], parse_constant=refuse)
    assert parameters == {"max_tokens": 64, "weights": [0.5, None]}


@pytest.mark.parametrize("stated", ["garbage", "2026-13-45T00:00:00Z", "", 5, "yesterday 10:00"])
def test_an_invalid_time_of_the_first_token_is_replaced(receiver: Receiver, stated: Any) -> None:
    with running(Langfuse(*KEYS, receiver.url)) as app:
        span = app.tracer.start_span("call", start_time=10**18, attributes={"gen_ai.operation.name": "chat"})
        span.set_attribute(f"{OBSERVATION}completion_start_time", stated)
        span.set_attribute("gen_ai.response.time_to_first_chunk", 0.25)
        span.end(10**18 + 10**9)
    shown = observations(receiver.spans, "direct")["call"]
    assert shown.completion_start == moment(10**18 + 250_000_000)


@pytest.mark.parametrize(
    "stated", ["2026-11-25T10:00:00Z", '"2026-11-25T10:00:00.123456+01:00"', "2026-11-25T10:00:00.1Z", "2026-11-25"]
)
def test_a_valid_time_of_the_first_token_is_kept(receiver: Receiver, stated: str) -> None:
    span = call(receiver, **{f"{OBSERVATION}completion_start_time": stated})
    assert span.attributes[f"{OBSERVATION}completion_start_time"] == stated


@pytest.mark.parametrize("failed", [False, True])
def test_an_unknown_level_is_replaced_by_the_status(receiver: Receiver, failed: bool) -> None:
    attributes: dict[str, Any] = {f"{OBSERVATION}level": "sev1", **({"error.type": "429"} if failed else {})}
    span = call(receiver, **attributes)
    assert span.attributes.get(f"{OBSERVATION}level") == ("ERROR" if failed else None)


@pytest.mark.parametrize("stated", ["debug", "Info", "WARN", "critical", "default", "log"])
def test_a_known_level_is_kept_in_any_case(receiver: Receiver, stated: str) -> None:
    assert call(receiver, **{f"{OBSERVATION}level": stated}).attributes[f"{OBSERVATION}level"] == stated.upper()


def test_ids_and_labels_become_strings(receiver: Receiver) -> None:
    span = call(receiver, **{"session.id": 42, "user.id": 7, "langfuse.version": 1.5, "langfuse.release": True})
    told = span.attributes
    assert (told["session.id"], told["user.id"]) == ("42", "7")
    assert (told["langfuse.version"], told["langfuse.release"]) == ("1.5", "true")
    assert told.get("gen_ai.conversation.id") in (None, "42")


@pytest.mark.parametrize(
    "key", ["gen_ai.tool.name", "genkit:name", "logfire.msg", "ai.toolCall.name", "ai.operationId"]
)
def test_names_are_cut_to_the_limit_of_langfuse(receiver: Receiver, key: str) -> None:
    """Langfuse prefers these attributes to the span's name."""
    long = "a name " * 300
    with running(Langfuse(*KEYS, receiver.url, spans="all")) as app:
        for attributes in ({}, TOOL):
            with app.span("span", {**attributes, key: long, "ai.telemetry.functionId": long}):
                pass
    assert len(receiver.spans) == 2
    for span in receiver.spans:
        assert span.attributes[key].startswith("a name a name")
        assert len(span.attributes[key]) <= 1000
        operation = span.attributes.get("ai.operationId", "")
        assert len(f"{span.attributes['ai.telemetry.functionId']}:{operation}") <= 1000


def test_ids_are_whole_although_the_spans_of_the_app_have_a_limit() -> None:
    """`OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT` cuts texts; a cut id is another id."""
    memory = Memory()
    session = "s" * 60
    with running(memory, span_limits=SpanLimits(max_span_attribute_length=20)) as app, app.request(session_id=session):
        app.chat("chat")
    assert memory.values("session.id") == {"POST /chat": session, "chat": session}
