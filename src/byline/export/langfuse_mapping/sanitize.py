"""Mends what Langfuse could not read: it drops or misreads a whole observation for one value of the wrong form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from byline.genai import attributes as names
from byline.genai.json_text import json_dumps

LEVEL: Final = "langfuse.observation.level"
METADATA: Final = "langfuse.observation.metadata."
STARTED: Final = "langfuse.observation.completion_start_time"

#: Langfuse refuses an observation, and the whole trace, where a name is longer.
MAX_NAME: Final = 1000
#: What Langfuse takes for the name of an observation in the place of the span's own, and how long it may be.
NAMES: Final = {
    "gen_ai.tool.name": MAX_NAME,
    "genkit:name": MAX_NAME,
    "logfire.msg": MAX_NAME,
    "ai.toolCall.name": MAX_NAME,
    # These two become one name.
    "ai.operationId": 199,
    "ai.telemetry.functionId": 800,
}
_LEVELS: Final = frozenset(
    {"DEBUG", "TRACE", "VERBOSE", "DEFAULT", "INFO", "LOG", "WARN", "WARNING", "ERROR", "FATAL", "CRITICAL"}
)
_TEXTS: Final = (
    names.SESSION_ID,
    names.CONVERSATION_ID,
    names.USER_ID,
    "langfuse.session.id",
    "langfuse.user.id",
    names.TRACE_NAME,
    names.RELEASE,
    names.VERSION,
    names.ENVIRONMENT,
)
_NO_ENVIRONMENT: Final = re.compile(r"[^a-z0-9_-]+")
_TIME: Final = re.compile(
    r'"?(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:\.\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?)?"?', re.ASCII
)


def sanitize(attributes: dict[str, Any]) -> None:
    """Bring into form what an app or an instrumentation has written, or take it off where that cannot be done."""
    for key in _TEXTS:
        value = attributes.get(key)
        if value is not None and not isinstance(value, str):
            attributes[key] = json_dumps(value)
    for key, most in NAMES.items():
        if key in attributes:
            attributes[key] = shorten_name(str(attributes[key]), most)
    if names.TRACE_NAME in attributes:
        attributes[names.TRACE_NAME] = shorten_name(attributes[names.TRACE_NAME])
    if names.ENVIRONMENT in attributes:
        attributes[names.ENVIRONMENT] = clean_environment_name(attributes[names.ENVIRONMENT])
    if LEVEL in attributes:
        level = str(attributes.pop(LEVEL)).upper()
        if level in _LEVELS:
            attributes[LEVEL] = level
    if STARTED in attributes and not _is_time(attributes[STARTED]):
        del attributes[STARTED]


def shorten_name(name: str, most: int = MAX_NAME) -> str:
    """Return a name that is no longer than may be."""
    return name if len(name) <= most else name[: most - 1] + "…"


def clean_environment_name(name: str) -> str:
    """Return an environment as Langfuse takes it, which shows any other as ``default``.

    Example:
        >>> clean_environment_name("Prod EU")
        'prod-eu'
    """
    return _NO_ENVIRONMENT.sub("-", name.lower())[:40].strip("-") or "default"


def parse_json_object(value: Any) -> dict[str, Any]:
    """Return a JSON object, or what a JSON text says that is one; nothing of any other value."""
    try:
        found = json.loads(value) if isinstance(value, str | bytes) else value
    except (ValueError, RecursionError):
        return {}
    return dict(found) if isinstance(found, Mapping) else {}


def _is_time(value: Any) -> bool:
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return False
    try:
        datetime.fromisoformat(f"{found[1]}T{found[2] or '00:00'}")
    except ValueError:
        return False
    return True
