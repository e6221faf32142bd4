"""Sampling: the same answer for the same session in every process, on every host."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from byline.attribution import to_trace_id
from byline.export.request_spans import RequestSpans
from byline.export.span_copy import SpanCopy
from byline.genai.attributes import SESSION_ID
from byline.settings import SettingError

_WHOLE: Final = 1 << 64
_KEY: Final = "key"


def validate_sampling(sampling: Any) -> float:
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


def sampling_key(draft: SpanCopy) -> str:
    """Return what a span is sampled by: its session, else its trace as the caller or the app named it.

    What the first span of a trace was sampled by counts for the others of that request too, for a
    session may be known late; not for those that name another session.
    """
    trace = draft.trace
    known = draft.attribution.session_id
    stated = draft.attributes.get(SESSION_ID)
    family = None if draft.kin is None else draft.kin.family
    if family is None:
        return str(stated or known or _of_trace(trace))
    if stated == known or any(stated == past.session_id for past in family.past):
        stated = None
    decided = _decide(family, str(known or stated or ""), trace)
    return str(stated) if stated and decided != _of_trace(trace) else decided


def _decide(family: RequestSpans, session: str, trace: int) -> str:
    decided = family.sampled_by.look(trace, _KEY)
    if decided is None:
        above = family.above
        if above is not None and _is_alike(above, session, trace):
            # A part that knows no more than the whole shares its fate.
            decided = _decide(above, session, trace)
        else:
            decided = session or _of_trace(trace)
        # Other destinations may have decided meanwhile, and all of them go by the first.
        decided = family.sampled_by.of(trace).setdefault(_KEY, decided)
    return decided


def _is_alike(above: RequestSpans, session: str, trace: int) -> bool:
    named = above.attribution.trace_id
    return (above.attribution.session_id or "") == session and (not named or to_trace_id(named) == trace)


def _of_trace(trace: int) -> str:
    return f"{trace:032x}"
