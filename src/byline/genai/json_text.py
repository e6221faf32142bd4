"""JSON text without NaN and infinities."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

_encode: Final = json.JSONEncoder(ensure_ascii=False, default=str, allow_nan=False).encode


def json_dumps(value: Any) -> str:
    """Return valid JSON: without NaN and infinities, which `json.dumps` writes by default.

    Example:
        >>> json_dumps({"top_p": float("nan"), "max_tokens": 64})
        '{"max_tokens": 64}'
    """
    try:
        return _encode(value)
    except ValueError:
        return json.dumps(_drop_non_finite(value), ensure_ascii=False, default=str)


def _drop_non_finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _drop_non_finite(item) for key, item in value.items() if not _is_non_finite(item)}
    if isinstance(value, list | tuple):
        return [_drop_non_finite(item) for item in value]
    return None if _is_non_finite(value) else value


def _is_non_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
