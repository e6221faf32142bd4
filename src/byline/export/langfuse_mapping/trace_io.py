"""What was asked and answered in a request as a whole: Langfuse shows it of a trace where its outermost span has it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Final

from byline.export.redaction.content import INPUT, OUTPUT, masked_sides
from byline.export.span_copy import SpanCopy
from byline.genai.json_text import json_dumps

_GIVEN: Final = "langfuse.observation.input"
_RETURNED: Final = "langfuse.observation.output"
_DEEPEST: Final = 32
_numbers: Final = itertools.count()
#: Where instrumentations put it, in the order in which Langfuse looks; some write each message in parts of its own.
_INPUTS: Final = (
    _GIVEN,
    "mlflow.spanInputs",
    "traceloop.entity.input",
    "input.value",
    "input",
    "gen_ai.prompt",
    "gen_ai.prompt.*",
    "llm.input_messages.*",
    "gen_ai.input.messages",
)
_OUTPUTS: Final = (
    _RETURNED,
    "mlflow.spanOutputs",
    "traceloop.entity.output",
    "output.value",
    "output",
    "gen_ai.completion",
    "gen_ai.completion.*",
    "llm.output_messages.*",
    "gen_ai.output.messages",
)


class TraceIO:
    """What one destination got of it: another one's filters may let through what this one must not show."""

    def __init__(self) -> None:
        number = next(_numbers)
        self._given, self._returned = f"{_GIVEN} {number}", f"{_RETURNED} {number}"

    def note(self, draft: SpanCopy) -> None:
        """Take note of what a model call was asked and has answered."""
        request_spans = None if draft.state is None else draft.state.request_spans
        if request_spans is None or not draft.is_leaf:
            return
        noted = request_spans.root.first_and_last.values_of(draft.trace)
        hidden = masked_sides(draft.attributes)
        given = None if INPUT in hidden else _first(draft, _INPUTS)
        returned = None if OUTPUT in hidden else _first(draft, _OUTPUTS)
        started, ended = draft.start_time or 0, draft.end_time or 0
        if given is not None and (self._given not in noted or started < noted[self._given][0]):
            noted[self._given] = (started, given)
        if returned is not None and (self._returned not in noted or ended >= noted[self._returned][0]):
            noted[self._returned] = (ended, returned)

    def tell(self, draft: SpanCopy) -> None:
        """Put the first question and the last answer of a trace onto its outermost span, the app's or a step's."""
        request_spans = None if draft.state is None else draft.state.request_spans
        if request_spans is None or draft.is_llm or draft.parent is not None:
            return
        for attribute, name in ((_GIVEN, self._given), (_RETURNED, self._returned)):
            told = request_spans.root.first_and_last.lookup(draft.trace, name)
            if told is not None:
                draft.attributes.setdefault(attribute, told[1])


def _first(draft: SpanCopy, places: tuple[str, ...]) -> Any:
    attributes = draft.attributes
    found = (attributes.get(each) if each[-1] != "*" else _gather(attributes, each[:-1]) for each in places)
    return next((value for value in found if value), None)


def _gather(attributes: Mapping[str, Any], prefix: str) -> str | None:
    """Return messages whose parts stand under numbered names, as JSON; ``None`` where there are none."""
    whole: dict[str, Any] = {}
    for key, value in attributes.items():
        parts = key[len(prefix) :].split(".")
        if not key.startswith(prefix) or not parts[0].isdecimal() or len(parts) > _DEEPEST:
            continue
        inner = whole
        for part in parts[:-1]:
            below = inner.get(part)
            if not isinstance(below, dict):
                below = inner[part] = {}
            inner = below
        inner[parts[-1]] = value
    return json_dumps(_listed(whole)) if whole else None


def _listed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if all(key.isdecimal() for key in value):
        return [_listed(value[key]) for key in sorted(value, key=int)]
    return {key: _listed(item) for key, item in value.items()}
