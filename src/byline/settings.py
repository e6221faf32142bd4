"""Settings: one table of every setting, its environment variable, its default and its check."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

#: Whose variables may be misspelt, and how much like one of byline's such a name has to be. Langfuse's own
#: SDK has more of them, which are none of byline's.
_OWN: Final = {"BYLINE_": 0.7, "LANGFUSE_": 0.85}


class SettingError(ValueError):
    """A setting that cannot be used.

    Attributes:
        id: Stable id, ``byline.E0xx``; ``docs/errors.md`` lists them.
        problem: What is wrong.
        advice: What to do about it.
    """

    def __init__(self, identifier: str, problem: str, advice: str) -> None:
        super().__init__(f"{identifier}: {problem}. To mend it, {advice}.")
        self.id = identifier
        self.problem = problem
        self.advice = advice


class Setting(NamedTuple):
    """One row of the table."""

    name: str
    variables: tuple[str, ...]
    default: str
    meaning: str
    parse: Callable[[str], Any] = str
    secret: bool = False


class Found(NamedTuple):
    """A setting in force: its value, and the variable it came from (``None``: the default)."""

    value: Any
    variable: str | None


def parse_switch(text: str) -> bool:
    """Read ``1``, ``true``, ``yes``, ``on`` and their opposites."""
    folded = text.strip().lower()
    if folded in ("1", "true", "yes", "on"):
        return True
    if folded in ("", "0", "false", "no", "off"):
        return False
    raise ValueError("must be true or false")


def _parse_capture(text: str) -> bool:
    # The values of OpenTelemetry's GenAI utilities; SPAN_ONLY is the first that puts content on spans.
    folded = text.strip().upper()
    if folded in ("SPAN_ONLY", "SPAN_AND_EVENT"):
        return True
    if folded in ("", "NO_CONTENT", "EVENT_ONLY"):
        return False
    try:
        return parse_switch(text)
    except ValueError:
        raise ValueError("must be NO_CONTENT, SPAN_ONLY, EVENT_ONLY or SPAN_AND_EVENT") from None


def _parse_share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError("must be a share from 0 to 1")
    return share


SETTINGS: Final[tuple[Setting, ...]] = (
    Setting("langfuse_public_key", ("LANGFUSE_PUBLIC_KEY",), "", "Langfuse's public key, pk-lf-…"),
    Setting("langfuse_secret_key", ("LANGFUSE_SECRET_KEY",), "", "Langfuse's secret key, sk-lf-…", secret=True),
    Setting(
        "langfuse_base_url",
        ("LANGFUSE_BASE_URL", "LANGFUSE_HOST", "LANGFUSE_OTEL_HOST"),
        "https://cloud.langfuse.com",
        "Where Langfuse is: EU is the default, US is https://us.cloud.langfuse.com, or your own",
    ),
    Setting(
        "otlp_endpoint",
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        "",
        "OTLP/HTTP endpoint for spans: the first is the whole URL, the second gets /v1/traces appended",
    ),
    Setting(
        "otlp_headers",
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"),
        "",
        "Headers for the OTLP endpoint: name=value, separated by commas, values percent-encoded",
        secret=True,
    ),
    Setting(
        "otlp_protocol",
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"),
        "http/protobuf",
        "The protocol of that endpoint: byline sends http/protobuf, and with grpc nothing",
        str.lower,
    ),
    Setting(
        "otel_exporter",
        ("OTEL_TRACES_EXPORTER",),
        "otlp",
        "Exporters for spans; without otlp among them, the OTLP endpoint gets none",
        str.lower,
    ),
    Setting(
        "langfuse_enabled",
        ("LANGFUSE_TRACING_ENABLED",),
        "true",
        "false: Langfuse gets nothing, although its keys are set",
        parse_switch,
    ),
    Setting(
        "langfuse_environment",
        ("LANGFUSE_TRACING_ENVIRONMENT",),
        "",
        "Environment in Langfuse of spans that name none",
    ),
    Setting("langfuse_release", ("LANGFUSE_RELEASE",), "", "Release in Langfuse of spans that name none"),
    Setting("service_name", ("OTEL_SERVICE_NAME",), "unknown_service", "The app's name on every span"),
    Setting(
        "capture_content",
        ("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",),
        "NO_CONTENT",
        "SPAN_ONLY or true: prompts and completions are put on spans",
        _parse_capture,
    ),
    Setting(
        "allow_http",
        ("BYLINE_ALLOW_HTTP",),
        "",
        "Hosts, without port, that may get spans unencrypted, separated by commas; loopback always may",
        lambda text: tuple(part.strip() for part in text.split(",") if part.strip()),
    ),
    Setting("gateways", ("BYLINE_GATEWAYS",), "", "Gateways by name or name=base URL, separated by commas"),
    Setting(
        "privacy",
        ("BYLINE_PRIVACY",),
        "false",
        "true: prompts and completions are left out of what is sent",
        parse_switch,
    ),
    Setting("sampling", ("BYLINE_SAMPLING",), "1", "Share of the sessions that is sent, 0 to 1", _parse_share),
    Setting("key_aliases", ("BYLINE_KEY_ALIASES",), "", "Names of API keys, hash=name, separated by commas"),
    Setting("spool", ("BYLINE_SPOOL",), "", "Folder in which spans wait while a destination takes none"),
    Setting("disabled", ("BYLINE_DISABLED", "OTEL_SDK_DISABLED"), "false", "true: byline does nothing", parse_switch),
    Setting("debug", ("BYLINE_DEBUG",), "false", "true: say on standard error what is sent where", parse_switch),
)
BY_NAME: Final[Mapping[str, Setting]] = {setting.name: setting for setting in SETTINGS}


def find(name: str, environ: Mapping[str, str] | None = None) -> Found:
    """Return a setting from the environment, else its default.

    Raises:
        SettingError: ``byline.E001`` when the variable's value cannot be read.
    """
    setting = BY_NAME[name]
    values = os.environ if environ is None else environ
    for variable in setting.variables:
        text = values.get(variable, "").strip()
        if text:
            if _is_quoted(text) and not variable.startswith("OTEL_"):
                raise SettingError(
                    "byline.E001",
                    f"{variable} has quotes around its value, which count as a part of it",
                    f"set {variable} without them; docker's --env-file, for one, does not take them off",
                )
            try:
                return Found(setting.parse(text), variable)
            except ValueError as error:
                raise SettingError("byline.E001", f"{variable} {error}", f"set {variable} anew or unset it") from None
    return Found(setting.parse(setting.default), None)


def misspelt(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return variables that look like one of byline's and are none, each with the one that is meant.

    Example:
        >>> misspelt({"BYLINE_PRIVAT": "1", "BYLINE_DEBUG": "1", "LANGFUSE_BASEURL": "https://lf.example"})
        {'BYLINE_PRIVAT': 'BYLINE_PRIVACY', 'LANGFUSE_BASEURL': 'LANGFUSE_BASE_URL'}
    """
    known = {variable for setting in SETTINGS for variable in setting.variables}
    found: dict[str, str] = {}
    for variable in os.environ if environ is None else environ:
        for prefix, likeness in _OWN.items():
            if variable.startswith(prefix) and variable not in known:
                # The prefix, which they share, would make all of them look alike.
                ends = [name.removeprefix(prefix) for name in known if name.startswith(prefix)]
                for end in difflib.get_close_matches(variable.removeprefix(prefix), ends, 1, likeness):
                    found[variable] = prefix + end
    return found


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"


def mask(secret: str) -> str:
    """Return enough of a secret to recognise it, never the whole."""
    return f"{secret[:6]}…{secret[-2:]}" if len(secret) > 12 else "…" if secret else ""


def shorten(public: str) -> str:
    """Return as much of a public key as tells one project from another.

    Example:
        >>> shorten("pk-lf-0123456789abcdef")
        'pk-lf-01234567…'
    """
    return f"{public[:14]}…" if len(public) > 14 else public
