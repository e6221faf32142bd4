"""Conversations in the spellings of instrumentations, as Langfuse's and Phoenix's pages show them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import Event

from byline.export import OTLP, Langfuse
from byline.export.chat_messages import text_of
from byline.export.conversation import read_conversation
from byline.testing import Receiver
from tests.export.langfuse_model import Path, compact_cell, shown
from tests.export.replay import MARKER, RECORDED, replay
from tests.export.support import CHAT, named, running

KEYS = ("pk-lf-1", "sk-lf-1")
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": {"type": "object"}}}
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Weather in Paris?"}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "blue"}
ANSWER = {"role": "assistant", "content": "Blue."}
REQUEST = {"model": "m", "messages": [SYSTEM, USER, CALLING, RESULT], "tools": [TOOL]}
RESPONSE = {"id": "r", "choices": [{"index": 0, "message": ANSWER, "finish_reason": "stop"}]}

_IN, _OUT = "llm.input_messages.", "llm.output_messages."
#: Spelling → attributes and events of one conversation.
SPELLINGS: dict[str, tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]] = {
    "GenAI conventions": (
        {
            "gen_ai.system_instructions": '[{"type": "text", "content": "Be brief."}]',
            "gen_ai.input.messages": json.dumps(
                [
                    {"role": "user", "parts": [{"type": "text", "content": "Weather in Paris?"}]},
                    {
                        "role": "assistant",
                        "parts": [
                            {"type": "tool_call", "id": "call_1", "name": "get_weather", "arguments": {"city": "Paris"}}
                        ],
                    },
                    {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call_1", "response": "blue"}]},
                ]
            ),
            "gen_ai.output.messages": '[{"role": "assistant", "parts": [{"type": "text", "content": "Blue."}]}]',
            "gen_ai.tool.definitions": json.dumps(
                [{"type": "function", "name": "get_weather", "description": "d", "parameters": {"type": "object"}}]
            ),
        },
        [],
    ),
    "GenAI conventions, on an event": (
        {},
        [
            (
                "gen_ai.client.inference.operation.details",
                {
                    "gen_ai.input.messages": json.dumps(
                        [
                            {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
                            {"role": "user", "parts": [{"type": "text", "content": "Weather in Paris?"}]},
                            CALLING,
                            RESULT,
                        ]
                    ),
                    "gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": ["Blue."]}]),
                    "gen_ai.tool.definitions": json.dumps([TOOL]),
                },
            )
        ],
    ),
    "earlier GenAI events": (
        {"gen_ai.tool.definitions": json.dumps([TOOL])},
        [
            ("gen_ai.system.message", {"content": "Be brief."}),
            ("gen_ai.user.message", {"content": "Weather in Paris?"}),
            ("gen_ai.assistant.message", {"tool_calls": json.dumps([CALL])}),
            ("gen_ai.tool.message", {"id": "call_1", "content": "blue"}),
            ("gen_ai.choice", {"index": 0, "finish_reason": "stop", "message": json.dumps({"content": "Blue."})}),
        ],
    ),
    "Logfire and Pydantic AI, as a list of events": (
        {
            "events": json.dumps(
                [
                    {"event.name": "gen_ai.system.message", "content": "Be brief.", "role": "system"},
                    {"event.name": "gen_ai.user.message", "content": "Weather in Paris?", "role": "user"},
                    {"event.name": "gen_ai.assistant.message", "role": "assistant", "tool_calls": [CALL]},
                    {"event.name": "gen_ai.tool.message", "id": "call_1", "role": "tool", "content": "blue"},
                    {"event.name": "gen_ai.choice", "message": {"role": "assistant", "content": "Blue."}},
                ]
            ),
            "gen_ai.tool.definitions": json.dumps([TOOL]),
        },
        [],
    ),
    "Logfire": (
        {
            "request_data": json.dumps(REQUEST),
            "response_data": json.dumps({"message": ANSWER, "usage": None}),
        },
        [],
    ),
    "OpenLLMetry": (
        {
            "gen_ai.prompt.0.role": "system",
            "gen_ai.prompt.0.content": "Be brief.",
            "gen_ai.prompt.1.role": "user",
            "gen_ai.prompt.1.content": '[{"type": "text", "text": "Weather in Paris?"}]',
            "gen_ai.prompt.2.role": "assistant",
            "gen_ai.prompt.2.tool_calls.0.id": "call_1",
            "gen_ai.prompt.2.tool_calls.0.name": "get_weather",
            "gen_ai.prompt.2.tool_calls.0.arguments": '{"city":"Paris"}',
            "gen_ai.prompt.3.role": "tool",
            "gen_ai.prompt.3.tool_call_id": "call_1",
            "gen_ai.prompt.3.content": "blue",
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.finish_reason": "stop",
            "gen_ai.completion.0.content": "Blue.",
            "llm.request.functions.0.name": "get_weather",
            "llm.request.functions.0.description": "d",
            "llm.request.functions.0.parameters": '{"type": "object"}',
        },
        [],
    ),
    "OpenInference": (
        {
            "input.value": json.dumps(REQUEST),
            "output.value": json.dumps(RESPONSE),
            f"{_IN}0.message.role": "system",
            f"{_IN}0.message.content": "Be brief.",
            f"{_IN}1.message.role": "user",
            f"{_IN}1.message.contents.0.message_content.type": "text",
            f"{_IN}1.message.contents.0.message_content.text": "Weather in Paris?",
            f"{_IN}2.message.role": "assistant",
            f"{_IN}2.message.tool_calls.0.tool_call.id": "call_1",
            f"{_IN}2.message.tool_calls.0.tool_call.function.name": "get_weather",
            f"{_IN}2.message.tool_calls.0.tool_call.function.arguments": '{"city":"Paris"}',
            f"{_IN}3.message.role": "tool",
            f"{_IN}3.message.tool_call_id": "call_1",
            f"{_IN}3.message.content": "blue",
            f"{_OUT}0.message.role": "assistant",
            f"{_OUT}0.message.content": "Blue.",
            "llm.tools.0.tool.json_schema": json.dumps(TOOL),
        },
        [],
    ),
    "OpenInference, values alone": ({"input.value": json.dumps(REQUEST), "output.value": json.dumps(RESPONSE)}, []),
    "Langfuse's SDK": (
        {
            "langfuse.observation.input": json.dumps({"messages": REQUEST["messages"], "tools": [TOOL]}),
            "langfuse.observation.output": json.dumps(ANSWER),
        },
        [],
    ),
    "OpenAI's Responses": (
        {
            "input.value": json.dumps(
                {
                    "model": "m",
                    "instructions": "Be brief.",
                    "input": [
                        {"role": "user", "content": [{"type": "input_text", "text": "Weather in Paris?"}]},
                        {
                            "type": "function_call",
                            "call_id": "call_1",
                            "name": "get_weather",
                            "arguments": '{"city":"Paris"}',
                        },
                        {"type": "function_call_output", "call_id": "call_1", "output": "blue"},
                    ],
                    "tools": [TOOL["function"] | {"type": "function"}],  # type: ignore[operator]
                }
            ),
            "output.value": json.dumps(
                {
                    "output": [
                        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Blue."}]}
                    ]
                }
            ),
        },
        [],
    ),
    "Anthropic's messages": (
        {
            "input.value": json.dumps(
                {
                    "model": "m",
                    "system": "Be brief.",
                    "messages": [
                        USER,
                        {
                            "role": "assistant",
                            "content": [
                                {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Paris"}}
                            ],
                        },
                        {
                            "role": "user",
                            "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "blue"}],
                        },
                    ],
                    "tools": [{"name": "get_weather", "description": "d", "input_schema": {"type": "object"}}],
                }
            ),
            "output.value": json.dumps({"role": "assistant", "content": [{"type": "text", "text": "Blue."}]}),
        },
        [],
    ),
}
#: Langfuse reads tools from here as well; the list of events may be the app's.
ONCE_MORE = {"gen_ai.tool.definitions", "events", "langfuse.observation.input", "langfuse.observation.output"}
spellings = pytest.mark.parametrize("spelling", SPELLINGS)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


@spellings
def test_every_spelling_is_the_same_conversation(spelling: str) -> None:
    """With tool calls, tool results and offered tools."""
    attributes, events = SPELLINGS[spelling]
    found = read_conversation(attributes, [Event(name, attributes=more) for name, more in events])
    assert found.input == [SYSTEM, USER, CALLING, RESULT]
    assert found.output == [ANSWER]
    assert found.tools == [TOOL]


@spellings
def test_langfuse_gets_it_as_openai_messages(spelling: str) -> None:
    attributes, events = SPELLINGS[spelling]
    with Receiver(keys=KEYS) as receiver, running(Langfuse(*KEYS, receiver.url)) as app:
        with app.span("call", {**CHAT, **attributes}) as span:
            for name, more in events:
                span.add_event(name, more)
        app.close()
        exported = named(receiver.spans, "call").attributes
    given, returned = (json.loads(exported[f"langfuse.observation.{side}"]) for side in ("input", "output"))
    assert given == {"messages": [SYSTEM, USER, CALLING, RESULT], "tools": [TOOL]}
    assert returned == ANSWER
    # Langfuse repeats in the metadata all attributes that it does not know.
    assert not [name for name in attributes if name in exported and name not in ONCE_MORE]


@spellings
def test_phoenix_gets_it_member_by_member(receiver: Receiver, spelling: str) -> None:
    attributes, events = SPELLINGS[spelling]
    with (
        running(OTLP(receiver.url, conventions=["openinference"])) as app,
        app.request(),
        app.span("call", {**CHAT, **attributes}) as span,
    ):
        for name, more in events:
            span.add_event(name, more)
    exported = named(receiver.spans, "call").attributes
    call = f"{_IN}2.message.tool_calls.0.tool_call."
    assert [exported[f"{_IN}{number}.message.role"] for number in range(4)] == ["system", "user", "assistant", "tool"]
    assert (exported[f"{call}id"], exported[f"{call}function.name"]) == ("call_1", "get_weather")
    assert json.loads(exported[f"{call}function.arguments"]) == {"city": "Paris"}
    assert exported[f"{_IN}3.message.tool_call_id"] == "call_1"
    assert exported[f"{_OUT}0.message.content"] == "Blue."
    assert json.loads(exported["llm.tools.0.tool.json_schema"])["function"]["name"] == "get_weather"
    root = named(receiver.spans, "POST /chat").attributes
    assert (root["input.value"], root["output.value"]) == ("Weather in Paris?", "Blue.")


RECORDED_CALLS = [
    item
    for item in RECORDED
    if item["scenario"].startswith("chat") and MARKER in json.dumps({**item["start"], **item["end"]})
]


@pytest.mark.parametrize("path", ["legacy", "direct"])
def test_calls_of_real_instrumentations_fill_langfuses_columns(path: Path) -> None:
    """Input and output of every generation whose instrumentation records content."""
    with Receiver(keys=KEYS) as receiver:
        for item in RECORDED_CALLS:
            receiver.clear()
            with running(Langfuse(*KEYS, receiver.url)) as app:
                replay(app.provider, item)
            for found in shown(receiver.spans, path):
                if found.type == "generation":
                    cells = [compact_cell(found.input), compact_cell(found.output)]
                    where = (item["instrumentation"], item["scenario"])
                    assert MARKER in str(cells[0]), where
                    assert MARKER in str(cells[1]) or "tool_calls" in str(found.output) or not found.output, where


def test_calls_of_real_instrumentations_fill_phoenixs_columns(receiver: Receiver) -> None:
    for item in RECORDED_CALLS:
        receiver.clear()
        with running(OTLP(receiver.url, conventions=["openinference"])) as app:
            replay(app.provider, item)
        (span,) = receiver.spans
        attributes = span.attributes
        where = (item["instrumentation"], item["scenario"], span.name)
        if attributes["openinference.span.kind"] == "LLM":
            assert MARKER in str(attributes.get(f"{_IN}0.message.content")), where
            assert any(name.startswith(f"{_OUT}0.message.") for name in attributes) or "chat_stream" in where, where


def test_an_answer_without_a_text_is_shown_as_its_tool_calls() -> None:
    assert json.loads(str(text_of([CALLING], "assistant"))) == [CALL]
    assert text_of([], "user") is None
    assert text_of("as it stands", "user") == "as it stands"


@pytest.mark.parametrize(
    ("part", "rendered"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJDRA=="}}, "[image/png, 4 bytes omitted]"),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "QUJD"}},
            "[image/jpeg, 3 bytes omitted]",
        ),
        ({"type": "input_audio", "input_audio": {"format": "wav", "data": "QUJD"}}, "[audio/wav, 3 bytes omitted]"),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,[4000 characters left out]"}},
            "[image/png, 3000 bytes omitted]",
        ),
    ],
)
def test_binary_parts_of_requests_are_named_with_their_size(part: dict[str, Any], rendered: str) -> None:
    found = read_conversation({"input.value": json.dumps({"messages": [{"role": "user", "content": [part]}]})})
    assert found.input == [{"role": "user", "content": rendered}]


@pytest.mark.parametrize(
    "hostile",
    [
        "[" * 100_000,
        '{"messages": ' * 5000,
        json.dumps([{"role": "user", "content": [[[]]], "tool_calls": [1, None, {"function": 3}]}]),
        json.dumps({"messages": [{"role": 5, "content": {}}]}),
        json.dumps([{"role": "user", "tool_calls": "x"}]),
        json.dumps({"choices": [None]}),
        json.dumps([{"parts": [None, 1, {"type": {}}]}]),
    ],
)
@pytest.mark.parametrize(
    "name", ["gen_ai.input.messages", "input.value", "request_data", "events", "gen_ai.prompt.0.content"]
)
def test_values_of_no_known_shape_raise_nothing(receiver: Receiver, name: str, hostile: str) -> None:
    with running(OTLP(receiver.url, conventions=["openinference", "langfuse"])) as app, app.request():
        app.chat("call", **{name: hostile})
    assert len(receiver.spans) == 2


def test_parts_of_a_message_are_openinferences(receiver: Receiver) -> None:
    """Text, images by their address, reasoning; of bytes the type and the size."""
    asked = [
        {"type": "text", "content": "See"},
        {"type": "uri", "modality": "image", "uri": "https://x.example/a.png"},
        {"type": "blob", "modality": "audio", "mime_type": "audio/wav", "content": "QUJD"},
    ]
    answered = [{"type": "reasoning", "content": "Hm."}, {"type": "text", "content": "Ada"}]
    with running(OTLP(receiver.url, conventions=["openinference"])) as app:
        app.chat(
            **{
                "gen_ai.input.messages": json.dumps([{"role": "user", "parts": asked}]),
                "gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": answered}]),
            }
        )
    (span,) = receiver.spans
    question = {key: value for key, value in span.attributes.items() if key.startswith("llm.input_messages.0")}
    assert question == {
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.contents.0.message_content.type": "text",
        "llm.input_messages.0.message.contents.0.message_content.text": "See",
        "llm.input_messages.0.message.contents.1.message_content.type": "image",
        "llm.input_messages.0.message.contents.1.message_content.image.image.url": "https://x.example/a.png",
        "llm.input_messages.0.message.contents.2.message_content.type": "text",
        "llm.input_messages.0.message.contents.2.message_content.text": "[audio/wav, 3 bytes omitted]",
    }
    answer = {key: value for key, value in span.attributes.items() if key.startswith("llm.output_messages.0")}
    assert answer == {
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.contents.0.message_content.type": "reasoning",
        "llm.output_messages.0.message.contents.0.message_content.text": "Hm.",
        "llm.output_messages.0.message.contents.1.message_content.type": "text",
        "llm.output_messages.0.message.contents.1.message_content.text": "Ada",
    }
