"""Which side of a call a content is of, and which sides a caller asks to be left out.

LiteLLM's ``mask_input`` and ``mask_output`` come among the metadata, and are signed onto every span of
the request with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from byline.attribution import MASKS, is_asked
from byline.export.redaction.content import words_of
from byline.genai import attributes as names

INPUT: Final = "input"
OUTPUT: Final = "output"
BOTH: Final = frozenset({INPUT, OUTPUT})
_NEITHER: Final[frozenset[str]] = frozenset()
_INPUT: Final = frozenset({INPUT})
_OUTPUT: Final = frozenset({OUTPUT})

_ASKING: Final = {names.METADATA + mask: side for mask, side in zip(MASKS, (INPUT, OUTPUT), strict=True)}

# fmt: off
_INPUT_WORDS: Final = frozenset(
    {"definitions", "input", "inputs", "instruction", "instructions", "prompt", "prompts", "query", "question",
     "questions", "request"}
)
_OUTPUT_WORDS: Final = frozenset(
    {"answer", "answers", "choice", "choices", "completion", "completions", "output", "outputs", "response",
     "responses"}
)
# fmt: on
#: What a model gives a tool, and what that gives back to it.
_OF_TOOLS: Final = ("gen_ai.tool.call.", "gen_ai.tool.arg", "tool_", "tool.", "ai.toolCall.")


def masked_directions(attributes: Mapping[str, Any]) -> frozenset[str]:
    """Return the sides that are to be left out of what these attributes are of.

    Example:
        >>> masked_directions({"langfuse.trace.metadata.mask_input": True})
        frozenset({'input'})
    """
    if _ASKING.keys().isdisjoint(attributes):
        return _NEITHER
    return frozenset(side for key, side in _ASKING.items() if is_asked(attributes.get(key)))


@lru_cache(maxsize=4096)
def directions_of(key: str) -> frozenset[str]:
    """Return the sides that content under this name may be of: both where it does not say.

    Example:
        >>> directions_of("gen_ai.output.messages")
        frozenset({'output'})
    """
    words = words_of(key)
    given, returned = not _INPUT_WORDS.isdisjoint(words), not _OUTPUT_WORDS.isdisjoint(words)
    if given is returned or key.startswith(_OF_TOOLS):
        return BOTH
    return _INPUT if given else _OUTPUT
