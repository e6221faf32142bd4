"""The table of all settings with their environment variables, defaults and parsers, and the lookup of a setting."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

import msgspec

#: Prefix of variables → the similarity to a setting that counts as a misspelling. Higher for Langfuse's, because the
#: Langfuse SDK has variables of its own.
_MISSPELLING_SIMILARITY: Final = {"BYLINE_": 0.7, "LANGFUSE_": 0.85}
#: Characters of a signing key; ``openssl rand -base64 32`` makes 44.
_MIN_SIGNING_KEY: Final = 16


class SettingError(ValueError):
    """An invalid setting.

    Attributes:
        id: Stable id, ``byline.E0xx``; ``docs/errors.md`` lists them.
        problem: The problem.
        advice: How to fix it.
    """

    def __init__(self, identifier: str, problem: str, advice: str) -> None:
        super().__init__(f"{identifier}: {problem}. To fix this, {advice}.")
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


class FoundSetting(NamedTuple):
    """The value of a setting and the variable that it came from, ``None`` for the default."""

    value: Any
    variable: str | None


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


def _parse_pseudonym_key(text: str) -> str:
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
        _parse_pseudonym_key,
        secret=True,
    ),
    Setting(
        "key_hash",
        ("BYLINE_KEY_HASH",),
        "auto",
        "Hashes of API keys on spans: auto (an HMAC with BYLINE_PSEUDONYM_KEY; without that key, the SHA-256 of keys "
        "that nobody can guess), sha256 (LiteLLM's form, of every key) or off",
        _parse_key_hash,
    ),
    Setting("sampling", ("BYLINE_SAMPLING",), "1", "Share of sessions that are exported, 0 to 1", _parse_share),
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
        "Further attribute names for the destinations of the environment, separated by commas",
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


def find(name: str, environ: Mapping[str, str] | None = None) -> FoundSetting:
    """Return a setting from the environment, or the default.

    Raises:
        SettingError: ``byline.E001`` if the variable's value cannot be parsed.
    """
    setting = BY_NAME[name]
    values = os.environ if environ is None else environ
    for variable in setting.variables:
        text = values.get(variable, "").strip()
        if text:
            if _is_quoted(text) and not variable.startswith("OTEL_"):
                raise SettingError(
                    "byline.E001",
                    f"{variable} has quotes around its value, which count as part of the value",
                    f"set {variable} without the quotes; docker's --env-file, for example, does not remove them",
                )
            try:
                return FoundSetting(setting.parse(text), variable)
            except ValueError as error:
                raise SettingError("byline.E001", f"{variable} {error}", f"correct or unset {variable}") from None
    written = config_file.values().get(name) if environ is None else None
    if written is not None:
        try:
            return FoundSetting(setting.parse(written), f"{name} in {config_file.name}")
        except ValueError as error:
            where = f"{name} in {config_file.name}"
            raise SettingError("byline.E001", f"{where} {error}", f"correct or remove {where}") from None
    return FoundSetting(setting.parse(setting.default), None)


def resolve(name: str, argument: Any) -> Any:
    """Return an argument of code, or the setting if the argument is ``None``."""
    return find(name).value if argument is None else argument


class ConfigFile:
    """The settings in ``byline.toml``, in ``[tool.byline]`` of ``pyproject.toml``, or in the file of ``BYLINE_CONFIG``.

    The file is read once, from the folder in which the process starts.
    """

    def __init__(self) -> None:
        self.name = ""
        self._values: dict[str, str] | None = None
        self._error: SettingError | None = None

    def check(self) -> None:
        """Raise the error of a file that cannot be read, which may forbid what the defaults allow.

        Raises:
            SettingError: ``byline.E136``.
        """
        self.values()
        if self._error is not None:
            raise self._error

    def values(self) -> Mapping[str, str]:
        """Return the settings as texts, in the form of their variables; none if the file cannot be read."""
        if self._values is None:
            try:
                self.load()
            except SettingError:
                # `instrument` reports this.
                self._values = {}
        return self._values or {}

    def load(self) -> Mapping[str, str]:
        """Read the file, and return keys that are no settings, each with the most similar setting.

        Raises:
            SettingError: ``byline.E136`` if the file is missing, is not TOML, or ``tool.byline`` is no table.
        """
        self._values, self._error = {}, None
        try:
            return self._load()
        except SettingError as error:
            self._error = error
            raise

    def _load(self) -> Mapping[str, str]:
        named = os.environ.get("BYLINE_CONFIG", "").strip()
        for path in [Path(named)] if named else [Path("byline.toml"), Path("pyproject.toml")]:
            if not named and not path.is_file():
                continue
            try:
                text = path.read_text(encoding="utf-8")
                if path.name == "pyproject.toml" and "tool.byline" not in text:
                    continue
                table: Any = msgspec.toml.decode(text)
            except (OSError, UnicodeDecodeError, msgspec.DecodeError, ImportError) as error:
                why = str(error) if isinstance(error, ImportError | OSError) else "it is not valid TOML"
                raise SettingError("byline.E136", f"{path} cannot be read: {why}", f"correct {path}") from None
            for key in ("tool", "byline") if path.name == "pyproject.toml" else ():
                table = table.get(key, {})
                if not isinstance(table, dict):
                    raise SettingError("byline.E136", f"{key} in {path} is no table", f"correct {path}")
            self.name = str(path)
            self._values = {key: _to_text(value) for key, value in table.items() if key in BY_NAME}
            unknown = [key for key in table if key not in BY_NAME]
            return {key: next(iter(difflib.get_close_matches(key, BY_NAME, 1)), "") for key in unknown}
        return {}

    def clear(self) -> None:
        """Read the file again when it is next needed."""
        self._values = None


config_file: Final = ConfigFile()


def _to_text(value: Any) -> str:
    """Return a value of TOML as it would be written in a variable."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(_to_text, value)) or "none"
    if isinstance(value, dict):
        items = ((key, item if isinstance(item, list) else [item]) for key, item in value.items())
        return ",".join(f"{key}={'|'.join(map(_to_text, item))}" for key, item in items)
    return str(value)


def find_misspelt(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return variables that look like misspelt settings, each with the setting's variable.

    Example:
        >>> find_misspelt({"BYLINE_PRIVAT": "1", "BYLINE_DEBUG": "1", "LANGFUSE_BASEURL": "https://lf.example"})
        {'BYLINE_PRIVAT': 'BYLINE_PRIVACY', 'LANGFUSE_BASEURL': 'LANGFUSE_BASE_URL'}
    """
    known = {"BYLINE_CONFIG"} | {variable for setting in SETTINGS for variable in setting.variables}
    misspelt: dict[str, str] = {}
    for variable in os.environ if environ is None else environ:
        for prefix, similarity in _MISSPELLING_SIMILARITY.items():
            if variable.startswith(prefix) and variable not in known:
                # Without the common prefix, which would make all names similar.
                suffixes = [name.removeprefix(prefix) for name in known if name.startswith(prefix)]
                for suffix in difflib.get_close_matches(variable.removeprefix(prefix), suffixes, 1, similarity):
                    misspelt[variable] = prefix + suffix
    return misspelt


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"


def mask_secret(secret: str) -> str:
    """Return the first six characters of a secret, none of a short one."""
    return f"{secret[:6]}…" if len(secret) > 12 else "…" if secret else ""


def shorten_public_key(public: str) -> str:
    """Return the beginning of a public key, which is enough to tell projects apart.

    Example:
        >>> shorten_public_key("pk-lf-0123456789abcdef")
        'pk-lf-01234567…'
    """
    return f"{public[:14]}…" if len(public) > 14 else public


def install_command(extra: str) -> str:
    """Return the command that adds an extra to byline, as byline itself was installed.

    A package index is named only if byline came from one, not from a folder, a wheel or a repository.
    """
    try:
        distribution = metadata.distribution("byline")
    except metadata.PackageNotFoundError:
        return f"pip install 'byline[{extra}]'"
    tool = "uv pip" if (distribution.read_text("INSTALLER") or "").strip() == "uv" else "pip"
    return f"{tool} install {_requirement(distribution.read_text('direct_url.json'), extra)}"


def _requirement(direct_url: str | None, extra: str) -> str:
    """Return the requirement for an origin as PEP 610 records it.

    Example:
        >>> _requirement('{"url": "file:///src/byline", "dir_info": {"editable": true}}', "demo")
        "-e '/src/byline[demo]'"
        >>> _requirement('{"url": "https://git.example/b.git", "vcs_info": {"vcs": "git", "commit_id": "1a"}}', "demo")
        "'byline[demo] @ git+https://git.example/b.git@1a'"
    """
    origin = json.loads(direct_url) if direct_url else None
    if not origin:
        return f"'byline[{extra}]'"
    url = str(origin["url"])
    if "dir_info" in origin:
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f"{editable}'{url2pathname(urlsplit(url).path)}[{extra}]'"
    version_control = origin.get("vcs_info")
    if version_control:
        url = f"{version_control['vcs']}+{url}@{version_control['commit_id']}"
    return f"'byline[{extra}] @ {url}'"
