"""Takes out of texts what must never leave, whatever a destination may see: credentials and binary parts."""

from __future__ import annotations

import re
from typing import Final

#: Keys of providers, gateways and clouds by their look. Each is searched for only where one of its
#: marks is in the text at all, for prompts are long.
_SECRETS: Final[tuple[tuple[tuple[str, ...], re.Pattern[str]], ...]] = (
    (("sk-", "pk-", "rk-"), re.compile(r"\b(?:sk|pk|rk)-[A-Za-z0-9_\-]{12,}")),
    (("AIza",), re.compile(r"\bAIza[A-Za-z0-9_\-]{30,}")),
    (("gsk_", "xai-", "hf_"), re.compile(r"\b(?:gsk_|xai-|hf_)[A-Za-z0-9]{20,}")),
    (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,}")),
    (("AKIA",), re.compile(r"\bAKIA[A-Z0-9]{16}\b")),
)
#: The same for what is written in any case.
_NAMED_SECRETS: Final[tuple[tuple[tuple[str, ...], re.Pattern[str]], ...]] = (
    (
        ("bearer ", "basic "),
        re.compile(r"(?:(?<=bearer )|(?<=basic ))(?=[^\s\"']*[0-9=])[a-z0-9+/=_.~\-]{16,}", re.IGNORECASE),
    ),
    (
        ("api_key", "api-key", "apikey", "authorization"),
        re.compile(r"((?:api[_-]?key|authorization)[\"']?\s*[:=]\s*[\"'])[^\"'\s]{8,}", re.IGNORECASE),
    ),
)
_CREDENTIALS_IN_URL: Final = re.compile(r"(?<=://)[^/@\s\"']+:[^/@\s\"']+(?=@)")
_SECRET_IN_QUERY: Final = re.compile(
    r"([?&](?:key|api[_-]?key|token|access_token|secret|sig|signature|password)=)[^&\s\"']+", re.IGNORECASE
)
_DATA_URL: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w=.+-]+)*;base64,[A-Za-z0-9+/=_\-]{16,}")
#: So long a run of base64 is no text.
_LONG: Final = 512
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_\-]{512,}={0,2}")


def scrub(text: str) -> str:
    """Return a text without credentials and binary parts.

    Example:
        >>> scrub("Incorrect API key provided: sk-proj-0123456789abcdef.")
        'Incorrect API key provided: ….'
    """
    if len(text) < 8:
        return text
    if ";base64," in text:
        text = _DATA_URL.sub(lambda found: f"data:{found[1] or ''};base64,[{len(found[0])} characters left out]", text)
    if len(text) >= _LONG:
        text = _BASE64.sub(lambda found: f"[{len(found[0])} characters left out]", text)
    if "://" in text:
        text = _CREDENTIALS_IN_URL.sub("…", text)
        text = _SECRET_IN_QUERY.sub(r"\1…", text)
    for marks, pattern in _SECRETS:
        if any(mark in text for mark in marks):
            text = pattern.sub("…", text)
    folded = text.lower()
    for marks, pattern in _NAMED_SECRETS:
        if any(mark in folded for mark in marks):
            text = pattern.sub(lambda found: f"{found[1] if found.lastindex else ''}…", text)
    return text
