"""`mask_input` and `mask_output`: callers ask that no destination receives inputs or outputs of their requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from byline import bound
from byline.export import OTLP, Destination, Langfuse
from byline.export.redaction.content import sides_of
from byline.testing import Receiver
from tests.export.langfuse_model import observations, traces
from tests.export.replay import INSTRUMENTATIONS, MARKER, recorded, replay
from tests.export.support import CHAT, TOOL, running

KEYS = ("pk-lf-1", "sk-lf-1")
MASKS = {"input": {"mask_input": True}, "output": {"mask_output": True}}
sides = pytest.mark.parametrize("side", MASKS)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def destination(kind: str, receiver: Receiver, **options: Any) -> Destination:
    if kind == "langfuse":
        return Langfuse(*KEYS, receiver.url, spans="all", **options)
    return OTLP(receiver.url, conventions=["openinference", "openrouter", "traceloop"], **options)


kinds = pytest.mark.parametrize("kind", ["langfuse", "otlp"])
ASKED = "asked-for-this"
TOLD = "told-of-that"
#: Input and output of a call in every attribute that names the side.
CONTENT: dict[str, Any] = {
    "gen_ai.input.messages": f'[{{"content": "{ASKED}"}}]',
    "gen_ai.output.messages": f'[{{"content": "{TOLD}"}}]',
    "gen_ai.system_instructions": ASKED,
    "gen_ai.prompt": ASKED,
    "gen_ai.completion": TOLD,
    "gen_ai.prompt.0.content": ASKED,
    "gen_ai.completion.0.content": TOLD,
    "gen_ai.content.prompt": ASKED,
    "gen_ai.content.completion": TOLD,
    "traceloop.entity.input": ASKED,
    "traceloop.entity.output": TOLD,
    "input.value": ASKED,
    "output.value": TOLD,
    "llm.input_messages.0.message.content": ASKED,
    "llm.output_messages.0.message.content": TOLD,
    "llm.prompts": [ASKED],
    "llm.openai.choices": TOLD,
    "langfuse.observation.input": ASKED,
    "langfuse.observation.output": TOLD,
    "langfuse.trace.input": ASKED,
    "langfuse.trace.output": TOLD,
    "request_data": ASKED,
    "response_data": TOLD,
    "ai.prompt.messages": ASKED,
    "ai.response.text": TOLD,
    "mlflow.spanInputs": ASKED,
    "mlflow.spanOutputs": TOLD,
}


@kinds
@sides
def test_the_masked_side_is_removed_and_the_other_is_kept(receiver: Receiver, kind: str, side: str) -> None:
    with running(destination(kind, receiver)) as app, app.request(metadata=MASKS[side]):
        app.chat("call", **CONTENT)
    masked, kept = (ASKED, TOLD) if side == "input" else (TOLD, ASKED)
    sent = [str(span) for span in receiver.spans]
    assert len(sent) == 2
    assert not [span for span in sent if masked in span]
    (call,) = [span for span in receiver.spans if span.name == "call"]
    own = {key for key, value in CONTENT.items() if kept in str(value)}
    if kind == "langfuse":
        # Of all spellings of a conversation Langfuse gets one.
        own = {f"langfuse.{level}.{'output' if side == 'input' else 'input'}" for level in ("observation", "trace")}
    assert own <= call.attributes.keys()


@kinds
@sides
def test_content_that_may_belong_to_either_side_is_removed(receiver: Receiver, kind: str, side: str) -> None:
    """Arguments of tools, errors, and content under names that do not name a side."""
    either = {
        "gen_ai.tool.call.arguments": ASKED,
        "gen_ai.tool.call.result": ASKED,
        "tool_response": ASKED,
        "pydantic_ai.all_messages": ASKED,
        "final_result": ASKED,
        "events": ASKED,
        "exception.message": ASKED,
        "url.full": f"https://app/chat?q={ASKED}",
        "odd": json.dumps({"x": ASKED}),
    }
    with running(destination(kind, receiver)) as app, app.request(metadata=MASKS[side]):
        with pytest.raises(ValueError, match=ASKED), app.span("call", {**CHAT, **either}):
            raise ValueError(ASKED)
        with app.span("search", {**TOOL, **either}):
            pass
    assert len(receiver.spans) == 3
    assert ASKED not in str(receiver.spans)
    assert {span.name for span in receiver.spans if span.status == "ERROR"} == {"POST /chat", "call"}


@sides
@pytest.mark.parametrize("instrumentation", INSTRUMENTATIONS)
def test_langfuse_shows_no_masked_content_of_any_instrumentation(
    receiver: Receiver, instrumentation: str, side: str
) -> None:
    """Neither for the calls nor for their trace; tokens and models are kept."""
    with running(destination("langfuse", receiver)) as app, app.request(metadata=MASKS[side]):
        for item in recorded(instrumentation):
            replay(app.provider, item)
    (trace,) = traces(receiver.spans, "legacy").values()
    assert MARKER not in str(getattr(trace, side))
    for found in observations(receiver.spans, "direct").values():
        assert MARKER not in str(getattr(found, side))
        if found.type == "generation":
            assert found.model


@kinds
@pytest.mark.parametrize("said", [True, "true", "1", 1, "yes"])
def test_spellings_of_a_request_to_mask(receiver: Receiver, kind: str, said: Any) -> None:
    with running(destination(kind, receiver)) as app, app.request(metadata={"mask_input": said, "mask_output": said}):
        app.chat("call", **CONTENT)
    assert not [text for text in (ASKED, TOLD) if text in str(receiver.spans)]


@kinds
@pytest.mark.parametrize("said", [False, "false", "0", 0, "no", ""])
def test_spellings_that_do_not_ask_to_mask(receiver: Receiver, kind: str, said: Any) -> None:
    with running(destination(kind, receiver)) as app, app.request(metadata={"mask_input": said, "mask_output": said}):
        app.chat("call", **CONTENT)
    assert ASKED in str(receiver.spans)
    assert TOLD in str(receiver.spans)


def test_input_and_output_of_a_trace_leave_out_masked_calls(receiver: Receiver) -> None:
    """The trace has the first input and the last output that are not masked."""
    with running(destination("langfuse", receiver)) as app, app.request():
        with bound(metadata=MASKS["input"]):
            app.chat("first", **{"input.value": "secret", "output.value": "one"})
        with bound(metadata=MASKS["output"]):
            app.chat("second", **{"input.value": "two", "output.value": "secret"})
    (trace,) = traces(receiver.spans, "direct").values()
    assert (trace.input, trace.output) == ("two", "one")
    assert "secret" not in str(receiver.spans)


def test_other_requests_are_not_masked(receiver: Receiver) -> None:
    with running(destination("langfuse", receiver)) as app:
        for metadata in (MASKS["input"], {}):
            with app.request(metadata=metadata):
                app.chat("call", **{"input.value": "a question"})
    assert [span.attributes.get("input.value") for span in receiver.spans if span.name == "call"] == [
        None,
        "a question",
    ]


@pytest.mark.parametrize(
    ("key", "side"),
    [
        ("gen_ai.tool.definitions", {"input"}),
        ("llm.invocation_parameters", {"input", "output"}),
        ("gen_ai.input.messages", {"input"}),
        ("gen_ai.output.messages", {"output"}),
        ("gen_ai.tool.call.arguments", {"input", "output"}),
        ("tool_arguments", {"input", "output"}),
        ("exception.message", {"input", "output"}),
        ("gen_ai.request.suffix", {"input"}),
    ],
)
def test_sides_of_attribute_names(key: str, side: set[str]) -> None:
    assert sides_of(key) == side
