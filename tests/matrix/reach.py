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

What byline does beside each instrumentation, as seen by running it. `python -m tests.matrix` runs every
row in a virtual environment of its own, against a gateway on loopback that answers like OpenRouter, and
writes this page; CI runs it again and fails where a row has got worse.

The columns:

- **byline**: every LLM span carries session, user and trace name of its own request.
- **facts**: the model call's span carries what the reply said: model, id, tokens, cost, status; of an
  error its class and status; of a stream that was broken off what had come by then.
- **once**: no call's tokens or cost stand on two spans.
- **own span**: byline made the span, for nobody else did.
- **duplicates**: spans of model calls beyond one a call.
- **app span**: the request's server span has the totals of its calls, and nothing of a single call.
- **other exporters**: byline and facts are on the span for exporters of the app's own as well. What comes
  when a span has ended is added by byline's destinations alone.

"""


def write(rows: Mapping[str, Any]) -> str:
    """Return the page for these rows."""
    notes: list[str] = []
    lines = [
        "| Instrumentation | Versions | byline | facts | once | own span | duplicates | app span | other exporters |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_line(cell, rows[cell.name], notes) for cell in CELLS if cell.name in rows),
    ]
    foot = "".join(f"[^{number}]: {text}\n" for number, text in enumerate(notes, 1))
    return f"{_HEAD}{chr(10).join(lines)}\n\n{_scenarios(rows)}\n{foot}".rstrip() + "\n"


def _line(cell: Cell, row: Mapping[str, Any], notes: list[str]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    columns = [_column(cell, row["scenarios"], column, notes) for column in ("byline", "facts", "once")]
    columns.append(_own(row["scenarios"]))
    columns += [_column(cell, row["scenarios"], column, notes) for column in ("duplicates", "app", "others")]
    return f"| {' | '.join((cell.title, versions, *columns))} |"


def _column(cell: Cell, scenarios: Mapping[str, Any], column: str, notes: list[str]) -> str:
    """Return ``yes``, or the values that are not, each with the mark of its reason and its scenarios."""
    other: dict[tuple[str, Reason | None], list[str]] = {}
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
    """Return how a value is told, nothing where it is as good as it gets."""
    if column == "duplicates":
        # One for each of five concurrent calls is one a call; that a span lacks, the other columns say.
        return "one a call" if value > 0 else ""
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
    """Return which scenarios were run, and by whom where not by all."""
    seen = [scenario for scenario in SCENARIOS if any(scenario.name in row["scenarios"] for row in rows.values())]
    lines = [f"- {scenario.name}: {scenario.about}" for scenario in seen]
    return "The scenarios, as far as the SDK has an API for them:\n\n" + "\n".join(lines) + "\n"
