"""What was asked and answered in a request as a whole: Langfuse shows it of a trace where its outermost span has it."""

from __future__ import annotations

from typing import Any, Final

from byline.export.draft import Draft
from byline.export.sides import INPUT, OUTPUT, masked

_GIVEN: Final = "langfuse.observation.input"
_RETURNED: Final = "langfuse.observation.output"
#: Where instrumentations put it, in the order in which Langfuse looks.
_INPUTS: Final = (
    _GIVEN,
    "traceloop.entity.input",
    "input.value",
    "gen_ai.input.messages",
    "gen_ai.prompt",
)
_OUTPUTS: Final = (
    _RETURNED,
    "traceloop.entity.output",
    "output.value",
    "gen_ai.output.messages",
    "gen_ai.completion",
)


def note(draft: Draft) -> None:
    """Take note of what a model call was asked and has answered."""
    family = None if draft.kin is None else draft.kin.family
    if family is None or not draft.is_leaf:
        return
    noted = family.root.exchanges.of(draft.trace)
    hidden = masked(draft.attributes)
    given = None if INPUT in hidden else _first(draft, _INPUTS)
    returned = None if OUTPUT in hidden else _first(draft, _OUTPUTS)
    started, ended = draft.start_time or 0, draft.end_time or 0
    if given is not None and (_GIVEN not in noted or started < noted[_GIVEN][0]):
        noted[_GIVEN] = (started, given)
    if returned is not None and (_RETURNED not in noted or ended >= noted[_RETURNED][0]):
        noted[_RETURNED] = (ended, returned)


def tell(draft: Draft) -> None:
    """Put the first question and the last answer of a trace onto its outermost span, the app's or a step's."""
    family = None if draft.kin is None else draft.kin.family
    if family is None or draft.is_llm or draft.parent is not None:
        return
    for name in (_GIVEN, _RETURNED):
        told = family.root.exchanges.look(draft.trace, name)
        if told is not None:
            draft.attributes.setdefault(name, told[1])


def _first(draft: Draft, keys: tuple[str, ...]) -> Any:
    return next((draft.attributes[key] for key in keys if draft.attributes.get(key)), None)
