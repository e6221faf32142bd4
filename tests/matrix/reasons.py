"""Footnotes of the table: reasons for values other than yes."""

from __future__ import annotations

from typing import Final, NamedTuple


class Reason(NamedTuple):
    """The behaviour of an instrumentation that makes a yes impossible.

    Attributes:
        text: The reason, as ``docs/reach.md`` has it.
        cells: The cells that it explains.
        columns: The columns that it explains.
        scenarios: The scenarios that it explains; empty for all.
    """

    text: str
    cells: frozenset[str]
    columns: frozenset[str]
    scenarios: frozenset[str] = frozenset()


def _reason(text: str, cells: str, columns: str, *scenarios: str) -> Reason:
    return Reason(text, frozenset(cells.split()), frozenset(columns.split()), frozenset(scenarios))


_SPAN: Final = "byline facts duplicates others"
_BROKEN_OFF: Final = ("closed stream", "cancelled stream")
_FORGOTTEN: Final = (
    "so the app's own exporters do not get the span. byline's destinations get it once the app has released it."
)

REASONS: Final = (
    _reason(
        f"It never ends the span of a stream that is not read to its end, {_FORGOTTEN}",
        "openlit",
        "others",
        *_BROKEN_OFF,
    ),
    _reason(
        f"It never ends the span of a stream whose task is cancelled, {_FORGOTTEN}",
        "openai-v2 openai-v2-latest",
        "others",
        "cancelled stream",
    ),
    _reason(
        f"It never ends the span of a stream that fails or is not read to its end, {_FORGOTTEN}",
        "openllmetry-anthropic-alone",
        "others",
        "stream 500",
        *_BROKEN_OFF,
    ),
    _reason(
        "The streams of its SDK cannot be closed while it is active: the app's own call fails.",
        "openinference-google-genai",
        "byline others",
        "closed stream",
    ),
    _reason(
        "The provider states no tokens, so that Langfuse counts those of the input, which the instrumentation records.",
        "openinference-google-genai",
        "langfuse",
        "embeddings",
    ),
    _reason(
        "It ends the span of a stream at the response headers, and creates a second one when the stream has ended. "
        "byline adds the response attributes to the second, which has the tokens.",
        "logfire",
        "duplicates",
    ),
    _reason(
        "If the app closes the stream early, it creates the second span at garbage collection, without the request. "
        "byline joins no values by the id of a response alone, which gateways' caches repeat.",
        "logfire",
        "byline facts others",
        "closed stream",
    ),
    _reason(
        "It creates a conversation id for each run unless `conversation_id=` is passed, and byline does not "
        "overwrite an instrumentation's values. `session.id` is the request's.",
        "pydantic-ai",
        "byline",
    ),
    _reason(
        "LiteLLM reports a synchronous stream from a thread without the request's context, in a span of a separate "
        "trace. That span gets no values of the request, because an id of a response alone proves nothing, and no "
        "tokens and cost if byline's own span has them. `opentelemetry-instrumentation-threading` carries the context.",
        "litellm litellm-request-span",
        "byline facts duplicates others langfuse",
        "stream",
    ),
    _reason(
        "LiteLLM does not report a stream that is not read to its end. The server span counts the call.",
        "litellm-request-span",
        _SPAN,
        *_BROKEN_OFF,
    ),
    _reason(
        "The span ends before the app's close of the stream reaches the HTTP client; byline's destinations add the "
        "values received until then at export.",
        "langfuse anthropic genai-anthropic openllmetry-anthropic",
        "others",
        "closed stream",
    ),
    _reason(
        "anthropic creates its own span beside, or within, the instrumentation's. byline leaves tokens and cost on "
        "one of the two; with `ANTHROPIC_OPEN_TELEMETRY=false` there is only one.",
        "genai-anthropic openllmetry-anthropic",
        "duplicates",
    ),
    _reason(
        "The span of an agent states the sum of the tokens of its calls, as OpenTelemetry's conventions allow. "
        "byline's Langfuse destination removes that sum.",
        "strands openinference-strands agent-framework openinference-agent-framework openinference-smolagents",
        "once",
    ),
    _reason(
        "Strands repeats a call that was refused, and the second one succeeds.",
        "strands openinference-strands",
        "facts others",
        "429",
        "async 429",
    ),
    _reason(
        "The span ends before the stream does; byline's destinations add the rest of the response at export.",
        "adk openinference-adk",
        "others",
        "streamed tool call",
    ),
    _reason(
        "With this version of ADK it writes the attributes of every model call onto the agent's span. byline leaves "
        "the first call on that span, and makes spans of the further ones.",
        "openinference-adk",
        "types io",
    ),
    _reason(
        "It creates a span of each method of a model, and one method calls another. byline leaves tokens and cost on "
        "the inner span; Langfuse shows the outer one as a chain.",
        "openinference-llama-index",
        "duplicates",
    ),
    _reason(
        "It never ends the span of a call within another one, or of a call that fails, and keeps these spans: those of "
        "failed calls are exported when the process ends, the others never. The server span counts the call.",
        "openllmetry-llama-index",
        f"{_SPAN} langfuse types",
        "chat",
        "429",
        "500",
    ),
    _reason(
        "It sets the conversation id that Pydantic AI creates for each run as `session.id`, unless `conversation_id=` "
        "is passed, and byline does not overwrite an instrumentation's values.",
        "openinference-pydantic-ai",
        "byline others",
    ),
)


def reason_for(cell: str, scenario: str, column: str) -> Reason | None:
    """Return the reason for a value in this column of this scenario, ``None`` if there is none."""
    for reason in REASONS:
        if cell in reason.cells and column in reason.columns and scenario in (reason.scenarios or {scenario}):
            return reason
    return None
