"""Sampling: the same answer for the same session in every process, on every host."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from byline.export.draft import Draft
from byline.export.ids import trace_id_of
from byline.settings import SettingError
from byline.spans.attributes import SESSION_ID

_WHOLE: Final = 1 << 64


def check(sampling: Any) -> float:
    """Return the share when it can be used. Raises `SettingError` ``byline.E045`` otherwise."""
    if isinstance(sampling, int | float) and not isinstance(sampling, bool) and 0 <= sampling <= 1:
        return float(sampling)
    raise SettingError("byline.E045", f"sampling={sampling!r}", "pass a share from 0 to 1, e.g. 0.1 for a tenth")


def is_sampled(key: str, share: float) -> bool:
    """Whether a session or trace is among the share that is kept.

    The first 64 bits of the key's SHA-256 are compared with the share, so that nothing has to be
    agreed upon between processes, and what a small share keeps, a larger one keeps too.

    Example:
        >>> is_sampled("session_abc", 1.0), is_sampled("session_abc", 0.0)
        (True, False)
    """
    if share >= 1:
        return True
    return int.from_bytes(hashlib.sha256(key.encode(errors="surrogatepass")).digest()[:8], "big") < share * _WHOLE


def key_of(draft: Draft) -> str:
    """Return what a span is sampled by: its session, else its trace as the caller or the app named it.

    What the first span of a request was sampled by counts for all of them.
    """
    family = None if draft.kin is None else draft.kin.family
    if family is None:
        return _key_of(draft)
    if family.sampled_by is None:
        family.sampled_by = _key_of(draft)
    return family.sampled_by


def _key_of(draft: Draft) -> str:
    session = draft.attributes.get(SESSION_ID) or draft.attribution.session_id
    if session:
        return str(session)
    trace_id = draft.attribution.trace_id
    return f"{trace_id_of(trace_id) if trace_id else draft.context.trace_id:032x}"
