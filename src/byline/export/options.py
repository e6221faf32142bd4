"""The settings of a destination, checked at construction."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypedDict

from byline import settings
from byline.export.decisions import SpanFilters, SpanPredicate, Spans, Unsampled, validate_sampling
from byline.export.delivery.store import DEFAULT_BYTES, DiskStore
from byline.export.delivery.transport import Transport
from byline.export.redaction.minimize import CallerAddress, Minimization
from byline.export.redaction.redactor import Mask, validate_privacy
from byline.export.trace_view import (
    CallerSpans,
    Root,
    Traces,
    validate_caller_spans,
    validate_root,
    validate_traces,
)
from byline.genai.dialects import validate_conventions
from byline.secrets import scrub
from byline.settings import SettingError
from byline.urls import is_loopback, split_url

_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_HEADER_VALUE: Final = re.compile(r"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?\Z")
_LABEL: Final = re.compile(r"[a-z0-9_-]{1,40}\Z")
_MAX_SHOWN: Final = 80


class Options(TypedDict, total=False):
    """Keyword arguments of every destination besides its own; `DestinationOptions` documents them."""

    traces: Traces
    caller_spans: CallerSpans | None
    root: Root
    framework_spans: bool
    unsampled: Unsampled
    sampling: float | None
    keep_errors: bool
    audit: bool
    caller_address: CallerAddress | None
    user_agent: bool | None
    url_paths: bool | None
    pseudonyms: bool | None
    privacy: bool | None
    mask: Mask | None
    organizations: Collection[str] | None
    environments: Collection[str] | None
    keys: Collection[str] | None
    models: Collection[str] | None
    where: SpanPredicate | None
    conventions: Collection[str]
    spool: str | Path | None
    spool_bytes: int
    fsync: bool
    label: str | None
    allow_http: Sequence[str]
    ca_file: str | Path | None
    client_cert: str | Path | None
    client_key: str | Path | None
    proxy: str | None


class DestinationOptions:
    """The checked settings of one destination.

    Args:
        spans: ``"llm"`` for LLM spans, ``"all"``, or a function of the finished span. Children of a span that is
            not exported get its nearest exported ancestor as their parent. A function is called on the
            destination's thread.
        traces: ``"request"`` puts the spans of a request in the trace that the caller named, else in the app's;
            ``"call"`` drops the app's parents, so that each call is a trace of its own unless the caller named one.
        caller_spans: Whether the spans of callers, which are the remote parents of requests, are in the same place, by
            default ``BYLINE_CALLER_SPANS`` or ``"auto"``. Below a span that is ``"here"``, the outermost exported span
            of a request is its child, and the trace keeps the caller's name, input, output, release and version.
            Below a span that is ``"elsewhere"``, it is the root of the trace. ``"auto"`` means here in Langfuse if
            the request's baggage has the ``langfuse_trace_id`` that Langfuse's SDK adds, and with ``spans="all"``;
            else elsewhere.
        root: Whether a root is made above the top-level LLM spans of a request, if the destination gets neither its
            server span nor a step of its caller: ``"auto"`` if there are several such spans, ``True`` always,
            ``False`` never. Until a second one ends or the request is over, the first one waits, up to 60 s.
        framework_spans: Whether ``spans="all"`` includes the spans of the inside of web frameworks: those of FastAPI's
            dependencies, endpoints and serialization, and of single ASGI messages.
        unsampled: ``"record"`` also sends LLM calls of requests that the app's sampler dropped, each by itself;
            ``"skip"`` does not.
        sampling: Share of the sessions that is sent, 0 to 1, by default ``BYLINE_SAMPLING`` or all. A request
            without a session is sampled by its trace id. Both are hashed, with ``BYLINE_SAMPLING_KEY`` if that is set,
            so every process decides the same.
        keep_errors: Whether failed spans are sent regardless of ``sampling``.
        audit: Whether the destination gets every call: no sampling, no filters, calls that the app's sampler dropped
            as well, and no masks that callers ask for. ``privacy`` and ``mask``, which you set, still apply.
        caller_address: The caller's IP address: ``"full"``, ``"truncated"`` to its network (/24, /48 for IPv6) or
            ``"off"``, by default ``BYLINE_CALLER_ADDRESS`` or full.
        user_agent: Whether the caller's user agent is sent, by default ``BYLINE_USER_AGENT`` or true.
        url_paths: Whether the paths of URLs are sent, which may contain ids, by default ``BYLINE_URL_PATHS`` or true.
        pseudonyms: Whether ids of users and sessions are replaced by pseudonyms, by default ``BYLINE_PSEUDONYMS`` or
            false: HMACs with the key in ``BYLINE_PSEUDONYM_KEY``, the same in every process and destination.
        privacy: Whether content is redacted, by default ``BYLINE_PRIVACY``: prompts, completions, system
            instructions, tool definitions, arguments and results, and error messages, which repeat them. Tokens,
            cost, timing, model and custom metadata stay. Credentials are never sent, and binary parts by
            ``Langfuse(…, media=True)`` alone.
        mask: A function ``(name, value)`` of each text, ids, names and the caller's data included; its result is sent
            instead, or nothing if the result is ``None``.
        organizations: Patterns of organization ids, in which ``*`` matches anything; only spans that match one are
            sent. The next three filters work the same.
        environments: Patterns of environments, or of ids of the tenants' environments.
        keys: Patterns of hashes or aliases of API keys, the caller's or the gateway's.
        models: Patterns of model names; only model calls are filtered by them.
        where: A function of the finished span; spans for which it returns false are not sent.
        conventions: Further names under which attributes are sent: ``"openinference"`` (Phoenix, Arize),
            ``"openrouter"``, ``"litellm"`` and ``"traceloop"``, listed in docs/attributes.md, and ``"langfuse"``
            for a collector in front of Langfuse.
        spool: Folder in which batches wait until the destination accepts them, also after the process has ended;
            by default ``BYLINE_SPOOL``, or none. Each destination has its own folder in it, and any number of
            processes may share it. Spans wait there with their content.
        spool_bytes: How many bytes may wait there, by default 256 MiB; then the oldest spans are dropped.
        fsync: Whether each batch in the spool is forced to the disk, so that batches survive a crash of the system
            too, not of the process only. Slower.
        label: The destination's name in counters, messages and the spool. A destination with a label finds its
            spool again after its URL or keys have changed.
        allow_http: Hosts that may get spans unencrypted; loopback addresses always may.
        ca_file: File of the certificate authorities that are trusted for this destination, instead of the system's.
        client_cert: File of a client certificate for this destination.
        client_key: File of its key, unless that is in the same file.
        proxy: URL of an HTTP proxy for this destination, ``""`` for none; by default that of the environment, which
            is never used for loopback addresses.

    Raises:
        SettingError: ``byline.E043``, ``byline.E045`` to ``byline.E049``, ``byline.E055``, ``byline.E056``,
            ``byline.E063``, ``byline.E100``, ``byline.E112`` to ``byline.E114``, ``byline.E150`` or ``byline.E151``:
            docs/errors.md has the settings of each.
    """

    def __init__(
        self,
        *,
        spans: Spans = "all",
        traces: Traces = "request",
        caller_spans: CallerSpans | None = None,
        root: Root = "auto",
        framework_spans: bool = False,
        unsampled: Unsampled = "skip",
        sampling: float | None = None,
        keep_errors: bool = False,
        audit: bool = False,
        caller_address: CallerAddress | None = None,
        user_agent: bool | None = None,
        url_paths: bool | None = None,
        pseudonyms: bool | None = None,
        privacy: bool | None = None,
        mask: Mask | None = None,
        organizations: Collection[str] | None = None,
        environments: Collection[str] | None = None,
        keys: Collection[str] | None = None,
        models: Collection[str] | None = None,
        where: SpanPredicate | None = None,
        conventions: Collection[str] = (),
        spool: str | Path | None = None,
        spool_bytes: int = DEFAULT_BYTES,
        fsync: bool = False,
        label: str | None = None,
        allow_http: Sequence[str] = (),
        ca_file: str | Path | None = None,
        client_cert: str | Path | None = None,
        client_key: str | Path | None = None,
        proxy: str | None = None,
    ) -> None:
        if spans not in ("llm", "all") and not callable(spans):
            raise SettingError("byline.E043", f"spans={spans!r}", 'pass "llm", "all" or a function of the span')
        filters = {"organizations": organizations, "environments": environments, "keys": keys, "models": models}
        self.audit = _validate_audit(audit, {**filters, "where": where, "sampling": sampling})
        if self.audit:
            sampling, unsampled = 1.0, "record"
        if unsampled not in ("record", "skip"):
            raise SettingError("byline.E048", f"unsampled={unsampled!r}", 'pass "record" or "skip"')
        self.spans: Spans = spans
        self.traces: Traces = validate_traces(traces, spans)
        caller_spans = settings.find("caller_spans").value if caller_spans is None else caller_spans
        self.caller_spans: CallerSpans = validate_caller_spans(caller_spans)
        self.root: Root = validate_root(root)
        self.framework_spans = _validate_framework_spans(framework_spans)
        self.unsampled: Unsampled = unsampled
        self.sampling = settings.find("sampling").value if sampling is None else validate_sampling(sampling)
        self.sampling_key: bytes = settings.find("sampling_key").value.encode()
        self.privacy = settings.find("privacy").value if privacy is None else privacy
        validate_privacy(self.privacy, mask)
        self.mask = mask
        self.minimization = Minimization.from_settings(caller_address, user_agent, url_paths, pseudonyms)
        if not isinstance(keep_errors, bool):
            raise SettingError("byline.E045", f"keep_errors is {type(keep_errors).__name__}", "pass True or False")
        self.keep_errors = keep_errors
        self.filters = SpanFilters(
            organizations=organizations, environments=environments, keys=keys, models=models, where=where
        )
        self.conventions = validate_conventions(conventions)
        self.label = _validate_label(label)
        self.spool_bytes = _validate_spool_bytes(spool_bytes)
        self.fsync = _validate_fsync(fsync)
        self.spool = settings.find("spool").value if spool is None else spool
        if not isinstance(self.spool, str | Path) or "\0" in str(self.spool):
            raise SettingError("byline.E049", f"spool is {type(self.spool).__name__}", "pass the path of a folder")
        self.allow_http = allow_http
        self.transport = Transport(
            _validate_file("ca_file", ca_file),
            _validate_file("client_cert", client_cert),
            _validate_file("client_key", client_key),
            _validate_proxy(proxy),
        )

    def spool_folder(self, label: str, account: str) -> Path | None:
        """Return the destination's own folder in the spool, ``None`` without a spool.

        Args:
            label: The label that it has, given or by default.
            account: Identifies endpoint and credentials: batches of one account must never be sent to another.
                A label that was given takes its place.

        Raises:
            SettingError: ``byline.E049`` if the folder cannot be used.
        """
        if not self.spool:
            return None
        digest = hashlib.sha256((self.label or account).encode()).hexdigest()[:12]
        try:
            # Absolute, because a daemon changes its working directory.
            folder = Path(self.spool).expanduser().absolute() / f"{label}-{digest}"
        except RuntimeError:
            advice = "choose another folder"
            raise SettingError("byline.E049", f"spool {self.spool} has no such home directory", advice) from None
        DiskStore(folder, name=label)
        return folder


def _validate_audit(audit: Any, excluded: Mapping[str, Any]) -> bool:
    if not isinstance(audit, bool):
        raise SettingError("byline.E112", f"audit is {type(audit).__name__}", "pass True or False")
    given = [name for name, value in excluded.items() if value is not None]
    if audit and given:
        raise SettingError(
            "byline.E112",
            f"audit=True gets every call, and {', '.join(given)} would leave some out",
            "pass one of them",
        )
    return audit


def _validate_label(label: Any) -> str | None:
    if label is None or (isinstance(label, str) and _LABEL.match(label)):
        return label
    raise SettingError("byline.E055", f"label={label!r}", "pass up to 40 of a-z, 0-9, - and _")


def _validate_spool_bytes(spool_bytes: Any) -> int:
    if isinstance(spool_bytes, int) and not isinstance(spool_bytes, bool) and spool_bytes > 0:
        return spool_bytes
    raise SettingError("byline.E049", f"spool_bytes={spool_bytes!r}", "pass a number of bytes")


def _validate_fsync(fsync: Any) -> bool:
    if isinstance(fsync, bool):
        return fsync
    raise SettingError("byline.E049", f"fsync is {type(fsync).__name__}", "pass True or False")


def _validate_file(name: str, file: Any) -> str | None:
    if file is None:
        return None
    if not isinstance(file, str | Path) or not Path(file).is_file():
        shown = file if isinstance(file, str | Path) else type(file).__name__
        raise SettingError("byline.E114", f"{name} is {shown}, which is no file", "pass the path of a PEM file")
    return str(file)


def _validate_proxy(proxy: Any) -> str | None:
    if proxy is None or proxy == "":
        return None if proxy is None else ""
    parts = split_url(proxy)
    if parts is None or parts.scheme != "http":
        # The value may contain a password.
        raise SettingError("byline.E114", "proxy is no http URL", 'write http://host:port, or "" for no proxy')
    return str(proxy)


def _validate_framework_spans(framework_spans: Any) -> bool:
    if isinstance(framework_spans, bool):
        return framework_spans
    raise SettingError("byline.E151", f"framework_spans is {type(framework_spans).__name__}", "pass True or False")


def validate_endpoint(endpoint: Any, allow_http: Any) -> str:
    """Return a usable endpoint. Raises `SettingError` ``byline.E040``, or ``byline.E042`` if it is unencrypted."""
    if isinstance(allow_http, str) or not isinstance(allow_http, Collection):
        raise SettingError("byline.E042", f"allow_http is {type(allow_http).__name__}", "pass a list of hosts")
    advice = "write it as https://host/path, without a query"
    if not isinstance(endpoint, str):
        raise SettingError("byline.E040", f"an endpoint is {type(endpoint).__name__}", advice)
    parts = split_url(endpoint)
    if parts is None or parts.query or parts.fragment:
        problem = f"{_abbreviate_url(endpoint)!r} is no http(s) URL that spans can be posted to"
        raise SettingError("byline.E040", problem, advice)
    host = parts.hostname or ""
    if parts.port == 0 or any(char.isspace() for char in endpoint):
        raise SettingError("byline.E040", f"the endpoint at {host} contains a character that no URL has", advice)
    allowed = {*allow_http, *settings.find("allow_http").value}
    if parts.scheme == "http" and not is_loopback(host) and host not in allowed:
        raise SettingError(
            "byline.E042",
            f"{host} would get spans unencrypted",
            f"use https://, set BYLINE_ALLOW_HTTP={host}, or pass allow_http=[{host!r}] to the destination",
        )
    return endpoint


def _abbreviate_url(endpoint: str) -> str:
    """Return the part of a URL that has no credentials: a message that shows it is logged."""
    shown = scrub(re.split(r"[?#]", endpoint.rpartition("@")[2])[0])
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}…"


def validate_headers(headers: Any) -> dict[str, str]:
    """Return usable headers of each export. Raises `SettingError` ``byline.E066`` if HTTP cannot carry one."""
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise SettingError("byline.E066", f"headers is {type(headers).__name__}", "pass a mapping of strings")
    for name, value in headers.items():
        is_name = isinstance(name, str) and bool(_HEADER_NAME.match(name))
        if not is_name or not isinstance(value, str) or not _HEADER_VALUE.match(value):
            raise SettingError(
                "byline.E066",
                f"the header {name if is_name else '?'} contains a character that HTTP cannot carry",
                "pass strings without line breaks; a key that is read from a file often ends in one",
            )
    return dict(headers)
