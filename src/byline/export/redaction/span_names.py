"""What a span is called where its own name would tell what was asked: some agents name a task by its prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from byline.genai import attributes as names

#: Longer, or of more words, a name is a text.
_LONG: Final = 100
_MANY: Final = 8
#: So many words of a name are no tool's or model's that happens to stand in a text.
_SOME: Final = 3
_KINDS: Final = (names.OPERATION_NAME, "traceloop.span.kind", "openinference.span.kind", "langfuse.observation.type")


def name_repeats_content(name: str, hidden: Iterable[Any]) -> bool:
    """Whether a name is a text itself, or tells of what was hidden.

    Example:
        >>> name_repeats_content("Summarize the patient's file.task", ["Summarize the patient's file"])
        True
        >>> name_repeats_content("chat gpt-4o", ["chat gpt-4o with me"])
        False
    """
    words = len(name.split())
    if len(name) > _LONG or words > _MANY or "\n" in name:
        return True
    texts = [text for text in hidden if isinstance(text, str)]
    return any(
        (words >= _SOME and name in text) or (len(text) <= len(name) and " " in text.strip() and text in name)
        for text in texts
    )


def safe_span_name(attributes: Mapping[str, Any]) -> str:
    """Return what a span does, and of a model call with which model."""
    kind = next((str(attributes[key]).lower() for key in _KINDS if attributes.get(key)), "llm")
    model = attributes.get(names.REQUEST_MODEL)
    return kind if model is None else f"{kind} {model}"
