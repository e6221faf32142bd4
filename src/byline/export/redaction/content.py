"""The two sides of content, input and output, and which of them a caller asks to have redacted.

A caller asks with ``mask_input`` and ``mask_output`` among the metadata of the request, as with LiteLLM. The
metadata stands on every span of the request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from byline.attribution import MASKS, is_switched_on
from byline.export.redaction.allow_list import split_words
from byline.genai import attributes as names

INPUT: Final = "input"
OUTPUT: Final = "output"
BOTH: Final = frozenset({INPUT, OUTPUT})
_NEITHER: Final[frozenset[str]] = frozenset()
_MASK_ATTRIBUTES: Final = {names.METADATA + mask: side for mask, side in zip(MASKS, (INPUT, OUTPUT), strict=True)}

_INPUT_WORDS: Final = frozenset(
    {
        "definitions", "input", "inputs", "instruction", "instructions", "prompt", "prompts", "query", "question",
        "questions", "request",
    }
)  # fmt: skip
_OUTPUT_WORDS: Final = frozenset(
    {
        "answer", "answers", "choice", "choices", "completion", "completions", "output", "outputs", "response",
        "responses",
    }
)  # fmt: skip
#: A model's output is a tool's input: both sides.
_TOOLS: Final = ("gen_ai.tool.call.", "gen_ai.tool.arg", "tool_", "tool.", "ai.toolCall.")

#: A span name with more characters or words than these is a sentence.
_MAX_NAME: Final = 100
_MAX_WORDS: Final = 8
#: Shorter names, such as a tool's or a model's, also stand in prompts by chance.
_MIN_WORDS: Final = 3
_KINDS: Final = (names.OPERATION_NAME, "traceloop.span.kind", "openinference.span.kind", "langfuse.observation.type")


def masked_sides(attributes: Mapping[str, Any]) -> frozenset[str]:
    """Return the sides that the caller asks to have redacted.

    Example:
        >>> masked_sides({"langfuse.trace.metadata.mask_input": True})
        frozenset({'input'})
    """
    if _MASK_ATTRIBUTES.keys().isdisjoint(attributes):
        return _NEITHER
    return frozenset(side for name, side in _MASK_ATTRIBUTES.items() if is_switched_on(attributes.get(name)))


@lru_cache(maxsize=4096)
def sides_of(name: str) -> frozenset[str]:
    """Return the sides to which content under this name may belong: both if the name does not tell.

    Example:
        >>> sides_of("gen_ai.output.messages")
        frozenset({'output'})
    """
    words = split_words(name)
    is_input, is_output = not _INPUT_WORDS.isdisjoint(words), not _OUTPUT_WORDS.isdisjoint(words)
    if is_input is is_output or name.startswith(_TOOLS):
        return BOTH
    return frozenset({INPUT if is_input else OUTPUT})


def is_sentence(name: str) -> bool:
    """Return whether the name of a span or event is a text: some agents name a task by its prompt."""
    return len(name) > _MAX_NAME or "\n" in name or len(name.split()) > _MAX_WORDS


def name_repeats_content(name: str, removed: Iterable[Any]) -> bool:
    """Return whether a span's name is a sentence, or repeats a value that was removed from the span.

    Example:
        >>> name_repeats_content("Summarize the patient's file.task", ["Summarize the patient's file"])
        True
        >>> name_repeats_content("chat gpt-4o", ["chat gpt-4o with me"])
        False
    """
    if is_sentence(name):
        return True
    is_phrase = len(name.split()) >= _MIN_WORDS
    return any(
        (is_phrase and name in text) or (len(text) <= len(name) and " " in text.strip() and text in name)
        for text in removed
        if isinstance(text, str)
    )


def neutral_span_name(attributes: Mapping[str, Any]) -> str:
    """Return a name made of a span's operation and model."""
    kind = next((str(attributes[key]).lower() for key in _KINDS if attributes.get(key)), "llm")
    model = attributes.get(names.REQUEST_MODEL)
    return kind if model is None else f"{kind} {model}"
