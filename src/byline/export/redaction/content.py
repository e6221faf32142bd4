"""Which attributes hold prompts and completions: the names in `attribute_lists`, and a rule for unknown names.

Texts under a name whose words speak of content are content.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from byline.export.redaction.attribute_lists import KEPT, KNOWN

_EXACT: Final = frozenset(name for name in KNOWN if not name.endswith("."))
_BELOW: Final = tuple(name for name in KNOWN if name.endswith("."))

#: Headers that say how one asks, never what; and how the names of others begin.
_HEADERS: Final = re.compile(
    r"accept|accept[_-](?:charset|encoding|language)|age|allow|cache[_-]control|connection|content[_-]"
    r"(?:encoding|length|type)|date|etag|expires|forwarded|host|keep[_-]alive|openai[_-](?:processing[_-]ms|version)|"
    r"origin|retry[_-]after|server|te|traceparent|transfer[_-]encoding|upgrade|user[_-]agent|vary|via|"
    r"x[_-]forwarded[_-](?:by|for|host|port|proto)|x[_-]real[_-]ip|x[_-]stainless[_-].+|.+[_-]ratelimit[_-].+|.+[_-]id"
)
# fmt: off
#: Words in a name which say that a text under it is content.
_WORDS: Final = frozenset(
    {
        "answer", "arg", "argument", "backstory", "body", "caption", "choice", "chunk", "comment", "completion",
        "content", "context", "conversation", "data", "description", "document", "embedding", "explanation",
        "feedback", "functions", "goal", "header", "history", "input", "instruction", "memories", "memory", "message",
        "note", "output", "param", "parameter", "passage", "payload", "prediction", "preamble", "prompt", "queries",
        "query", "question", "reasoning", "replies", "reply", "result", "schema", "snippet", "sql", "suffix",
        "summaries", "summary", "text", "thinking", "thought", "tools", "transcript", "transcription", "translation",
        "utterance", "value", "vector",
    }
)
#: Words that do at the end of a name alone; elsewhere they say what the rest is about.
_LAST: Final = frozenset({"error", "errors", "request", "response", "response format", "return"})
#: Such a word says nothing where the name goes on to say that it means something else.
_HARMLESS: Final = frozenset(
    {
        "arn", "code", "count", "fingerprint", "hash", "id", "index", "kind", "length", "mime", "model", "name",
        "provider", "role", "size", "status", "tier", "tokens", "type", "version",
    }
)
#: Under a name that ends so, a single word is one of a few choices, and anything longer is content.
_CHOICES: Final = frozenset(
    {
        "effort", "error", "errors", "format", "formats", "reason", "reasons", "reasoning level", "thinking level",
        "tool choice", "verbosity",
    }
)
# fmt: on
_SPLIT: Final = re.compile(r"[\W_\d]+|(?<=[a-z])(?=[A-Z])")
#: As it is, in quotes, or alone in a list, as JSON has it.
_WORD: Final = re.compile(r"""\[?["']?[\w.+/\-]{1,64}["']?\]?""")


@lru_cache(maxsize=4096)
def is_content(key: str) -> bool:
    """Whether texts under this attribute name are content, as far as the name tells.

    Example:
        >>> is_content("traceloop.entity.input"), is_content("gen_ai.usage.input_tokens")
        (True, False)
    """
    if key in _EXACT or key.startswith(_BELOW):
        return not key.startswith(("gen_ai.prompt.name", "gen_ai.prompt.version"))
    if key.startswith(KEPT):
        return False
    _, header, name = key.partition(".header.")
    if header and _HEADERS.fullmatch(name.lower()):
        return False
    words = words_of(key.removeprefix("gen_ai.request.").removeprefix("gen_ai.response."))
    if not words or words[-1] in _HARMLESS:
        return False
    return _ends_in(words, _LAST) or any(word in _WORDS or word.removesuffix("s") in _WORDS for word in words)


def holds_content(key: str, value: Any) -> bool:
    """Whether a value under this attribute name is content.

    Example:
        >>> holds_content("tool_choice", "auto"), holds_content("response_format", '{"type": "json_schema"}')
        (False, True)
    """
    return is_content(key) and is_text(value) and not (_is_choice(key) and _is_word(value))


@lru_cache(maxsize=4096)
def _is_choice(key: str) -> bool:
    if key in _EXACT or key.startswith(_BELOW):
        return False
    return _ends_in(words_of(key), _CHOICES)


def _is_word(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_word(item) for item in value)
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def _ends_in(words: list[str], endings: frozenset[str]) -> bool:
    return words[-1] in endings or " ".join(words[-2:]) in endings


def words_of(key: str) -> list[str]:
    """Return the words of a name in lower case."""
    return [word.lower() for word in _SPLIT.split(key) if word]


def is_text(value: Any) -> bool:
    """Whether a value can hold content: numbers and truth values cannot."""
    if value is None or isinstance(value, bool | int | float):
        return False
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        # A vector tells about the text that it was made from.
        return len(value) > 8 or any(is_text(item) for item in value)
    return not isinstance(value, Mapping) or any(is_text(item) for item in value.values())
