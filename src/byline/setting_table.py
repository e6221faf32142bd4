"""The table of all settings: their environment variables, defaults, meanings and parsers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

#: Characters of a signing key; ``openssl rand -base64 32`` makes 44.
_MIN_SIGNING_KEY: Final = 16
#: Seconds for which a signature can count: a year.
_MAX_AGE: Final = 366 * 86400


class Setting(NamedTuple):
    """One row of the table."""

    name: str
    variables: tuple[str, ...]
    default: str
    meaning: str
    parse: Callable[[str], Any] = str
    secret: bool = False


def parse_switch(text: str) -> bool:
    """Parse ``1``, ``true``, ``yes``, ``on`` and their opposites, in any case."""
    folded = text.strip().lower()
    if folded in ("1", "true", "yes", "on"):
        return True
    if folded in ("", "0", "false", "no", "off"):
        return False
    raise ValueError("must be true or false")


def _parse_capture(text: str) -> bool:
    # The values of opentelemetry-util-genai; the two that put content on spans count as true.
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


def _parse_list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _parse_bytes(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError("must be a number of bytes")
    return int(text)


def _parse_seconds(text: str) -> float | None:
    if text.strip().lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number of seconds, or none for no limit") from None


def _parse_auto_switch(text: str) -> bool | str:
    return "auto" if text.strip().lower() == "auto" else parse_switch(text)


def _parse_auto_list(text: str) -> Any:
    folded = text.strip().lower()
    return folded if folded == "auto" else () if folded == "none" else _parse_list(text)


def _parse_fields(text: str) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for part in _parse_list(text):
        field, equals, sources = part.partition("=")
        if not equals:
            raise ValueError("must be field=source pairs such as session_id=body:conversation.id")
        fields[field.strip()] = [source.strip() for source in sources.split("|")]
    return fields


def _parse_signing_keys(text: str) -> tuple[str, ...]:
    keys = _parse_list(text)
    if any(len(key) < _MIN_SIGNING_KEY for key in keys):
        raise ValueError(f"has a key of less than {_MIN_SIGNING_KEY} characters")
    return keys


def _parse_age(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 1 <= seconds <= _MAX_AGE:
        raise ValueError(f"must be a number of seconds, from 1 to {_MAX_AGE}")
    return seconds


def _parse_key(text: str) -> str:
    if text and len(text) < _MIN_SIGNING_KEY:
        raise ValueError(f"has less than {_MIN_SIGNING_KEY} characters")
    return text


def _parse_key_hash(text: str) -> str:
    folded = text.strip().lower()
    if folded not in ("auto", "sha256", "off"):
        raise ValueError("must be auto, sha256 or off")
    return folded


SETTINGS: Final[tuple[Setting, ...]] = (
    Setting("langfuse_public_key", ("LANGFUSE_PUBLIC_KEY",), "", "Langfuse's public key, pk-lf-…"),
    Setting("langfuse_secret_key", ("LANGFUSE_SECRET_KEY",), "", "Langfuse's secret key, sk-lf-…", secret=True),
    Setting(
        "langfuse_base_url",
        ("LANGFUSE_BASE_URL", "LANGFUSE_HOST", "LANGFUSE_OTEL_HOST"),
        "https://cloud.langfuse.com",
        "URL of Langfuse: the EU region by default, https://us.cloud.langfuse.com for the US, or your own",
    ),
    Setting(
        "otlp_endpoint",
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        "",
        "OTLP/HTTP endpoint for spans: the first variable is the whole URL, /v1/traces is appended to the second",
    ),
    Setting(
        "otlp_headers",
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"),
        "",
        "Headers for the OTLP endpoint: name=value pairs separated by commas, with percent-encoded values",
        secret=True,
    ),
    Setting(
        "otlp_protocol",
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"),
        "http/protobuf",
        "Protocol of that endpoint: byline supports http/protobuf; with grpc, byline sends nothing",
        str.lower,
    ),
    Setting(
        "otel_exporter",
        ("OTEL_TRACES_EXPORTER",),
        "otlp",
        "Exporters for spans; unless otlp is among them, byline sends nothing to the OTLP endpoint",
        str.lower,
    ),
    Setting(
        "langfuse_enabled",
        ("LANGFUSE_TRACING_ENABLED",),
        "true",
        "false: nothing is sent to Langfuse, even if the keys are set",
        parse_switch,
    ),
    Setting(
        "langfuse_environment",
        ("LANGFUSE_TRACING_ENVIRONMENT",),
        "",
        "Environment in Langfuse for spans without one",
    ),
    Setting("langfuse_release", ("LANGFUSE_RELEASE",), "", "Release in Langfuse for spans without one"),
    Setting("service_name", ("OTEL_SERVICE_NAME",), "unknown_service", "Name of the app in the resource of its spans"),
    Setting(
        "capture_content",
        ("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",),
        "NO_CONTENT",
        "SPAN_ONLY or true: prompts and completions are captured on spans",
        _parse_capture,
    ),
    Setting(
        "allow_http",
        ("BYLINE_ALLOW_HTTP",),
        "",
        "Hosts, without port, to which spans may be sent unencrypted, separated by commas; loopback is always allowed",
        _parse_list,
    ),
    Setting("gateways", ("BYLINE_GATEWAYS",), "", "Gateways by name or name=base URL, separated by commas"),
    Setting(
        "privacy",
        ("BYLINE_PRIVACY",),
        "false",
        "true: prompts and completions are removed before export",
        parse_switch,
    ),
    Setting(
        "media",
        ("BYLINE_MEDIA",),
        "false",
        "true: images, audio and files of captured conversations are uploaded to Langfuse",
        parse_switch,
    ),
    Setting(
        "caller_spans",
        ("BYLINE_CALLER_SPANS",),
        "auto",
        "here, elsewhere or auto: whether the spans of callers are in the same place as byline's",
        str.lower,
    ),
    Setting(
        "caller_address",
        ("BYLINE_CALLER_ADDRESS",),
        "full",
        "full, truncated (to /24, /48 for IPv6) or off: the caller's IP address in what is exported",
        str.lower,
    ),
    Setting("user_agent", ("BYLINE_USER_AGENT",), "true", "false: no user agent is exported", parse_switch),
    Setting("url_paths", ("BYLINE_URL_PATHS",), "true", "false: no path of a URL is exported", parse_switch),
    Setting(
        "pseudonyms",
        ("BYLINE_PSEUDONYMS",),
        "false",
        "true: ids of users and sessions are exported as pseudonyms, for which BYLINE_PSEUDONYM_KEY has to be set",
        parse_switch,
    ),
    Setting(
        "pseudonym_key",
        ("BYLINE_PSEUDONYM_KEY",),
        "",
        "Key of the HMACs that replace ids and hashes of API keys, the same in every process",
        _parse_key,
        secret=True,
    ),
    Setting(
        "key_hash",
        ("BYLINE_KEY_HASH",),
        "auto",
        "Hashes of API keys on spans: auto (an HMAC with BYLINE_PSEUDONYM_KEY; without that key, the SHA-256 of keys "
        "that are too random to guess), sha256 (LiteLLM's form, of every key) or off",
        _parse_key_hash,
    ),
    Setting("sampling", ("BYLINE_SAMPLING",), "1", "Share of sessions that are exported, 0 to 1", _parse_share),
    Setting(
        "sampling_key",
        ("BYLINE_SAMPLING_KEY",),
        "",
        "Key with which sampling hashes sessions, the same in every process: callers then cannot choose a session that "
        "is left out",
        _parse_key,
        secret=True,
    ),
    Setting("key_aliases", ("BYLINE_KEY_ALIASES",), "", "Names of API keys, hash=name, separated by commas"),
    Setting("spool", ("BYLINE_SPOOL",), "", "Folder in which spans wait while a destination is unavailable"),
    Setting(
        "propagate_to",
        ("BYLINE_PROPAGATE_TO",),
        "",
        "Own services that get the attribution with HTTP requests: hosts, `*.suffix` or networks, separated by commas",
        _parse_list,
    ),
    Setting(
        "signing_key",
        ("BYLINE_SIGNING_KEY",),
        "",
        "Keys that sign the attribution for own services and jobs, separated by commas: the first signs, all verify",
        _parse_signing_keys,
        secret=True,
    ),
    Setting(
        "audience",
        ("BYLINE_AUDIENCE",),
        "byline",
        "Name of the group of services that accept each other's signed attribution, e.g. production",
    ),
    Setting(
        "http_max_age",
        ("BYLINE_HTTP_MAX_AGE",),
        "300",
        "Seconds for which the signed attribution of an HTTP request counts",
        _parse_age,
    ),
    Setting(
        "queue_max_age",
        ("BYLINE_QUEUE_MAX_AGE",),
        "604800",
        "Seconds for which the signed attribution of a message in a queue counts: longer than the longest wait, "
        "countdown or retry of a job",
        _parse_age,
    ),
    Setting(
        "fields",
        ("BYLINE_FIELDS",),
        "",
        "Sources of the middleware: session_id=body:conversation.id, with | between several sources of a field",
        _parse_fields,
    ),
    Setting("identity", ("BYLINE_IDENTITY",), "", "Function of the middleware for the authenticated user: module:name"),
    Setting(
        "trust",
        ("BYLINE_TRUST",),
        "",
        "Claim groups that the middleware accepts, separated by commas, or none",
        _parse_auto_list,
    ),
    Setting("public", ("BYLINE_PUBLIC",), "false", "true: strangers call the endpoints of the app", parse_switch),
    Setting(
        "body_limit",
        ("BYLINE_BODY_LIMIT",),
        "16777216",
        "Bytes of a JSON body that the middleware buffers, 0 to read no bodies",
        _parse_bytes,
    ),
    Setting(
        "app_span",
        ("BYLINE_APP_SPAN",),
        "auto",
        "Whether the middleware creates a server span: auto, true or false",
        _parse_auto_switch,
    ),
    Setting(
        "after_response",
        ("BYLINE_AFTER_RESPONSE",),
        "300",
        "Seconds after the response in which work that a request left behind belongs to it, or none for no limit",
        _parse_seconds,
    ),
    Setting(
        "respond",
        ("BYLINE_RESPOND",),
        "",
        "Ids that responses tell the client: session, trace, separated by commas, or none",
        _parse_auto_list,
    ),
    Setting(
        "middleware",
        ("BYLINE_MIDDLEWARE",),
        "true",
        "false: `byline run` and `opentelemetry-instrument` add no middleware to the app",
        parse_switch,
    ),
    Setting("spans", ("BYLINE_SPANS",), "", "Spans for the destinations of the environment: llm or all", str.lower),
    Setting(
        "conventions",
        ("BYLINE_CONVENTIONS",),
        "",
        "Further attribute names for the OTLP endpoint of the environment, separated by commas",
        _parse_list,
    ),
    Setting(
        "organizations",
        ("BYLINE_ORGANIZATIONS",),
        "",
        "Filter of the destinations of the environment: patterns of organization ids, separated by commas",
        _parse_list,
    ),
    Setting("environments", ("BYLINE_ENVIRONMENTS",), "", "The same filter for environments", _parse_list),
    Setting("models", ("BYLINE_MODELS",), "", "The same filter for models", _parse_list),
    Setting("api_keys", ("BYLINE_API_KEYS",), "", "The same filter for hashes or aliases of API keys", _parse_list),
    Setting(
        "broadcasts",
        ("BYLINE_BROADCASTS",),
        "",
        "Gateways that export their own traces to the same destination, separated by commas",
        _parse_list,
    ),
    Setting(
        "queues",
        ("BYLINE_QUEUES",),
        "auto",
        "Task queues to hook, separated by commas, auto for all or none",
        _parse_auto_list,
    ),
    Setting(
        "flush_on_sigterm",
        ("BYLINE_FLUSH_ON_SIGTERM",),
        "false",
        "true: waiting spans are sent when the process gets SIGTERM, before its own handler runs",
        parse_switch,
    ),
    Setting("threads", ("BYLINE_THREADS",), "true", "false: threads do not get the context of a request", parse_switch),
    Setting("disabled", ("BYLINE_DISABLED", "OTEL_SDK_DISABLED"), "false", "true: byline does nothing", parse_switch),
    Setting(
        "debug",
        ("BYLINE_DEBUG",),
        "false",
        "true: log on standard error what is sent where",
        parse_switch,
    ),
)
BY_NAME: Final[Mapping[str, Setting]] = {setting.name: setting for setting in SETTINGS}
