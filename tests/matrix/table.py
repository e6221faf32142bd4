"""The table of all verdicts: as recorded, as measured, and the differences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.matrix import cells, langfuse, verdict

EXPECTED: Final = Path(__file__).parent / "expected.json"

#: Column → the best value. Whether byline or an instrumentation made the span is neither good nor bad.
GOOD: Final[dict[str, Any]] = {
    "byline": "yes",
    "facts": "yes",
    "once": "yes",
    "duplicates": 0,
    "app": "yes",
    "others": "yes",
    "langfuse": "yes",
    "tree": "yes",
    "types": "yes",
    "io": "yes",
}


#: The scenarios of which the first one that a cell has is recorded as a tree.
_OUTLINED: Final = ("tool call", "async tool call")


def row_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a cell: the versions, one verdict per scenario, and an agent's tree in Langfuse."""
    cell = cells.find(found["cell"])
    row = {
        "versions": found["versions"],
        "scenarios": {
            name: {column: value for column, value in judged._asdict().items() if value is not None}
            for name, judged in verdict.judge(found, is_agent=cell.is_agent).items()
        },
    }
    if cell.is_agent:
        shown = next(name for name in _OUTLINED if name in found["scenarios"])
        row["outline"] = langfuse.outline(verdict.shown_in_langfuse(shown, found))
    return row


def recorded() -> dict[str, dict[str, Any]]:
    """Return the rows of all cells as they were recorded."""
    rows: dict[str, dict[str, Any]] = json.loads(EXPECTED.read_text())
    return rows


def record(rows: Mapping[str, Any]) -> None:
    """Record rows."""
    EXPECTED.write_text(json.dumps(rows, indent=1) + "\n")


def differences(expected: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """Return the verdicts that are worse, better or otherwise different, one line each."""
    lines: list[str] = []
    for scenario in expected["scenarios"].keys() | row["scenarios"].keys():
        before, now = expected["scenarios"].get(scenario), row["scenarios"].get(scenario)
        if before is None or now is None:
            lines.append(f"{scenario}: {'new' if before is None else 'gone'}")
            continue
        for column, value in now.items():
            if value != before.get(column):
                lines.append(
                    f"{scenario}: {column} is {value!r}, not {before.get(column)!r}{_direction(column, value)}"
                )
    if row.get("outline") != expected.get("outline"):
        lines.append(f"outline: {row.get('outline')}, not {expected.get('outline')}")
    return sorted(lines)


def _direction(column: str, value: Any) -> str:
    if column not in GOOD:
        return ""
    return " (better: python -m tests.matrix records it)" if value == GOOD[column] else " (WORSE)"


def flaws(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return scenario and column of everything in a row that is not as good as it gets."""
    return [
        (scenario, column)
        for scenario, judged in row["scenarios"].items()
        for column, good in GOOD.items()
        if column in judged and judged[column] != good
    ]
