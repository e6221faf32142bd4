"""Conversations on Langfuse's pages, by the rules of its server and its pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.trace import Status, StatusCode

from byline.export import OTLP, Langfuse
from byline.export.chat_messages import render_messages
from byline.testing import ReceivedSpan, Receiver
from tests.export.langfuse_model import Path, compact_cell, observations, shown, traces
from tests.export.replay import INSTRUMENTATIONS, MARKER, recorded, replay
from tests.export.support import CHAT, running

KEYS = ("pk-lf-1", "sk-lf-1")
INPUT, OUTPUT = "langfuse.observation.input", "langfuse.observation.output"
both_paths = pytest.mark.parametrize("path", ["legacy", "direct"])

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
CALL = {"type": "tool_call", "id": "call_1", "name": "get_weather", "arguments": {"city": "Paris"}}
QUESTION = [
    {"role": "user", "parts": [{"type": "text", "content": "Weather in Paris?"}]},
    {"role": "assistant", "parts": [CALL]},
    {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call_1", "response": {"sky": "blue"}}]},
]
ANSWER = [{"role": "assistant", "parts": [{"type": "text", "content": "Blue."}], "finish_reason": "stop"}]
CONVERSATION: dict[str, Any] = {
    "gen_ai.system_instructions": json.dumps([{"type": "text", "content": "Be brief."}]),
    "gen_ai.input.messages": json.dumps(QUESTION),
    "gen_ai.output.messages": json.dumps(ANSWER),
    "gen_ai.tool.definitions": json.dumps([TOOL]),
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(keys=KEYS) as found:
        yield found


def exported(receiver: Receiver, attributes: dict[str, Any]) -> ReceivedSpan:
    with running(Langfuse(*KEYS, receiver.url)) as app:
        app.chat("call", **attributes)
    (span,) = receiver.spans
    return span


@both_paths
def test_the_columns_of_a_list_show_the_last_message(receiver: Receiver, path: Path) -> None:
    """Of the call, and of its trace, which has no other root."""
    exported(receiver, CONVERSATION)
    call = observations(receiver.spans, path)["call"]
    (trace,) = traces(receiver.spans, path).values()
    for found in (call, trace):
        assert compact_cell(found.input) == '{"sky":"blue"}'
        assert compact_cell(found.output) == "Blue."


@both_paths
@pytest.mark.parametrize("spans", ["llm", "all"])
def test_a_step_or_server_span_shows_the_conversation_of_its_calls(receiver: Receiver, path: Path, spans: Any) -> None:
    with running(Langfuse(*KEYS, receiver.url, spans=spans)) as app, app.request(span_name="Step"):
        app.chat("first", **CONVERSATION)
        app.chat("second", **{**CONVERSATION, "gen_ai.output.messages": json.dumps([ANSWER[0] | {"parts": [CALL]}])})
    (trace,) = traces(receiver.spans, path).values()
    assert compact_cell(trace.input) == '{"sky":"blue"}'
    assert json.loads(str(trace.output))["tool_calls"][0]["function"]["name"] == "get_weather"


def test_of_two_root_generations_the_trace_shows_the_first_input_and_the_last_output(receiver: Receiver) -> None:
    """By the write path that takes them from any span; the other takes a root's own."""
    with running(Langfuse(*KEYS, receiver.url)) as app, app.request():
        for number in (1, 2):
            app.chat(f"call {number}", **{"input.value": f"question {number}", "output.value": f"answer {number}"})
    (trace,) = traces(receiver.spans, "legacy").values()
    assert (trace.input, trace.output) == ("question 1", "answer 2")


def test_tool_calls_results_and_offered_tools_are_openais(receiver: Receiver) -> None:
    """Langfuse's tool columns and filters read this shape alone."""
    span = exported(receiver, CONVERSATION)
    assert json.loads(span.attributes[INPUT]) == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather in Paris?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": '{"sky":"blue"}'},
        ],
        "tools": [TOOL],
    }
    assert json.loads(span.attributes[OUTPUT]) == {"role": "assistant", "content": "Blue."}


def test_other_destinations_keep_the_conventions_own_json(receiver: Receiver) -> None:
    with running(OTLP(receiver.url, headers={"authorization": "Basic cGstbGYtMTpzay1sZi0x"})) as app:
        app.chat("call", **CONVERSATION)
    (span,) = receiver.spans
    assert {name: span.attributes.get(name) for name in CONVERSATION} == CONVERSATION
    assert INPUT not in span.attributes


def test_a_conversation_leaves_for_langfuse_once(receiver: Receiver) -> None:
    """Langfuse repeats in the metadata all attributes that it does not know."""
    span = exported(receiver, CONVERSATION)
    kept = {name for name in CONVERSATION if name in span.attributes}
    assert kept <= {"gen_ai.tool.definitions"}


PARTS: list[tuple[list[Any], dict[str, Any]]] = [
    ([{"type": "text", "content": "a"}, {"type": "text", "content": "b"}], {"content": "a\nb"}),
    ([{"type": "blob", "mime_type": "image/png", "content": "QUJD" * 4}], {"content": "[image/png, 12 bytes omitted]"}),
    ([{"type": "blob", "mime_type": "image/png", "size": 7}], {"content": "[image/png, 7 bytes omitted]"}),
    ([{"type": "blob", "modality": "audio"}], {"content": "[audio omitted]"}),
    ([{"type": "blob", "modality": "audio", "content": "", "transcript": "Ada."}], {"content": "Ada."}),
    (
        [{"type": "blob", "mime_type": "image/png", "content": "[4000 characters left out]"}],
        {"content": "[image/png, 3000 bytes omitted]"},
    ),
    (
        [{"type": "text", "content": "Look:"}, {"type": "uri", "modality": "image", "uri": "https://x/a.png"}],
        {
            "content": [
                {"type": "text", "text": "Look:"},
                {"type": "image_url", "image_url": {"url": "https://x/a.png"}},
            ]
        },
    ),
    ([{"type": "uri", "modality": "audio", "uri": "https://x/a.mp3"}], {"content": "[audio: https://x/a.mp3]"}),
    ([{"type": "file", "modality": "document", "file_id": "file-1"}], {"content": "[document: file-1]"}),
    (
        [{"type": "reasoning", "content": "Hm."}, {"type": "text", "content": "Yes."}],
        {"content": "Yes.", "reasoning_content": "Hm."},
    ),
    ([{"type": "refusal", "content": "No."}], {"content": "No.", "refusal": "No."}),
    ([{"type": "web_search", "content": {"query": "x"}}], {"content": '{"query":"x"}'}),
    (["plain"], {"content": "plain"}),
    ([], {"content": None}),
]


@pytest.mark.parametrize(("parts", "rendered"), PARTS)
def test_every_kind_of_part_is_shown(parts: list[Any], rendered: dict[str, Any]) -> None:
    assert render_messages([{"role": "assistant", "parts": parts}]) == [{"role": "assistant", **rendered}]


def test_results_of_several_tools_and_a_text_are_messages_of_their_own() -> None:
    """Anthropic sends them in one."""
    results = [{"type": "tool_call_response", "id": str(number), "response": "ok"} for number in (1, 2)]
    rendered = render_messages([{"role": "user", "parts": [*results, {"type": "text", "content": "And now?"}]}])
    assert [(message["role"], message["content"]) for message in rendered] == [
        ("tool", "ok"),
        ("tool", "ok"),
        ("user", "And now?"),
    ]


@pytest.mark.parametrize(
    "value",
    ["plain text", "[", '["a"]', "[]", '{"a": 1}', '[{"role": "user", "content": "hi"}]', "[NaN]", "[" * 5000, "42"],
)
def test_other_shapes_stay_as_they_are(receiver: Receiver, value: str) -> None:
    with running(Langfuse(*KEYS, receiver.url)) as app:
        app.chat("call", **{"gen_ai.input.messages": value, "gen_ai.tool.definitions": value})
    shown = observations(receiver.spans, "direct")["call"].input
    assert shown == value or json.loads(shown) == json.loads(value)


@both_paths
@pytest.mark.parametrize("instrumentation", INSTRUMENTATIONS)
def test_every_instrumentation_with_content_fills_the_columns(
    receiver: Receiver, path: Path, instrumentation: str
) -> None:
    """No message of any generation is left in the shape that Langfuse shows as an empty cell."""
    with running(Langfuse(*KEYS, receiver.url)) as app, app.request(session_id="s"):
        for item in recorded(instrumentation):
            replay(app.provider, item)
    for found in shown(receiver.spans, path):
        for value in (found.input, found.output):
            assert '"parts"' not in str(value)
            if isinstance(value, str) and value.startswith('[{"role"'):
                assert MARKER in json.dumps(json.loads(value))


@both_paths
def test_an_error_is_said_in_status_and_output(receiver: Receiver, path: Path) -> None:
    failed = {
        "error.type": "rate_limit_error",
        "http.response.status_code": 429,
        "byline.error.message": "Slow down.",
        "gen_ai.input.messages": CONVERSATION["gen_ai.input.messages"],
    }
    exported(receiver, failed)
    call = observations(receiver.spans, path)["call"]
    assert (call.level, call.status_message) == ("ERROR", "429: Slow down.")
    assert json.loads(str(call.output)) == {"error": {"code": "429", "message": "Slow down."}}
    assert compact_cell(call.input) == '{"sky":"blue"}'


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("Error code: 429 - slow down", "Error code: 429 - slow down"),
        ("order 14290 is unknown", "429: order 14290 is unknown"),
        (None, "429"),
    ],
)
def test_a_status_message_states_the_code_once(receiver: Receiver, message: str | None, shown: str) -> None:
    stated = {} if message is None else {"byline.error.message": message}
    exported(receiver, {"error.type": "429", **stated})
    assert observations(receiver.spans, "direct")["call"].status_message == shown


@both_paths
def test_an_error_without_a_message_says_its_code_once(receiver: Receiver, path: Path) -> None:
    """Without content, the status of byline's own span is the code."""
    with running(Langfuse(*KEYS, receiver.url)) as app, app.span("call", {**CHAT, "error.type": "429"}) as span:
        span.set_status(Status(StatusCode.ERROR, "429"))
    call = observations(receiver.spans, path)["call"]
    assert (call.status_message, json.loads(str(call.output))) == ("429", {"error": {"code": "429"}})


@both_paths
def test_an_error_after_an_answer_leaves_the_answer(receiver: Receiver, path: Path) -> None:
    exported(receiver, CONVERSATION | {"error.type": "timeout", "byline.error.message": "too slow"})
    call = observations(receiver.spans, path)["call"]
    assert (call.status_message, compact_cell(call.output)) == ("too slow", "Blue.")


def test_private_error_shows_its_code_only(receiver: Receiver) -> None:
    failed = {"http.response.status_code": 429, "error.type": "429", "byline.error.message": f"{MARKER}x"}
    with running(Langfuse(*KEYS, receiver.url, privacy=True)) as app:
        app.chat("call", **CONVERSATION, **failed)
    call = observations(receiver.spans, "direct")["call"]
    assert call.input is None
    assert json.loads(str(call.output)) == {"error": {"code": "429"}}
    assert MARKER not in str(receiver.spans)


@pytest.mark.parametrize("masked", ["mask_input", "mask_output"])
def test_content_that_a_caller_masks_is_in_no_message(receiver: Receiver, masked: str) -> None:
    metadata: Any = {masked: True}
    with running(Langfuse(*KEYS, receiver.url)) as app, app.request(metadata=metadata, span_name="Step"):
        app.chat("call", **CONVERSATION)
    for span in receiver.spans:
        assert (INPUT in span.attributes, OUTPUT in span.attributes) == (
            masked == "mask_output",
            masked == "mask_input",
        )


def test_the_trace_has_the_callers_metadata_alone(receiver: Receiver) -> None:
    fields: Any = {"organization_id": "org", "metadata": {"plan": "gold"}}
    with running(Langfuse(*KEYS, receiver.url)) as app, app.request(**fields):
        app.chat("call", **{"byline.gateway.name": "openrouter", "byline.cost.input": 0.1, "byline.duration": 2.5})
    (span,) = receiver.spans
    of_trace = [name for name in span.attributes if name.startswith("langfuse.trace.metadata.")]
    assert of_trace == ["langfuse.trace.metadata.plan"]


def test_metadata_of_a_call_has_everything_without_a_column_once(receiver: Receiver) -> None:
    key_hash = "0123456789abcdef" * 4
    stated = {
        "byline.cost.source": "gateway",
        "byline.cost.input": 0.1,
        "byline.cost.output": 0.30000000000000004,
        "gen_ai.usage.cost": 0.00043499999999999995,
        "byline.duration": 2.5,
        "byline.gateway.name": "openrouter",
        "byline.gateway.key.hash": key_hash,
        "byline.gateway.key.alias": "team",
        "byline.gateway.key.spend": 0.1 + 0.2,
        "byline.gateway.request.id": "gen-1",
        "gen_ai.response.id": "gen-1",
    }
    span = exported(receiver, stated)
    prefix = "langfuse.observation.metadata."
    metadata = {name[len(prefix) :]: value for name, value in span.attributes.items() if name.startswith(prefix)}
    assert metadata == {
        "cost_source": "gateway",
        "gateway_key_alias": "team",
        "gateway_key_hash": "0123456789ab",
        "gateway_key_spend": 0.3,
        "gateway_name": "openrouter",
        "gateway_request_id": "gen-1",
        "provider": "openai",
    }
    keys = list(metadata)
    assert keys.index("gateway_key_alias") < keys.index("gateway_key_hash")
    assert json.loads(span.attributes["langfuse.observation.cost_details"]) == {
        "input": 0.1,
        "output": 0.3,
        "total": 0.000435,
    }
    repeated = [name for name in span.attributes if name.startswith(("byline.gateway.", "byline.cost."))]
    assert repeated == []
    assert key_hash not in str(span.attributes)


def test_reasoning_that_is_counted_as_output_can_be_filtered_by(receiver: Receiver) -> None:
    span = exported(receiver, {"gen_ai.usage.output_tokens": 7, "gen_ai.usage.reasoning.output_tokens": 2})
    assert span.attributes["langfuse.observation.metadata.reasoning_tokens"] == 2


def test_metadata_of_langfuses_sdk_has_no_quotes(receiver: Receiver) -> None:
    """Its version 5 writes each value as JSON, which its server decodes for spans of that SDK alone."""
    stated = {
        "langfuse.trace.metadata.team": '"acme"',
        "langfuse.observation.metadata.note": '"say \\"hi\\""',
        "langfuse.observation.metadata.odd": '"acme',
        "langfuse.observation.metadata.count": "42",
    }
    with running(Langfuse(*KEYS, receiver.url)) as app:
        for scope in ("langfuse-sdk", "app"):
            app.provider.get_tracer(scope).start_span(scope, attributes={**CHAT, **stated}).end()
    sdk, other = (next(span for span in receiver.spans if span.scope == scope) for scope in ("langfuse-sdk", "app"))
    decoded = {**dict(zip(stated, ("acme", 'say "hi"', '"acme', "42"), strict=True))}
    assert {name: sdk.attributes[name] for name in stated} == decoded
    assert {name: other.attributes[name] for name in stated} == stated
