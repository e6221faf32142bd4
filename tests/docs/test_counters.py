"""docs/destinations.md names each counter of `byline.stats`, with its meaning; docs/security.md those of limits."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Counters whose last part is chosen where they are incremented → the functions that are called with that part.
VARIABLE = {"langfuse.spans.dropped.*": "_count_dropped", "carry.dropped.*": "drop"}


def calls(function: str) -> Iterator[tuple[Path, ast.expr]]:
    """Yield the first argument of each call of a function in src."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name == function:
                    yield path, node.args[0]


def texts(value: ast.expr, path: Path) -> set[str]:
    """Return the texts that an expression may be, with ``*`` for what is not known."""
    if isinstance(value, ast.Constant):
        return {str(value.value)} if isinstance(value.value, str) else set()
    if isinstance(value, ast.IfExp):
        return texts(value.body, path) | texts(value.orelse, path)
    if isinstance(value, ast.JoinedStr):
        found = {""}
        for part in value.values:
            ends = texts(part.value if isinstance(part, ast.FormattedValue) else part, path)
            found = {start + end for start in found for end in ends}
        return found
    if isinstance(value, ast.Attribute) and value.attr == "_name":
        return {"langfuse"}
    if isinstance(value, ast.Attribute) and value.attr.endswith("_counter"):
        # Made once, in the constructor of the same file.
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and ast.dump(node.targets[0]).replace("Store", "Load") == ast.dump(value):
                found |= {text.replace("*", "langfuse") for text in texts(node.value, path)}
        return found
    return {"*"}


def counters_of_code() -> set[str]:
    found = set().union(*(texts(name, path) for path, name in calls("increment")))
    for counter, function in VARIABLE.items():
        found.remove(counter)
        reasons = set().union(*(texts(reason, path) for path, reason in calls(function)))
        found |= {counter.replace("*", reason.replace(" ", "_")) for reason in reasons - {"*"}}
    return found


def counters_of_docs() -> set[str]:
    """Return the names in the tables, which have one counter in each row."""
    counters = (ROOT / "docs" / "destinations.md").read_text(encoding="utf-8").partition("| counter |")[2]
    limits = (ROOT / "docs" / "security.md").read_text(encoding="utf-8").partition("## Limits")[2].partition("## ")[0]
    found = re.findall(r"^\| `([^`]+)` \|", counters.partition("| gauge |")[0], re.M)
    found += re.findall(r"\| `([a-z_.]+)` \|$", limits, re.M)
    return {name.replace("<part>", "*") for name in found}


def test_every_counter_is_documented() -> None:
    assert counters_of_code() == counters_of_docs()


def test_every_counter_has_a_meaning() -> None:
    table = (ROOT / "docs" / "destinations.md").read_text(encoding="utf-8").partition("| counter |")[2]
    rows = [row.split("|") for row in re.findall(r"^\| `[^`]+` \|.*$", table.partition("| gauge |")[0], re.M)]
    assert [row for row in rows if len(row[3].split()) < 2] == []
