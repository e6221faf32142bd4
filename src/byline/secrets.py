"""Removes credentials and binary data from texts, for every destination.

The patterns are those of secret scanners (gitleaks, TruffleHog, detect-secrets), with bounds on every
repetition: a prompt may be long, and a caller may have made the prompt to slow the process down.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

#: Keys by their look: texts of which one must be present, and the pattern that is searched for then.
_ISSUED: Final[tuple[tuple[tuple[str, ...], re.Pattern[str]], ...]] = (
    (("sk-", "pk-", "rk-"), re.compile(r"\b(?:c?sk|pk|rk)-[A-Za-z0-9_\-]{12,}")),
    (("AIza",), re.compile(r"\bAIza[A-Za-z0-9_\-]{30,}")),
    (("gsk_", "xai-", "hf_", "fw_"), re.compile(r"\b(?:gsk_|xai-|hf_|fw_)[A-Za-z0-9]{20,}")),
    (
        ("pplx-", "nvapi-", "r8_", "npm_", "tgp_", "pypi-"),
        re.compile(r"\b(?:pplx-|nvapi-|r8_|npm_|tgp_v1_|pypi-)[A-Za-z0-9_\-]{20,}"),
    ),
    (("_live_", "_test_"), re.compile(r"\b(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{16,}")),
    (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,}")),
    (("github_pat_", "glpat-"), re.compile(r"\b(?:github_pat_|glpat-)[A-Za-z0-9_\-]{18,}")),
    (("xox",), re.compile(r"\bxox[abeoprs]-[A-Za-z0-9\-]{16,}")),
    (("hooks.slack.com/",), re.compile(r"(?<=hooks\.slack\.com/)(?:services|workflows|triggers)/[\w/]{20,200}")),
    (("ya29.", "SG."), re.compile(r"\b(?:ya29|SG)\.[A-Za-z0-9_\-.]{20,}")),
    (("hvs.", "hvb.", "hvr."), re.compile(r"\bhv[sbr]\.[A-Za-z0-9_\-]{20,}")),
    (("dp.",), re.compile(r"\bdp\.(?:audit|ct|pt|sa|scim|st)\.[A-Za-z0-9.]{20,}")),
    (("dapi",), re.compile(r"dapi[0-9a-f]{32}(?:-\d)?\b")),
    (("SK", "AC"), re.compile(r"(?:SK|AC)[0-9a-f]{32}\b")),
    (("shp",), re.compile(r"\bshp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32}\b")),
    (
        ("glsa_", "dop_v1_", "lin_api_", "figd_", "whsec_", "sbp_", "ntn_"),
        re.compile(r"\b(?:glsa|dop_v1|lin_api|figd|whsec|sbp|ntn)_[A-Za-z0-9_\-]{24,}"),
    ),
    (("PMAK-", "ATATT3", "tskey-"), re.compile(r"\b(?:PMAK-|ATATT3|tskey-)[A-Za-z0-9_\-=]{16,}")),
    (("AKIA", "ASIA"), re.compile(r"\bA[KS]IA[A-Z0-9]{16}\b")),
    (("AGE-SECRET-KEY-",), re.compile(r"\bAGE-SECRET-KEY-1[A-Z0-9]{16,}")),
    (
        ("PRIVATE KEY-----",),
        # Up to the end of the key, or of a text that was cut.
        re.compile(r"(?<=PRIVATE KEY-----)(?:[A-Za-z0-9+/=\s\\]|\\[nr]){16,16384}"),
    ),
)
#: Tokens of Discord's bots have no mark of their own.
_DISCORD: Final = re.compile(r"[MNO][A-Za-z0-9_\-]{23,25}\.[A-Za-z0-9_\-]{6}\.[A-Za-z0-9_\-]{27,38}")
_JWT: Final = re.compile(r"\beyJ[A-Za-z0-9_\-]{8,4096}\.[A-Za-z0-9_\-]{8,8192}\.[A-Za-z0-9_\-]{4,4096}")

_BEARER: Final = re.compile(
    r"((?:bearer|authorization[\"']{0,2}\s{0,4}[:=]\s{0,4}[\"']?basic) )"
    r"(?:(?=[^\s\"']{0,4096}[0-9=])[a-z0-9+/=_.~\-]{16,8192}|[a-z0-9+/=_.~\-]{20,8192})",
    re.IGNORECASE,
)
_COOKIE: Final = re.compile(
    r"((?<![a-z])cookie[\"'\\]{0,4}\s{0,4}[:=]\s{0,4}[\"'\\]{0,4})"
    r"(?:[\w.\-]{1,64}=[^\s;\"',\\]{1,4096}(?:;\s{0,2})?){1,64}",
    re.IGNORECASE,
)
_NAMED: Final = re.compile(
    # The name, not as the end of another word. `_X_TOKEN` tells whether "-token" belongs to "x-…-token".
    r"((?<![a-z])(?:(?:api|access|account|sharedaccess|secret|private|subscription|virtual|signing)[_-]?key|"
    r"authorization|pass(?:word|wd|phrase)?|pwd|secret|"
    r"(?:access|auth|api|session|security|refresh|bearer)[_-]?token|(?<=-)(?P<token>token))"
    # A separator, as in JSON within JSON, in a tuple, and in a shell.
    r"(?:[\"'\\]{0,4}\s{0,4}[:=]\s{0,4}b?[\"'\\]{0,4}|(?P<comma>[\"'\\]{1,4}\s{0,4},\s{0,4}b?[\"'\\]{1,4}))"
    r"(?:bearer |basic )?)"
    # A value in quotes or after "=", or one with a digit: "the password: please ask" is no credential.
    r"(?:(?<=[\"'=])(?(comma)(?!))|(?=[^\s\"'\\,;]{0,64}[0-9]))[^\s\"'\\,;&)}\]]{8,4096}",
    re.IGNORECASE,
)
#: Ends of these names, with their separators. `_NAMED` is slow, and prose has the words without separators.
_NAME_ENDS: Final = tuple(
    (end, re.compile(end + r"[\"'\\]{0,4}\s{0,4}[:=,]"))
    for end in ("key", "authorization", "password", "passwd", "passphrase", "pass", "pwd", "secret", "token")
)
_X_TOKEN: Final = re.compile(r"(?<![a-z])x-(?:[a-z\-]{0,29}-)?\Z", re.IGNORECASE)
_CREDENTIALS_IN_URL: Final = re.compile(r"(?<=://)[^/@?#\s\"']{1,512}(?=@)")
_QUERY: Final = re.compile(r"((?:^|[?&])([\w\-]{1,60})=)[^&\s\"']{1,4096}")
_SECRET_PARAMETERS: Final = ("key", "token", "secret", "auth", "password", "pwd", "signature", "sig")

_DATA_URL: Final = re.compile(
    r"data:([\w.+-]{1,80}/[\w.+-]{1,80})?(?:;[\w=.+-]{1,80}){0,8};base64,([A-Za-z0-9+/=_\-]{16,})"
)
#: A run of Base64: binary data if it is long, AWS's secret keys are 40 characters.
_BASE64: Final = re.compile(r"(?<![A-Za-z0-9+/_\-])[A-Za-z0-9+/_\-]{40,}={0,2}")
_MIN_BINARY: Final = 512
_AWS_SECRET: Final = re.compile(r"(?=.{0,39}[a-z])(?=.{0,39}[A-Z])(?=.{0,39}[0-9])[A-Za-z0-9+][A-Za-z0-9+/]{39}")
#: The shortest credential with a name: ``pwd=12345678``.
MIN_TEXT: Final = 12
_MIN_RUN: Final = 40
_MAX_SHORT: Final = 64

#: Last words of attribute names that hold credentials.
_SECRET_WORDS: Final = frozenset(
    {
        "apikey", "authorization", "cookie", "credential", "credentials", "dsn", "jwt", "otp", "passphrase", "passwd",
        "password", "pwd", "secret",
    }
)  # fmt: skip
#: Last words that name a credential together with the word before them.
_SECRET_PAIRS: Final = {
    "key": frozenset(
        {
            "access", "account", "api", "encryption", "functions", "gateway", "litellm", "master", "private", "secret",
            "signing", "subscription", "virtual",
        }
    ),
    "string": frozenset({"connection"}),
    "token": frozenset(
        {
            "access", "api", "auth", "bearer", "client", "csrf", "id", "refresh", "security", "service", "session",
            "vault",
        }
    ),
}  # fmt: skip
#: A header with one of these words holds a credential.
_HEADER_WORDS: Final = _SECRET_WORDS | {"auth", "cert", "csrf", "key", "signature", "token", "xsrf"}
_PARTS: Final = re.compile(r"[.\s]+")
_WORDS: Final = re.compile(r"[_\-]+|(?<=[a-z])(?=[A-Z])")


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Return whether an attribute's value is a credential, by the attribute's name.

    Example:
        >>> is_secret("http.request.header.x_vault_token"), is_secret("byline.gateway.key.hash")
        (True, False)
    """
    last = _PARTS.split(name)[-1]
    words = [word.lower() for word in _WORDS.split(last) if word]
    if not words:
        return False
    if ".header" in name and name.startswith(("http.", "rpc.")):
        return not _HEADER_WORDS.isdisjoint(words) or words[-1] == "session"
    if words[-1] in _SECRET_WORDS or words in (["token"], ["auth"]):
        return True
    return len(words) > 1 and words[-2] in _SECRET_PAIRS.get(words[-1], ())


def encodable(text: str) -> str:
    """Return a text that UTF-8 can encode: half an emoji, the end of a cut stream, would spoil a whole batch."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def scrub(text: str) -> str:
    """Return a text without credentials and binary data.

    Example:
        >>> scrub("Incorrect API key provided: sk-proj-0123456789abcdef.")
        'Incorrect API key provided: ….'
    """
    if not text.isascii():
        text = encodable(text)
    if len(text) < MIN_TEXT:
        return text
    return _scrub_short(text) if len(text) <= _MAX_SHORT else _scrub(text)


def _scrub(text: str) -> str:
    if ";base64," in text:
        text = _DATA_URL.sub(lambda match: f"data:{match[1] or ''};base64,[{len(match[2])} characters left out]", text)
    if len(text) >= _MIN_RUN:
        text = _BASE64.sub(_scrub_run, text)
    if "://" in text:
        text = _CREDENTIALS_IN_URL.sub("…", text)
    if "=" in text:
        text = _QUERY.sub(_scrub_parameter, text)
    if "eyJ" in text:
        text = _JWT.sub("…", text)
    for marks, pattern in _ISSUED:
        for mark in marks:
            if mark in text:
                text = pattern.sub("…", text)
                break
    if text.count(".") > 1:
        text = _DISCORD.sub("…", text)
    folded = text.lower()
    if "bearer " in folded or "basic " in folded:
        text = _BEARER.sub(r"\1…", text)
    if "cookie" in folded:
        text = _COOKIE.sub(r"\1…", text)
    if any(end in folded and pattern.search(folded) for end, pattern in _NAME_ENDS):
        text = _NAMED.sub(_scrub_named, text)
    return text


#: Models, hosts, and names repeat from span to span.
_scrub_short: Final = lru_cache(maxsize=2048)(_scrub)


def _scrub_parameter(match: re.Match[str]) -> str:
    return f"{match[1]}…" if match[2].lower().endswith(_SECRET_PARAMETERS) else match[0]


def _scrub_run(match: re.Match[str]) -> str:
    run = match[0]
    if len(run) >= _MIN_BINARY:
        return f"[{len(run)} characters left out]"
    return "…" if _AWS_SECRET.fullmatch(run) else run


def _scrub_named(match: re.Match[str]) -> str:
    # Checked here, because a search for "x-…-token" from every hyphen of a long text would take too long.
    if match["token"] and not _X_TOKEN.search(match.string[max(match.start() - 33, 0) : match.start()]):
        return match[0]
    return f"{match[1]}…"
