"""Values as JSON text that any parser reads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def json_dumps(value: Any) -> str:
    """Return JSON that any parser reads: Python's own writes numbers that are none.

    Example:
        >>> json_dumps({"top_p": float("nan"), "max_tokens": 64})
        '{"max_tokens": 64}'
    """
    try:
        return json.dumps(value, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items() if not _is_no_number(item)}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if _is_no_number(value) else value


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
