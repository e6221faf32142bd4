"""Takes out of texts what must never leave, whatever a destination may see: credentials and binary parts."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

#: Keys of providers, gateways and clouds by their look. Each is searched for only where one of its
#: marks is in the text at all, for prompts are long.
_SECRETS: Final[tuple[tuple[tuple[str, ...], re.Pattern[str]], ...]] = (
    (("sk-", "pk-", "rk-"), re.compile(r"\b(?:sk|pk|rk)-[A-Za-z0-9_\-]{12,}")),
    (("AIza",), re.compile(r"\bAIza[A-Za-z0-9_\-]{30,}")),
    (("gsk_", "xai-", "hf_"), re.compile(r"\b(?:gsk_|xai-|hf_)[A-Za-z0-9]{20,}")),
    (("pplx-", "nvapi-", "r8_", "npm_"), re.compile(r"\b(?:pplx-|nvapi-|r8_|npm_)[A-Za-z0-9_\-]{20,}")),
    (("_live_", "_test_"), re.compile(r"\b(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{16,}")),
    (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,}")),
    (("github_pat_", "glpat-"), re.compile(r"\b(?:github_pat_|glpat-)[A-Za-z0-9_\-]{18,}")),
    (("xox",), re.compile(r"\bxox[abeoprs]-[A-Za-z0-9\-]{16,}")),
    (("ya29.", "SG."), re.compile(r"\b(?:ya29|SG)\.[A-Za-z0-9_\-.]{20,}")),
    (("AKIA", "ASIA"), re.compile(r"\bA[KS]IA[A-Z0-9]{16}\b")),
    (
        ("PRIVATE KEY-----",),
        # Up to its end, or to where the text was cut off.
        re.compile(r"(?<=PRIVATE KEY-----)(?:[A-Za-z0-9+/=\s\\]|\\[nr]){16,16384}"),
    ),
)
#: The same for what is written in any case. Everything has an end: a text may be long, and anybody's.
_NAMED_SECRETS: Final[tuple[tuple[tuple[str, ...], re.Pattern[str]], ...]] = (
    (
        ("bearer ", "basic "),
        re.compile(
            r"((?:bearer|authorization[\"']{0,2}\s{0,4}[:=]\s{0,4}[\"']?basic) )"
            r"(?=[^\s\"']{0,4096}[0-9=])[a-z0-9+/=_.~\-]{16,8192}",
            re.IGNORECASE,
        ),
    ),
    (
        ("key", "authorization", "password", "passwd", "secret", "token"),
        re.compile(
            # What it is called, with whatever before it that is not its own word; "x-…-token" is told by `_X_TOKEN` …
            r"((?<![a-z])(?:(?:api|access|secret|private|subscription|virtual|signing)[_-]?key|"
            r"authorization|password|passwd|secret|(?:access|auth|api|session|security|refresh|bearer)[_-]?token|"
            r"(?<=-)(?P<token>token))"
            # … what stands between, as in JSON within JSON, in a tuple and in a shell …
            r"(?:[\"'\\]{0,4}\s{0,4}[:=]\s{0,4}b?[\"'\\]{0,4}|[\"'\\]{1,4}\s{0,4},\s{0,4}b?[\"'\\]{1,4})"
            r"(?:bearer |basic )?)"
            # … and a value with a digit in it.
            r"(?=[^\s\"'\\,;]{0,64}[0-9])[^\s\"'\\,;&)}\]]{8,4096}",
            re.IGNORECASE,
        ),
    ),
)
_X_TOKEN: Final = re.compile(r"(?<![a-z])x-(?:[a-z\-]{0,29}-)?\Z", re.IGNORECASE)
_JWT: Final = re.compile(r"\beyJ[A-Za-z0-9_\-]{8,4096}\.[A-Za-z0-9_\-]{8,8192}\.[A-Za-z0-9_\-]{8,4096}")
_CREDENTIALS_IN_URL: Final = re.compile(r"(?<=://)[^/@?#\s\"']{1,512}(?=@)")
_QUERY: Final = re.compile(r"((?:^|[?&])([\w\-]{1,60})=)[^&\s\"']{1,4096}")
_SECRETS_OF_QUERIES: Final = ("key", "token", "secret", "auth", "password", "signature", "sig")
_DATA_URL: Final = re.compile(
    r"data:([\w.+-]{1,80}/[\w.+-]{1,80})?(?:;[\w=.+-]{1,80}){0,8};base64,[A-Za-z0-9+/=_\-]{16,}"
)
#: So long a run of base64 is no text.
_LONG: Final = 512
_BASE64: Final = re.compile(r"(?<![A-Za-z0-9+/_\-])[A-Za-z0-9+/_\-]{512,}={0,2}")


#: Words that say by themselves that a value is a credential, where a name ends in them.
_SECRET_WORDS: Final = frozenset(
    {"apikey", "authorization", "cookie", "credential", "credentials", "jwt", "passwd", "password", "secret"}
)
#: Words that do together with what stands before them.
_SECRET_PAIRS: Final = {
    "key": frozenset(
        {
            "access", "api", "encryption", "functions", "gateway", "litellm", "master", "private", "secret", "signing",
            "subscription", "virtual",
        }
    ),
    "token": frozenset(
        {
            "access", "api", "auth", "bearer", "client", "csrf", "id", "refresh", "security", "service", "session",
            "vault",
        }
    ),
}  # fmt: skip
#: A header has them for one reason only.
_IN_HEADERS: Final = _SECRET_WORDS | {"auth", "key", "signature", "token"}
_PARTS: Final = re.compile(r"[.\s]+")
_WORDS: Final = re.compile(r"[_\-]+|(?<=[a-z])(?=[A-Z])")


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether what stands under an attribute name is a credential.

    Example:
        >>> is_secret("http.request.header.x_vault_token"), is_secret("byline.gateway.key.hash")
        (True, False)
    """
    last = _PARTS.split(name)[-1]
    words = [word.lower() for word in _WORDS.split(last) if word]
    if not words:
        return False
    if ".header" in name and name.startswith(("http.", "rpc.")):
        return not _IN_HEADERS.isdisjoint(words)
    if words[-1] in _SECRET_WORDS or words in (["token"], ["auth"]):
        return True
    return len(words) > 1 and words[-2] in _SECRET_PAIRS.get(words[-1], ())


def encodable(text: str) -> str:
    """Return a text that UTF-8 can write: half an emoji, as a cut stream has it, would spoil a whole batch."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def scrub(text: str) -> str:
    """Return a text without credentials and binary parts.

    Example:
        >>> scrub("Incorrect API key provided: sk-proj-0123456789abcdef.")
        'Incorrect API key provided: ….'
    """
    text = encodable(text)
    if len(text) < 8:
        return text
    if ";base64," in text:
        text = _DATA_URL.sub(lambda found: f"data:{found[1] or ''};base64,[{len(found[0])} characters left out]", text)
    if len(text) >= _LONG:
        text = _BASE64.sub(lambda found: f"[{len(found[0])} characters left out]", text)
    if "://" in text:
        text = _CREDENTIALS_IN_URL.sub("…", text)
    if "=" in text:
        text = _QUERY.sub(_without_parameter, text)
    if "eyJ" in text:
        text = _JWT.sub("…", text)
    for marks, pattern in _SECRETS:
        if any(mark in text for mark in marks):
            text = pattern.sub("…", text)
    folded = text.lower()
    for marks, pattern in _NAMED_SECRETS:
        if any(mark in folded for mark in marks):
            text = pattern.sub(_without_value, text)
    return text


def _without_parameter(found: re.Match[str]) -> str:
    return f"{found[1]}…" if found[2].lower().endswith(_SECRETS_OF_QUERIES) else found[0]


def _without_value(found: re.Match[str]) -> str:
    # Looked for where it may be at all, for before every hyphen of a long text it would take too long.
    if found.groupdict().get("token") and not _X_TOKEN.search(found.string[max(found.start() - 33, 0) : found.start()]):
        return found[0]
    return f"{found[1]}…"
