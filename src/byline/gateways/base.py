"""The base class of all gateways, and the outgoing request and the response that a gateway works on."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Collection, Mapping, MutableMapping
from typing import Any, ClassVar, Final, Literal, NamedTuple

import msgspec

from byline.attribution import FIELDS, Attribution, MetadataValue, to_trace_id
from byline.call_result import CallResult
from byline.gateways.header_values import encode_header_value, merge_ids_and_metadata
from byline.gateways.json_splice import encode_members, insert_into_member, insert_members, top_level_members
from byline.gateways.keys import key_settings
from byline.internal_metrics import increment
from byline.settings import SettingError
from byline.urls import split_url

_logger: Final = logging.getLogger("byline")
#: Bytes of headers that byline adds to one request; servers answer 431 if headers take too much room.
HEADER_BUDGET: Final = 4096
#: Names in DNS.
_HOST: Final = re.compile(r"[a-z0-9_.-]+\Z", re.IGNORECASE)
#: A segment that leads out of the path of a gateway.
_PARENT: Final = re.compile(r"/(?:\.|%2e){2}(?:/|%2f|\Z)", re.IGNORECASE)
_USAGE_FIELDS: Final = tuple(field for field in CallResult.__struct_fields__ if field.endswith("_tokens"))
#: Earlier names of methods and attributes that a subclass may define or call; they keep working.
_RENAMED: Final = {
    "write": "inject",
    "read": "extract",
    "answered": "matches_response",
    "put": "set_header",
    "gather": "metadata_for",
    "join": "set_traceparent",
    "trace_of": "gateway_trace_id",
    "leave_out": "log_omitted",
    "settle": "leave_usage_to_gateway",
    "alias_of": "find_key_alias",
    "joins": "sends_traceparent",
    "longest": "max_header_value",
}


class Field(NamedTuple):
    """One name of an attribution field, in requests to the app and in calls to a gateway.

    Attributes:
        field: The attribution field, e.g. ``session_id``.
        where: ``header``, ``body`` (a dotted path) or ``query``.
        name: The name there; headers in lower case.
        kind: The form of the value: ``text``, ``id`` (a text, or an object with an ``id``), ``tags``
            (comma list or JSON array), ``metadata`` (JSON object), ``trace`` (the trace object),
            ``controls`` (LiteLLM's metadata object), ``entry`` (one entry of the metadata, under this
            name; a header's without ``langfuse_``).
        sent: Whether calls to the gateway carry the field too.
        encoded: Whether the value is percent-encoded.
        needs: Another top-level member of the body that has to be present, because the name alone is
            also used for other things.
    """

    field: str
    where: Literal["header", "body", "query"]
    name: str
    kind: Literal["text", "id", "tags", "metadata", "trace", "controls", "entry"] = "text"
    sent: bool = False
    encoded: bool = False
    needs: str | None = None


class GatewayRequest(msgspec.Struct, kw_only=True):
    """An HTTP request that is about to be sent, to which a gateway may add headers and body members.

    Attributes:
        attribution: The accepted attribution of the app's request.
        headers: The headers with names in lower case. Headers that a gateway sets here are sent.
        body: The JSON body as bytes; ``None`` if the request has none or streams one.
        path: The path of the URL.
        trace_id: The trace of the LLM span, 32 hex digits.
        span_id: The LLM span, 16 hex digits.
        sampled: Whether that span is recorded.
        members: The raw top-level members of the body, if the caller has decoded them already.
        header_budget: Bytes left for added headers.
    """

    attribution: Attribution
    headers: MutableMapping[str, str]
    body: bytes | None = None
    path: str = "/"
    trace_id: str | None = None
    span_id: str | None = None
    sampled: bool = False
    members: Mapping[str, msgspec.Raw] | None = None
    header_budget: int = HEADER_BUDGET

    def add_members(self, members: Mapping[str, Any]) -> None:
        """Add top-level members to a JSON object body; members that are already there stay."""
        present = self.raw_members()
        if self.body is not None and present is not None:
            self.body = insert_members(self.body, members, present)
            self.members = {**encode_members(members), **present}

    def add_to_object(self, name: str, members: Mapping[str, Any]) -> None:
        """Add members to the object at one top-level member of the body, creating that object if needed."""
        present = self.raw_members()
        if self.body is not None and present is not None:
            self.body = insert_into_member(self.body, name, members, present)
            self.members = {**encode_members({name: members}), **present}

    def raw_members(self) -> Mapping[str, msgspec.Raw] | None:
        """Return the raw top-level members of the body, ``None`` if the body is not a JSON object."""
        if self.members is None and self.body is not None:
            self.members = top_level_members(self.body)
        return self.members

    # Earlier names, which users' gateways may call.
    add = add_members
    add_into = add_to_object
    look = raw_members


class GatewayResponse(msgspec.Struct, kw_only=True):
    """A response as a gateway sees it.

    Attributes:
        status: The HTTP status.
        headers: Response headers, names in lower case.
        body: The decoded JSON object; of a stream the object with the usage; ``None`` before the body
            has been read.
        streamed: Whether the body is a stream.
    """

    status: int
    headers: Mapping[str, str]
    body: Mapping[str, Any] | None = None
    streamed: bool = False


class Gateway:
    """A gateway's headers, body members and response fields. Subclass it to add a gateway.

    Args:
        base_url: The URL of the gateway, for gateways without public hosts. Ids are sent only to that
            origin, below that path.
        broadcasts: ``True`` if the gateway exports its own traces to the same destination. The
            gateway's generation then carries usage and cost, and byline's span does not repeat them.
        key_aliases: Names of API keys by the SHA-256 of the key in hex, or a prefix of that hash.
        forward_claims: Attribution fields that the gateway gets although a caller has only claimed them: those by
            which the gateway can route (`routes_on`), and of requests to a public endpoint all fields.

    Raises:
        SettingError: ``byline.E032`` if ``base_url`` is not an http(s) URL, ``byline.E111`` if ``forward_claims``
            names something else than attribution fields.

    Example:
        >>> Gateway("http://llm.internal:4000").recognises("llm.internal", 4000, "/v1/chat/completions")
        True
    """

    #: The name in ``byline.gateway.name`` and in ``BYLINE_GATEWAYS``.
    name: ClassVar[str] = ""
    #: Public hosts; a name that starts with a dot matches every host with that suffix.
    hosts: ClassVar[tuple[str, ...]] = ()
    #: Response headers by which the gateway is recognised if it is not configured, names in lower case.
    response_headers: ClassVar[frozenset[str]] = frozenset()
    #: The gateway's names of attribution fields.
    fields: ClassVar[tuple[Field, ...]] = ()
    #: Whether the gateway continues the trace of a ``traceparent`` header.
    sends_traceparent: ClassVar[bool] = False
    #: The longest header value that the gateway accepts.
    max_header_value: ClassVar[int] = 512
    #: Fields by which the gateway can choose a model, a deployment or a budget.
    routes_on: ClassVar[frozenset[str]] = frozenset()
    #: Fields that the gateway gets although a caller has only claimed them.
    forward_claims: frozenset[str] = frozenset()
    #: Whether this is a model provider: responses are read as a gateway's, ``byline.gateway.name`` is not set.
    is_provider: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep earlier names working, both defined by a subclass and called by one."""
        super().__init_subclass__(**kwargs)
        for old, new in _RENAMED.items():
            if new in cls.__dict__:
                # Not a call through self: super().write() in a subclass would then call that subclass again.
                setattr(cls, old, cls.__dict__[new])
            elif old in cls.__dict__:
                warnings.warn(
                    f"{cls.__name__}.{old} is deprecated: rename it to {new}", DeprecationWarning, stacklevel=2
                )
                setattr(cls, new, cls.__dict__[old])

    def __init__(
        self,
        base_url: str | None = None,
        *,
        broadcasts: bool = False,
        key_aliases: Mapping[str, str] | None = None,
        forward_claims: Collection[str] = (),
    ) -> None:
        self.base_url = base_url
        self.forward_claims = _validate_forward_claims(forward_claims)
        self.broadcasts = broadcasts
        self.key_aliases = dict(key_aliases or {})
        self._origin: tuple[str, int | None, str] | None = None
        if base_url is not None:
            self._origin = _parse_origin(base_url)

    def recognises(self, host: str, port: int | None, path: str) -> bool:
        """Return whether a request to this URL goes to this gateway, so that ids may be added to the request."""
        if self._origin is None:
            if host in self.hosts:
                return True
            # A proxy may read another host in evil.example\\.helicone.ai or evil.example%2f.helicone.ai.
            is_below = any(end.startswith(".") and host.endswith(end) for end in self.hosts)
            return is_below and _HOST.match(host) is not None
        name, own_port, prefix = self._origin
        if host != name or port != own_port:
            return False
        return not prefix or path == prefix or (path.startswith(prefix + "/") and _PARENT.search(path) is None)

    def matches_response(self, headers: Mapping[str, str]) -> bool:
        """Return whether response headers show this gateway: by default, whether one is of `response_headers`."""
        return not self.response_headers.isdisjoint(headers)

    def inject(self, request: GatewayRequest) -> None:
        """Add the ids to a request; by default the headers of `fields`."""
        if self.sends_traceparent:
            self.set_traceparent(request)
        for field in self.fields:
            if field.sent and field.where == "header":
                value = (
                    self.metadata_for(request, {})
                    if field.field == "metadata"
                    else getattr(request.attribution, field.field)
                )
                self.set_header(request, field.name, value)

    def extract(self, response: GatewayResponse, result: CallResult) -> None:
        """Copy the gateway's own response headers and body fields into ``result``."""

    def withheld_claims(self, *, public: bool) -> frozenset[str]:
        """Return the fields of which the gateway gets no claims of a caller."""
        return (FIELDS if public else self.routes_on) - self.forward_claims

    def set_traceparent(self, request: GatewayRequest) -> None:
        """Set the LLM span's ``traceparent`` if the span is recorded and the app has not set that header."""
        # With the unsampled flag the gateway would not export its own spans.
        trace_id = self.gateway_trace_id(request)
        if trace_id and request.span_id:
            request.headers.setdefault("traceparent", f"00-{trace_id}-{request.span_id}-01")

    def gateway_trace_id(self, request: GatewayRequest) -> str | None:
        """Return the trace id for the gateway's own spans, ``None`` if the LLM span is not recorded.

        This is the app's trace. With ``broadcasts`` the caller's own trace id, if there is one, is used,
        because byline's destinations export under that id.
        """
        if not request.sampled or request.span_id is None:
            return None
        caller_trace = request.attribution.trace_id if self.broadcasts else None
        return f"{to_trace_id(caller_trace):032x}" if caller_trace else request.trace_id

    def set_header(self, request: GatewayRequest, name: str, value: object) -> None:
        """Set a header, unless the app has set that header or the value does not fit."""
        if value is None or value == "" or name in request.headers:
            return
        text = encode_header_value(
            name, value, max_length=self.max_header_value, budget=request.header_budget, on_omit=self.log_omitted
        )
        if text:
            request.headers[name] = text
            request.header_budget -= len(name) + len(text)

    def metadata_for(
        self, request: GatewayRequest, ids: Mapping[str, object], *, reserved: Collection[str] = ()
    ) -> dict[str, MetadataValue]:
        """Return ids and the request's metadata as one object; metadata cannot override an id."""
        return merge_ids_and_metadata(ids, request.attribution.metadata, reserved=reserved, on_omit=self.log_omitted)

    def log_omitted(self, name: str, reason: str) -> None:
        """Count a field that is not sent, and log at DEBUG which one and why, never the value."""
        increment("calls.fields_omitted")
        _logger.debug("%s: %s is not sent: %s", self.name, name, reason)

    def leave_usage_to_gateway(self, result: CallResult) -> None:
        """Remove usage and cost if the gateway's own exported generation carries them."""
        if self.broadcasts:
            result.cost = result.cost_source = None
            result.cost_details = {}
            for field in _USAGE_FIELDS:
                setattr(result, field, None)

    def find_key_alias(self, key_hash: str | None) -> str | None:
        """Return the name of an API key, ``None`` if the key has no alias."""
        return key_settings.find_alias(key_hash, self.key_aliases)

    # Earlier names, which users' gateways may read or call.
    joins: ClassVar[bool] = sends_traceparent
    longest: ClassVar[int] = max_header_value
    write = inject
    read = extract
    answered = matches_response
    put = set_header
    gather = metadata_for
    join = set_traceparent
    trace_of = gateway_trace_id
    leave_out = log_omitted
    settle = leave_usage_to_gateway
    alias_of = find_key_alias


def _validate_forward_claims(fields: Any) -> frozenset[str]:
    try:
        names = frozenset() if isinstance(fields, str) else frozenset(fields)
    except TypeError:
        names = frozenset({"?"})
    if isinstance(fields, str) or not names <= FIELDS:
        raise SettingError(
            "byline.E111",
            f"forward_claims={fields!r} names no attribution fields",
            f"pass a set of {', '.join(sorted(FIELDS))}",
        )
    return names


def _parse_origin(base_url: object) -> tuple[str, int, str]:
    parts = split_url(base_url)
    if parts is None:
        # The part before an @ may be a password.
        shown = repr(base_url) if "@" not in str(base_url) else "base_url"
        raise SettingError("byline.E032", f"{shown} is not an http(s) URL", "write the URL as http://host:port/path")
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    return (parts.hostname or "").lower(), port, parts.path.rstrip("/")
