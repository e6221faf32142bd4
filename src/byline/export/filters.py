"""Filters: whose spans, and of which models, a destination gets."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from byline import errors
from byline.export.span_copy import SpanCopy
from byline.genai import attributes as names
from byline.settings import SettingError

Where = Callable[[ReadableSpan], bool]

_MODELS: Final = (names.CALL_RESULT["response_model"], names.REQUEST_MODEL, "llm.model_name", "llm.request.model")
#: Filter → the attributes of which one has to match.
_ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "organizations": (names.ORGANIZATION_ID,),
    "environments": (names.ENVIRONMENT, names.ENVIRONMENT_ID),
    "keys": (names.KEY_HASH, names.KEY_ALIAS, names.CALL_RESULT["key_hash"], names.CALL_RESULT["key_alias"]),
    "models": _MODELS,
}


class Filters:
    """What a destination wants of the spans that it picks.

    Args:
        organizations: Ids of organizations.
        environments: Deployment environments, or ids of the tenants' environments.
        keys: Hashes or aliases of API keys, the callers' or the gateway's.
        models: Model names; they count for model calls alone.
        where: A function of the finished span.

    Each is a collection of patterns, in which ``*`` stands for anything; a span has to match one
    pattern of each filter that is given.

    Raises:
        SettingError: ``byline.E047``.
    """

    def __init__(
        self,
        *,
        organizations: Collection[str] | None = None,
        environments: Collection[str] | None = None,
        keys: Collection[str] | None = None,
        models: Collection[str] | None = None,
        where: Where | None = None,
    ) -> None:
        given = {"organizations": organizations, "environments": environments, "keys": keys, "models": models}
        self._patterns: dict[str, re.Pattern[str]] = {}
        for name, patterns in given.items():
            if patterns is None:
                continue
            if isinstance(patterns, str) or not isinstance(patterns, Collection):
                raise SettingError("byline.E047", f"{name} is {type(patterns).__name__}", f"pass a list: {name}=[…]")
            if not all(isinstance(pattern, str) for pattern in patterns):
                raise SettingError("byline.E047", f"{name} has something that is no text", "pass a list of texts")
            self._patterns[name] = _pattern(patterns)
        if where is not None and not callable(where):
            raise SettingError(
                "byline.E047", f"where is {type(where).__name__}", "pass a function of the finished span"
            )
        self._where = where

    @property
    def any(self) -> bool:
        """Whether anything is filtered at all."""
        return bool(self._patterns) or self._where is not None

    def keep(self, draft: SpanCopy) -> bool:
        """Whether a span passes all filters. One that they cannot judge does not."""
        for name, pattern in self._patterns.items():
            if name == "models" and not draft.is_leaf:
                continue
            values = [draft.attributes.get(key) for key in _ATTRIBUTES[name]]
            if not any(value is not None and pattern.fullmatch(str(value)) for value in values):
                return False
        if self._where is None:
            return True
        try:
            return bool(self._where(draft.finish()))
        except Exception:
            errors.report_internal_error("where")
            return False


def _pattern(texts: Collection[str]) -> re.Pattern[str]:
    # A star stands for anything, and nothing else is special: models have brackets in their names.
    each = [re.escape(text).replace(r"\*", ".*") for text in texts]
    # Of none, one that nothing matches.
    return re.compile("|".join(each) or "(?!)", re.DOTALL)
