"""The model of Langfuse's mapping equals the observed behaviour of its ingestion code."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from byline.testing import ReceivedSpan
from tests.export.langfuse_model import Path, Trace, moment, observations, session_cost, shown, traces

both_paths = pytest.mark.parametrize("path", ["legacy", "direct"])
OBSERVATION = "langfuse.observation."


def make(number: int = 1, parent: int | None = None, **more: Any) -> ReceivedSpan:
    """A span of one trace; ``at`` is when it starts."""
    attributes = more.pop("attributes", {})
    start = 10**18 + more.pop("at", number) * 10**9
    return ReceivedSpan(
        name=more.pop("name", "span"),
        trace_id="a" * 32,
        span_id=f"{number:016x}",
        parent_id=None if parent is None else f"{parent:016x}",
        kind="INTERNAL",
        attributes=attributes,
        start=start,
        end=start + 10**9,
        status=more.pop("status", "UNSET"),
        status_message=more.pop("status_message", ""),
        events=more.pop("events", []),
        scope=more.pop("scope", "app"),
        resource=more.pop("resource", {}),
    )


def read(attributes: dict[str, Any], path: Path = "direct", **more: Any) -> Any:
    """One span with these attributes as Langfuse shows it, ``None`` if it is refused."""
    return next(iter(shown([make(attributes=attributes, **more)], path)), None)


def trace_of(path: Path, *spans: ReceivedSpan) -> Trace:
    (found,) = traces(spans, path).values()
    return found


#: attributes → field of the observation and its value
ROWS: list[tuple[dict[str, Any], str, Any]] = [
    ({"session.id": 42}, "session", "42"),
    ({"session.id": True}, "session", "true"),
    ({"session.id": "", "gen_ai.conversation.id": "c"}, "session", "c"),
    ({"session.id": "s", "langfuse.session.id": "l"}, "session", "l"),
    ({f"{OBSERVATION}metadata.langfuse_session_id": "m"}, "session", "m"),
    ({"ai.telemetry.metadata.sessionId": "v"}, "session", "v"),
    ({"enduser.id": "e", "gen_ai.user.id": "g", "user": "u"}, "user", None),
    ({"langfuse.trace.metadata.langfuse_user_id": "m"}, "user", "m"),
    ({"ai.telemetry.metadata.userId": "v"}, "user", "v"),
    ({"langfuse.environment": "Prod EU"}, "environment", "default"),
    ({"langfuse.environment": "langfuse-internal"}, "environment", "internal"),
    ({"langfuse.environment": "Langfuse_langfuse-x"}, "environment", "x"),
    ({"langfuse.environment": "E" * 50}, "environment", "e" * 40),
    ({f"{OBSERVATION}type": "GENERATION"}, "type", "span"),
    ({"model": "a car"}, "type", "generation"),
    ({"model": "a car", f"{OBSERVATION}type": "span"}, "type", "span"),
    ({"openinference.span.kind": "LLM"}, "type", "generation"),
    ({"openinference.span.kind": "RERANKER"}, "type", "span"),
    ({"openinference.span.kind": "RERANKER", "gen_ai.operation.name": "chat"}, "type", "generation"),
    ({"gen_ai.operation.name": "plan", "gen_ai.tool.call.id": "1"}, "type", "tool"),
    ({"gen_ai.tool.name": "search", "logfire.msg": "x"}, "name", "search"),
    ({"ai.operationId": "ai.generateText"}, "name", "ai.generateText"),
    ({"ai.operationId": "ai.generateText", "ai.telemetry.functionId": "f"}, "name", "f:ai.generateText"),
    ({"ai.telemetry.functionId": "f", "langfuse.generation.name": "g"}, "name", "span"),
    ({f"{OBSERVATION}level": "verbose"}, "level", "DEBUG"),
    ({f"{OBSERVATION}level": "Info"}, "level", "DEFAULT"),
    ({f"{OBSERVATION}level": "warn"}, "level", "WARNING"),
    ({f"{OBSERVATION}level": "FATAL"}, "level", "ERROR"),
    ({f"{OBSERVATION}level": "sev1"}, "level", "DEFAULT"),
    ({"gen_ai.request.model": "asked", "gen_ai.response.model": "answered"}, "model", "answered"),
    ({"gen_ai.request.model": "asked", "gen_ai.operation.name": "invoke_agent"}, "model", None),
    ({"gen_ai.usage.cost": 1.0, "gen_ai.operation.name": "invoke_agent"}, "cost", {}),
    ({"gen_ai.usage.input_tokens": 1, "gen_ai.operation.name": "invoke_agent"}, "usage", {}),
    ({f"{OBSERVATION}model.parameters": '{"n": 1}', "gen_ai.request.top_p": 0.5}, "parameters", {"n": 1}),
    ({"llm.invocation_parameters": '{"stop": ["a"]}'}, "parameters", {"stop": '["a"]'}),
    ({"llm.invocation_parameters.n": 2, "gen_ai.request.stream": True}, "parameters", {"n": 2, "stream": "true"}),
    (
        {"gen_ai.usage.input_tokens": 100, "gen_ai.usage.cache_read.input_tokens": 30},
        "usage",
        {"input": 70, "input_cached_tokens": 30},
    ),
    (
        {"gen_ai.usage.input_tokens": 100, "gen_ai.usage.cache_creation.input_tokens": 30},
        "usage",
        {"input": 70, "input_cache_creation": 30},
    ),
    (
        {"llm.token_count.completion": 9, "llm.token_count.completion_details.reasoning": 4},
        "usage",
        {"output": 5, "output_reasoning_tokens": 4},
    ),
    ({"gen_ai.usage.input_tokens": 1, "gen_ai.usage.prompt_tokens": 2}, "usage", {"input": 2}),
    ({f"{OBSERVATION}usage_details": '{"input": 1}', "gen_ai.usage.output_tokens": 2}, "usage", {"input": 1}),
    ({f"{OBSERVATION}usage_details": {"input": 1}}, "usage", {}),
    ({f"{OBSERVATION}usage_details": [1], "gen_ai.usage.input_tokens": 5}, "usage", {}),
    ({"gen_ai.usage.cost": 0.5, "llm.cost.total": 1.0}, "cost", {"total": 0.5}),
    ({f"{OBSERVATION}cost_details": '{"input": 1.0}', "gen_ai.usage.cost": 0.5}, "cost", {"input": 1.0}),
    ({"gen_ai.response.time_to_first_chunk": 0.5}, "completion_start", None),
    ({"ai.response.msToFirstChunk": 250}, "completion_start", moment(10**18 + 10**9) + timedelta(milliseconds=250)),
    ({f"{OBSERVATION}completion_start_time": '"2001-09-09T01:46:40Z"'}, "completion_start", moment(10**18)),
    ({"model": "m", "langfuse.prompt.name": "p", "langfuse.prompt.version": 3}, "prompt", ("p", 3)),
    ({"model": "m", "langfuse.prompt.name": "p"}, "prompt", None),
    ({"langfuse.prompt.name": "p", "langfuse.prompt.version": 3}, "prompt", None),
    ({"traceloop.entity.input": "t", "gen_ai.prompt": "g"}, "input", "t"),
    ({f"{OBSERVATION}output": "o", "input.value": "i"}, "input", None),
    ({"gen_ai.prompt.0.content": "hi", "gen_ai.input.messages": "m"}, "input", {"0.content": "hi"}),
    ({"gen_ai.input.messages": "m", "gen_ai.system_instructions": "s"}, "input", ["s", "m"]),
    ({"gen_ai.tool.call.result": "r"}, "output", "r"),
]


@both_paths
@pytest.mark.parametrize(("attributes", "field", "value"), ROWS, ids=[f"{row[1]} {list(row[0])}" for row in ROWS])
def test_rows_of_an_observation(path: Path, attributes: dict[str, Any], field: str, value: Any) -> None:
    found = read(attributes, path)
    assert getattr(found, field) == value


def test_a_cost_that_is_a_text_is_dropped_by_one_path_alone() -> None:
    attributes = {"gen_ai.usage.cost": "0.5"}
    assert read(attributes, "legacy").cost == {}
    assert read(attributes, "direct").cost == {"total": "0.5"}


def test_a_prompts_version_that_is_a_text_makes_one_path_refuse_the_generation() -> None:
    attributes = {"model": "m", f"{OBSERVATION}prompt.name": "p", f"{OBSERVATION}prompt.version": "3"}
    assert read(attributes, "legacy") is None
    assert read(attributes, "direct").prompt == ("p", "3")


@both_paths
def test_content_of_events_precedes_content_of_attributes(path: Path) -> None:
    events = [{"name": "gen_ai.user.message", "attributes": {"content": "hi"}}]
    found = read({"gen_ai.prompt": "g", "gen_ai.completion": "c"}, path, events=events)
    assert (found.input, found.output) == ([{"content": "hi"}], None)


@both_paths
def test_only_keys_at_the_top_of_the_metadata_can_be_filtered_by(path: Path) -> None:
    """All others are kept as texts below."""
    stated = {f"{OBSERVATION}metadata": '{"a": 1}', f"{OBSERVATION}metadata.b": 2, "langfuse.metadata.c": 3}
    found = read({**stated, "d": 4}, path, resource={"e": 5}).metadata
    assert (found["a"], found["b"], found["c"]) == (1, 2, 3)
    assert found["attributes"]["d"] == "4"
    assert found["resourceAttributes"] == {"e": 5}
    assert "attributes" not in read({"d": 4}, path, scope="langfuse-sdk").metadata


@both_paths
@pytest.mark.parametrize("told", [["a", "b"], '["a", "b"]', "a, b"])
def test_spellings_of_tags(path: Path, told: Any) -> None:
    assert trace_of(path, make(attributes={"langfuse.trace.tags": told})).tags == ["a", "b"]


@both_paths
def test_resource_sets_environment_release_and_version(path: Path) -> None:
    """Environment, release and version; no session and no user, and metadata by one path alone."""
    resource = {
        "deployment.environment": "staging",
        "langfuse.release": "r",
        "service.version": "v",
        "session.id": "s",
        "user.id": "u",
        "langfuse.trace.metadata.team": "blue",
    }
    found = trace_of(path, make(resource=resource))
    assert (found.environment, found.release, found.version) == ("staging", "r", "v")
    assert (found.session, found.user) == (None, None)
    assert found.metadata.get("team") == ("blue" if path == "legacy" else None)
    ignored = make(attributes={"service.version": "v", "langfuse.trace.version": "v"})
    assert (trace_of(path, ignored).release, trace_of(path, ignored).version) == (None, None)


@both_paths
def test_a_conversation_alone_below_the_root_is_no_session_of_the_trace_by_one_path(path: Path) -> None:
    found = trace_of(path, make(), make(2, 1, attributes={"gen_ai.conversation.id": "c"}))
    assert found.session == (None if path == "legacy" else "c")


@both_paths
def test_tags_in_their_short_form_below_the_root_are_dropped_by_one_path(path: Path) -> None:
    found = trace_of(path, make(), make(2, 1, attributes={"langfuse.tags": ["a"]}))
    assert found.tags == ([] if path == "legacy" else ["a"])


@both_paths
def test_tags_are_joined_by_one_path_and_the_last_ones_by_the_other(path: Path) -> None:
    first, second = ({"langfuse.trace.tags": [tag]} for tag in "ba")
    found = trace_of(path, make(attributes=first), make(2, 1, attributes=second))
    assert found.tags == (["a", "b"] if path == "legacy" else ["a"])


def test_legacy_path_loses_values_that_a_later_child_omits() -> None:
    """Release, version and whether it is public; session, user and name stay."""
    said = {"langfuse.release": "rel1", "langfuse.version": "v9", "langfuse.trace.public": True, "user.id": "u"}
    spans = make(attributes=said, name="root"), make(2, 1, attributes={"session.id": "s"})
    lost = trace_of("legacy", *spans)
    assert (lost.release, lost.version, lost.public) == (None, None, False)
    assert (lost.name, lost.user, lost.session) == ("root", "u", "s")
    kept = trace_of("direct", *spans)
    assert (kept.release, kept.version, kept.public) == ("rel1", "v9", True)


def test_a_child_that_updates_nothing_takes_nothing_away() -> None:
    said = {"langfuse.release": "rel1"}
    child = {"gen_ai.conversation.id": "c", "langfuse.environment": "prod", "langfuse.version": "v"}
    assert trace_of("legacy", make(attributes=said), make(2, 1, attributes=child)).release == "rel1"


def test_the_environment_is_the_earliest_ones_by_the_legacy_path() -> None:
    spans = make(), make(2, 1, attributes={"langfuse.environment": "prod", "session.id": "s"})
    assert trace_of("legacy", *spans).environment == "default"
    assert trace_of("direct", *spans).environment == "prod"


def test_first_span_creates_the_trace_with_any_attributes() -> None:
    """With time and environment alone, for the root comes last."""
    child = make(2, 1, at=5, attributes={"langfuse.environment": "prod", "gen_ai.conversation.id": "c"})
    only = trace_of("legacy", child)
    assert (only.environment, only.session, only.name) == ("prod", None, None)
    assert trace_of("legacy", child, make(1, at=1)).environment == "default"


def test_of_two_sessions_one_path_takes_the_latest_to_start_the_other_the_last_to_be_written() -> None:
    late = make(1, at=9, attributes={"session.id": "late"})
    early = make(2, 1, at=1, attributes={"session.id": "early"})
    assert trace_of("legacy", late, early).session == "late"
    assert trace_of("direct", late, early).session == "early"


def test_trace_name_over_the_limit_drops_the_whole_trace_event() -> None:
    said = {"langfuse.trace.name": "n" * 1001, "session.id": "s", "user.id": "u"}
    lost = trace_of("legacy", make(attributes=said))
    assert (lost.name, lost.session, lost.user) == (None, None, None)
    assert trace_of("direct", make(attributes=said)).session == "s"


@both_paths
@pytest.mark.parametrize("key", ["langfuse.internal.as_root", "langfuse.internal.is_app_root"])
def test_root_below_a_parent_that_nobody_sends(path: Path, key: str) -> None:
    """Each path knows a mark of its own; content is taken from such a span by one path alone."""
    attributes = {key: True, f"{OBSERVATION}input": "in"}
    found = trace_of(path, make(1, 9, name="orphan", attributes=attributes))
    marked = (path == "legacy") is key.endswith("as_root")
    assert found.name == ("orphan" if marked else None)
    assert found.input == ("in" if marked and path == "legacy" else None)


@both_paths
def test_input_and_output_of_a_trace(path: Path) -> None:
    """The root's own values; trace attributes count on one path only, the last one wins."""
    said = {"langfuse.trace.input": "said"}
    root = make(attributes={f"{OBSERVATION}input": "in", f"{OBSERVATION}output": "out"})
    found = trace_of(path, root, make(2, 1, attributes=said), make(3, 1, attributes={"session.id": "s"}))
    assert (found.input, found.output) == ("said" if path == "legacy" else "in", "out")


@both_paths
def test_metadata_of_a_trace(path: Path) -> None:
    """Merged to the bottom by one path; the other takes the root's."""
    root = make(attributes={"langfuse.trace.metadata": '{"a": 1}', f"{OBSERVATION}metadata.b": 2})
    child = make(2, 1, attributes={"langfuse.trace.metadata.c": 3, f"{OBSERVATION}metadata.d": 4})
    found = trace_of(path, root, child).metadata
    expected = {"a": 1, "b": 2, **({"c": 3} if path == "legacy" else {})}
    assert {key: value for key, value in found.items() if len(key) == 1} == expected


@both_paths
def test_session_cost_is_the_sum_of_its_observations(path: Path) -> None:
    """Also of spans with the same name; observations without the session are not counted."""
    spans = [make(number, attributes={"session.id": "s", "gen_ai.usage.cost": 0.5}) for number in (1, 2)]
    assert session_cost([*spans, make(3, attributes={"gen_ai.usage.cost": 4.0})], path) == {"s": 1.0}
    assert len(observations(spans, path)) == 1


@both_paths
def test_levels_and_messages_of_failed_spans(path: Path) -> None:
    failed = {"status": "ERROR", "status_message": "no"}
    assert read({}, path, **failed)[5:7] == ("ERROR", "no")
    stated = {f"{OBSERVATION}level": "WARNING", f"{OBSERVATION}status_message": "hm"}
    assert read(stated, path, **failed)[5:7] == ("WARNING", "hm")
    assert read({}, path, events=[{"name": "exception", "attributes": {"exception.message": "x"}}])[6] is None


@both_paths
def test_tokens_that_nobody_states_are_counted_by_the_server(path: Path) -> None:
    """If there is a model and content, and no error; zeros count as usage."""
    asked = {"model": "m", "input.value": "q" * 40}
    assert read(asked, path).usage == {"input": 11, "total": 11}
    assert read({**asked, f"{OBSERVATION}usage_details": "{}"}, path).usage["input"] == 11
    assert read({**asked, f"{OBSERVATION}usage_details": '{"input": 0}'}, path).usage == {"input": 0}
    assert read(asked, path, status="ERROR").usage == {}
    assert read({"model": "m"}, path).usage == {}
    assert read({"input.value": "q"}, path).usage == {}
