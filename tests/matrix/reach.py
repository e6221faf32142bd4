"""Writes the table as a page: ``docs/reach.md``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.matrix.cells import CELLS, Cell
from tests.matrix.reasons import Reason, reason_for
from tests.matrix.scenarios import SCENARIOS
from tests.matrix.table import GOOD

PAGE: Final = Path(__file__).parent.parent.parent / "docs" / "reach.md"

_HEAD: Final = """# Reach

How byline works together with each instrumentation, tested by running it. `python -m tests.matrix` runs every
row in its own virtual environment, against a gateway on 127.0.0.1 that answers like OpenRouter, and writes
this page. CI runs it again and fails if a row has become worse.

The columns:

- **attribution**: every LLM span has the session, user and trace name of its own request.
- **response**: the span of the model call has the model, id, tokens, cost and status of the response; if the call
  failed, error class and status; if a stream was aborted, the values received until then.
- **once**: no call's tokens or cost are on two spans.
- **byline's span**: byline created the span, because no instrumentation did.
- **duplicates**: additional spans for the same model call.
- **server span**: the request's server span has the totals of its calls, and no values of a single call.
- **Langfuse's sums**: the tokens and the cost that Langfuse shows for the traces are the provider's numbers.
- **other exporters**: the app's own exporters get attribution and response as well. Values that arrive after a span
  has ended are added by byline's destinations only.

"""

_AGENTS: Final = """## Agent frameworks

An agent calls a tool and answers with its result. Langfuse gets the LLM spans only, `spans="llm"`. The columns:

- **tree**: each span is below the nearest span above it that Langfuse gets as well, or below the root that byline
  makes.
- **types**: each call of the model is one generation, each tool a tool, and no other span is a generation.
- **input and output**: the trace shows the first question and the last answer.

DSPy runs with `dspy.LM(…, engine="litellm")`: its default engine speaks HTTP over sockets of its own, which byline does
not hook. OpenLLMetry's instrumentation of Haystack is not in the matrix, because it does not support Haystack 3.

"""

_COLUMNS: Final = (
    "attribution",
    "response",
    "once",
    "byline's span",
    "duplicates",
    "server span",
    "Langfuse's sums",
    "other exporters",
)
_AGENT_COLUMNS: Final = {"tree": "tree", "types": "types", "io": "input and output"}


def write(rows: Mapping[str, Any]) -> str:
    """Return the page for these rows."""
    notes: list[str] = []
    lines = [
        f"| Instrumentation | Versions | {' | '.join(_COLUMNS)} |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_line(cell, rows[cell.name], notes) for cell in CELLS if cell.name in rows),
    ]
    agents = [
        f"| Instrumentation | {' | '.join(_AGENT_COLUMNS.values())} |",
        "|---|---|---|---|",
        *(_agent_line(cell, rows[cell.name], notes) for cell in CELLS if cell.is_agent and cell.name in rows),
    ]
    foot = "".join(f"[^{number}]: {text}\n" for number, text in enumerate(notes, 1))
    tables = f"{chr(10).join(lines)}\n\n{_AGENTS}{chr(10).join(agents)}"
    return f"{_HEAD}{tables}\n\n{_scenarios(rows)}\n{foot}".rstrip() + "\n"


def _line(cell: Cell, row: Mapping[str, Any], notes: list[str]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    columns = [_column(cell, row["scenarios"], column, notes) for column in ("byline", "facts", "once")]
    columns.append(_own(row["scenarios"]))
    columns += [
        _column(cell, row["scenarios"], column, notes) for column in ("duplicates", "app", "langfuse", "others")
    ]
    return f"| {' | '.join((cell.title, versions, *columns))} |"


def _agent_line(cell: Cell, row: Mapping[str, Any], notes: list[str]) -> str:
    judged = [_column(cell, row["scenarios"], column, notes) for column in _AGENT_COLUMNS]
    return f"| {' | '.join((cell.title, *judged))} |"


def _column(cell: Cell, scenarios: Mapping[str, Any], column: str, notes: list[str]) -> str:
    """Return ``yes``, or each other value with its footnote and its scenarios."""
    other: dict[tuple[str, Reason | None], list[str]] = {}
    scenarios = {name: judged for name, judged in scenarios.items() if column in judged}
    for name, judged in scenarios.items():
        value = _say(column, judged[column])
        if value:
            other.setdefault((value, reason_for(cell.name, name, column)), []).append(name)
    good = str(GOOD[column] or "none")
    if not other:
        return good
    told = [f"{value}{_mark(reason, notes)}{_where(names, scenarios)}" for (value, reason), names in other.items()]
    everywhere = sum(len(names) for names in other.values()) == len(scenarios)
    return "; ".join(told) if everywhere else f"{good}, but {'; '.join(told)}"


def _say(column: str, value: Any) -> str:
    """Return the text of a value, an empty one if the value is the best possible."""
    if column == "duplicates":
        # Five concurrent calls with five duplicates are one per call; the other columns report missing spans.
        return "one per call" if value > 0 else ""
    if value == "byline alone":
        return "attribution only"
    return "" if value == GOOD[column] else str(value)


def _where(names: list[str], scenarios: Mapping[str, Any]) -> str:
    return "" if len(names) == len(scenarios) else f" ({', '.join(names)})"


def _own(scenarios: Mapping[str, Any]) -> str:
    own = [name for name, judged in scenarios.items() if judged["own"] != "no"]
    if not own:
        return "no"
    return "yes" if len(own) == len(scenarios) else f"no, but yes{_where(own, scenarios)}"


def _mark(reason: Reason | None, notes: list[str]) -> str:
    if reason is None:
        return ""
    if reason.text not in notes:
        notes.append(reason.text)
    return f"[^{notes.index(reason.text) + 1}]"


def _scenarios(rows: Mapping[str, Any]) -> str:
    """Return the list of scenarios that were run."""
    seen = [scenario for scenario in SCENARIOS if any(scenario.name in row["scenarios"] for row in rows.values())]
    lines = [f"- {scenario.name}: {scenario.about}" for scenario in seen]
    return "## Scenarios\n\nThe scenarios, if the SDK has an API for them:\n\n" + "\n".join(lines) + "\n"
