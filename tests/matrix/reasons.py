"""Why a cell of the table is no yes."""

from __future__ import annotations

from typing import Final, NamedTuple


class Reason(NamedTuple):
    """What an instrumentation does that makes a yes impossible.

    Attributes:
        text: The reason, as ``docs/reach.md`` has it.
        cells: Whose it is.
        columns: What it explains.
        scenarios: Where; empty for everywhere.
    """

    text: str
    cells: frozenset[str]
    columns: frozenset[str]
    scenarios: frozenset[str] = frozenset()


def _reason(text: str, cells: str, columns: str, *scenarios: str) -> Reason:
    return Reason(text, frozenset(cells.split()), frozenset(columns.split()), frozenset(scenarios))


_SPAN: Final = "byline facts duplicates others"
_BROKEN_OFF: Final = ("closed stream", "cancelled stream")

REASONS: Final = (
    _reason(
        "It never ends its span of a stream that is not read to its end, so that the span is never exported. "
        "The app span counts the call.",
        "openlit",
        _SPAN,
        *_BROKEN_OFF,
    ),
    _reason(
        "It never ends its span of a stream whose task is cancelled, so that the span is never exported. "
        "The app span counts the call.",
        "openai-v2 openai-v2-latest",
        _SPAN,
        "cancelled stream",
    ),
    _reason(
        "It never ends its span of a stream that fails or is not read to its end, so that the span is never "
        "exported. The app span counts the call; the span that anthropic makes by itself would tell of it.",
        "openllmetry-anthropic-alone",
        _SPAN,
        "stream 500",
        *_BROKEN_OFF,
    ),
    _reason(
        "It ends its span of a stream at the reply's headers, and makes a second one beside it when the stream "
        "is over. byline puts the facts on the second, which has the tokens.",
        "logfire",
        "duplicates",
    ),
    _reason(
        "It gives each run a conversation id of its own unless `conversation_id=` is passed, and byline does "
        "not overwrite what an instrumentation says. `session.id` is the request's.",
        "pydantic-ai",
        "byline",
    ),
    _reason(
        "LiteLLM reports a synchronous stream from a thread that has lost the context, and makes a span there, "
        "in a trace of its own. As it is exported, it gets the byline by the reply's id, or loses tokens and cost "
        "where a span of byline's has them.",
        "litellm litellm-request-span",
        "byline duplicates others",
        "stream",
    ),
    _reason(
        "LiteLLM reports no stream that is not read to its end. The app span counts the call.",
        "litellm-request-span",
        _SPAN,
        *_BROKEN_OFF,
    ),
    _reason(
        "LiteLLM makes the span of this stream before the last event has been read; what that says is joined by the "
        "reply's id as byline's destinations export.",
        "litellm-request-span",
        "others",
        "responses stream",
    ),
    _reason(
        "The span is ended before the app's close of the stream gets to the HTTP client; what had come by then is "
        "joined as byline's destinations export.",
        "langfuse anthropic genai-anthropic openllmetry-anthropic",
        "others",
        "closed stream",
    ),
    _reason(
        "anthropic makes a span by itself beside, or within, the instrumentation's. byline leaves tokens and "
        "cost on one of the two; `ANTHROPIC_OPEN_TELEMETRY=false` leaves one.",
        "genai-anthropic openllmetry-anthropic",
        "duplicates",
    ),
)


def reason_for(cell: str, scenario: str, column: str) -> Reason | None:
    """Return why this column of this scenario is no yes, ``None`` where nobody has said."""
    for reason in REASONS:
        if cell in reason.cells and column in reason.columns and scenario in (reason.scenarios or {scenario}):
            return reason
    return None
