"""What Langfuse shows of a scenario's spans: sums of tokens and cost, the tree, types, input and output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from byline.testing import ReceivedSpan
from tests.export import langfuse_model
from tests.export.langfuse_model import Observation, Path

#: What is asked in every scenario, and what tools answer.
QUESTION: Final = "Who wrote this?"
RESULT: Final = "Ada did."
#: The beginning of the simulated model's answers.
ANSWER: Final = "This is the answer"
TOOL: Final = "look_up"
_PATHS: Final[tuple[Path, ...]] = ("legacy", "direct")
#: Amounts are floats that have been added in another order.
_CENT_OF_A_MICRO_DOLLAR: Final = 1e-8


def difference(spans: Sequence[ReceivedSpan], provider: Mapping[str, float]) -> str:
    """Return how Langfuse's sums differ from the provider's numbers, ``yes`` if they do not.

    Args:
        spans: The spans of a scenario, as Langfuse gets them.
        provider: Tokens and cost that the provider has stated; the cost is missing if it states none.
    """
    different: list[str] = []
    for path in _PATHS:
        sums = _sums(langfuse_model.shown(spans, path))
        for name in ("input", "output", "cost"):
            if name == "cost" and name not in provider:
                continue
            excess = sums[name] - provider.get(name, 0)
            if excess > _CENT_OF_A_MICRO_DOLLAR:
                different.append(f"{name} too high")
            elif excess < -_CENT_OF_A_MICRO_DOLLAR:
                different.append(f"{name} too low")
    return ", ".join(dict.fromkeys(different)) or "yes"


def _sums(observations: Iterable[Observation]) -> dict[str, float]:
    sums = {"input": 0.0, "output": 0.0, "cost": 0.0}
    for each in observations:
        for name, number in each.usage.items():
            for side in ("input", "output"):
                sums[side] += number if side in name else 0
        sums["cost"] += each.cost.get("total", 0.0)
    return sums


def tree(spans: Sequence[ReceivedSpan], everything: Sequence[Mapping[str, Any]]) -> str:
    """Return whether each span's parent is its nearest ancestor that Langfuse gets as well, or the root byline makes.

    Args:
        spans: The spans of a scenario, as Langfuse gets them with ``spans="llm"``.
        everything: The same spans and all others of the app, as a destination with ``spans="all"`` gets them.
    """
    parents = {span["span_id"]: span["parent_id"] for span in everything}
    present = {span.span_id for span in spans}
    orphans = sum(span.parent_id not in (None, *present) for span in spans)
    if orphans:
        return f"{orphans} without their parent"
    made = {span.span_id for span in spans if span.span_id not in parents and span.parent_id is None}
    if len(made) > len({span.trace_id for span in spans}):
        return f"{len(made)} roots that byline has made"
    moved = 0
    for span in spans:
        if span.span_id in made:
            continue
        nearest = parents.get(span.span_id)
        while nearest is not None and nearest not in present:
            nearest = parents.get(nearest)
        moved += nearest != span.parent_id and not (nearest is None and span.parent_id in made)
    return f"{moved} below another parent" if moved else "yes"


def types(spans: Sequence[ReceivedSpan], calls: int) -> str:
    """Return whether each call is one generation, tools are tools, and nothing that stands around them is a call."""
    observations = langfuse_model.shown(spans, "legacy")
    generations = [each for each in observations if each.type == "generation"]
    if len(generations) != calls:
        return f"{len(generations)} generations of {calls} calls"
    wrong = sorted({each.type for each in observations if TOOL in each.name and each.type != "tool"})
    if wrong:
        return f"tool is a {wrong[0]}"
    above = {each.parent for each in observations}
    return "a call has spans below" if any(each.id in above for each in generations) else "yes"


def first_and_last(spans: Sequence[ReceivedSpan]) -> str:
    """Return whether input and output of each trace are the question and the last answer."""
    for path in _PATHS:
        for found in langfuse_model.traces(spans, path).values():
            for name, text, wanted in (("input", found.input, QUESTION), ("output", found.output, ANSWER)):
                if text is None:
                    return f"no {name}"
                # An agent's own output may be its whole conversation, its input is the question alone.
                if wanted not in str(text) or (name == "input" and RESULT in str(text)):
                    return f"wrong {name}"
    return "yes"


def outline(spans: Sequence[ReceivedSpan]) -> list[str]:
    """Return the tree that Langfuse shows, one line for each observation."""
    observations = sorted(langfuse_model.shown(spans, "legacy"), key=lambda each: _start_of(each.id, spans))
    present = {each.id for each in observations}
    lines: list[str] = []

    def add(parent: str | None, depth: int) -> None:
        for each in observations:
            if each.parent == parent or (parent is None and each.parent not in present):
                lines.append(f"{'  ' * depth}{each.type}: {each.name}")
                add(each.id, depth + 1)

    add(None, 0)
    return lines


def _start_of(span_id: str, spans: Sequence[ReceivedSpan]) -> int:
    return next(span.start for span in spans if span.span_id == span_id)
