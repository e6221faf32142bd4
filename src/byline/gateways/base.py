"""What every gateway file says: how it is recognised, its names for each claim, what it returns."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, MutableMapping
from typing import Any, ClassVar, Final, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from byline.attribution import Attribution, MetadataValue
from byline.call_result import CallResult
from byline.gateways.header_values import encode_header_value, merge_ids_and_metadata
from byline.gateways.ids import to_trace_id
from byline.gateways.json_splice import insert_into_member, insert_members, top_level_members
from byline.gateways.keys import find_alias
from byline.settings import SettingError

_logger: Final = logging.getLogger("byline")
#: Servers refuse calls whose headers are too many; the ids come first, so that they always fit.
_ROOM: Final = 4096
_USAGE: Final = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
)


class Field(NamedTuple):
    """One name under which an attribution field travels, on the way in and on the way out.

    Attributes:
        field: The attribution field, e.g. ``session_id``.
        where: ``header``, ``body`` (a dotted path) or ``query``.
        name: The name there; headers in lower case.
        kind: How the value is written: ``text``, ``id`` (a text, or an object that has one as
            ``id``), ``tags`` (comma list or JSON array), ``metadata`` (JSON object), ``trace`` (the
            trace object), ``controls`` (LiteLLM's metadata object), ``entry`` (one entry of the
            metadata, under its own name; a header's without ``langfuse_``).
        sent: Whether it is written onto calls, besides being read from requests.
        encoded: Whether the value is percent-encoded there.
        needs: Another top-level member of the body without which this one means something else.
    """

    field: str
    where: Literal["header", "body", "query"]
    name: str
    kind: Literal["text", "id", "tags", "metadata", "trace", "controls", "entry"] = "text"
    sent: bool = False
    encoded: bool = False
    needs: str | None = None


class GatewayRequest(msgspec.Struct, kw_only=True):
    """A call about to be sent, as a gateway may write on it.

    Attributes:
        attribution: The request's accepted attribution.
        headers: The call's headers with names in lower case; what a gateway sets here is sent.
        body: The JSON body as bytes, ``None`` where there is none or it is streamed.
        path: The path of the URL.
        trace_id: The trace of the LLM span, 32 hex digits.
        span_id: The LLM span, 16 hex digits.
        sampled: Whether that span is recorded.
        members: The body's top-level members, each raw, where the caller has read them already.
        room: Bytes that are left for headers of ours.
    """

    attribution: Attribution
    headers: MutableMapping[str, str]
    body: bytes | None = None
    path: str = "/"
    trace_id: str | None = None
    span_id: str | None = None
    sampled: bool = False
    members: Mapping[str, msgspec.Raw] | None = None
    room: int = _ROOM

    def add(self, members: Mapping[str, Any]) -> None:
        """Add top-level members to the body, where it is a JSON object that has none of that name."""
        found = self.look()
        if self.body is not None and found is not None:
            self.body = insert_members(self.body, members, found)

    def add_into(self, name: str, members: Mapping[str, Any]) -> None:
        """Add members to the object at a top-level member of the body, which is made where it is missing."""
        found = self.look()
        if self.body is not None and found is not None:
            self.body = insert_into_member(self.body, name, members, found)

    def look(self) -> Mapping[str, msgspec.Raw] | None:
        """Return the members that the app's body has, each raw; ``None`` where it is no JSON object."""
        if self.members is None and self.body is not None:
            self.members = top_level_members(self.body)
        return self.members


class GatewayResponse(msgspec.Struct, kw_only=True):
    """A reply as a gateway reads it.

    Attributes:
        status: The HTTP status.
        headers: Reply headers, names in lower case.
        body: The decoded JSON object; of a stream the object that carries the usage; ``None`` where
            there is none yet.
        streamed: Whether the body comes as a stream.
    """

    status: int
    headers: Mapping[str, str]
    body: Mapping[str, Any] | None = None
    streamed: bool = False


class Gateway:
    """One gateway's dialect. Subclass it to teach byline another one.

    Args:
        base_url: Where this gateway is reached, for those that have no host of their own. Ids are
            written only to that origin and below that path.
        broadcasts: Say ``True`` when the gateway itself sends its traces to the same destination:
            its generation then carries usage and cost, and byline's span does not repeat them.
        key_aliases: Names of API keys by their hash (SHA-256 of the key, in hex) or a beginning of it.

    Raises:
        SettingError: ``byline.E032`` where ``base_url`` is no http(s) URL.

    Example:
        >>> Gateway("http://llm.internal:4000").recognises("llm.internal", 4000, "/v1/chat/completions")
        True
    """

    #: The name, as it stands in ``byline.gateway.name`` and in ``BYLINE_GATEWAYS``.
    name: ClassVar[str] = ""
    #: Hosts of its own; one that starts with a dot stands for every host that ends so.
    hosts: ClassVar[tuple[str, ...]] = ()
    #: Its names for each claim.
    fields: ClassVar[tuple[Field, ...]] = ()
    #: Whether it joins the caller's trace by W3C trace context.
    joins: ClassVar[bool] = False
    #: The longest value that it takes in a header.
    longest: ClassVar[int] = 512
    #: A plain provider is read like a gateway, and is none.
    is_provider: ClassVar[bool] = False
    #: What is known of it, and how surely: ``docs/gateways.md`` is made of these lines.
    notes: ClassVar[tuple[tuple[str, str, str], ...]] = ()
    #: What else there is to know of it, for the same page.
    remarks: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, base_url: str | None = None, *, broadcasts: bool = False, key_aliases: Mapping[str, str] | None = None
    ) -> None:
        self.base_url = base_url
        self.broadcasts = broadcasts
        self.key_aliases = dict(key_aliases or {})
        self._origin: tuple[str, int | None, str] | None = None
        if base_url is not None:
            self._origin = _origin_of(base_url)

    def recognises(self, host: str, port: int | None, path: str) -> bool:
        """Whether a call to this place goes to this gateway, so that ids may be written on it."""
        if self._origin is None:
            return host in self.hosts or any(end.startswith(".") and host.endswith(end) for end in self.hosts)
        name, own_port, prefix = self._origin
        return host == name and port == own_port and (not prefix or path == prefix or path.startswith(prefix + "/"))

    def answered(self, headers: Mapping[str, str]) -> bool:  # noqa: ARG002 - for subclasses
        """Whether a reply came from this kind of gateway, for gateways nobody named."""
        return False

    def write(self, call: GatewayRequest) -> None:
        """Write the ids onto the call in this gateway's own dialect; by default as `fields` says."""
        if self.joins:
            self.join(call)
        for field in self.fields:
            if field.sent and field.where == "header":
                known = self.gather(call, {}) if field.field == "metadata" else getattr(call.attribution, field.field)
                self.put(call, field.name, known)

    def join(self, call: GatewayRequest) -> None:
        """Write the LLM span's ``traceparent``, where that is recorded and the app has set none."""
        # An unsampled one would tell the gateway to export nothing at all.
        trace_id = self.trace_of(call)
        if trace_id and call.span_id:
            call.headers.setdefault("traceparent", f"00-{trace_id}-{call.span_id}-01")

    def trace_of(self, call: GatewayRequest) -> str | None:
        """Return the trace that the gateway's own spans belong to; ``None`` where ours is not recorded.

        It is the app's. Where the gateway sends its spans to the same destination it is the one under
        which they meet there: the caller's own, if that names one.
        """
        if not call.sampled or call.span_id is None:
            return None
        named = call.attribution.trace_id if self.broadcasts else None
        return f"{to_trace_id(named):032x}" if named else call.trace_id

    def put(self, call: GatewayRequest, name: str, value: object) -> None:
        """Write a header, unless the app has set it or nothing of the value fits into one."""
        if value is None or value == "" or name in call.headers:
            return
        text = encode_header_value(name, value, longest=self.longest, room=call.room, leave_out=self.leave_out)
        if text:
            call.headers[name] = text
            call.room -= len(name) + len(text)

    def gather(
        self, call: GatewayRequest, ids: Mapping[str, object], *, reserved: Collection[str] = ()
    ) -> dict[str, MetadataValue]:
        """Return ids and the call's metadata as one object; metadata never passes for an id."""
        return merge_ids_and_metadata(ids, call.attribution.metadata, reserved=reserved, leave_out=self.leave_out)

    def leave_out(self, name: str, reason: str) -> None:
        """Say in the debug log which field does not go out, and why; never its value."""
        _logger.debug("%s: %s is left out: %s", self.name, name, reason)

    def settle(self, facts: CallResult) -> None:
        """Leave usage and cost to the gateway's own generation, where it broadcasts one."""
        if self.broadcasts:
            facts.cost = facts.cost_source = None
            facts.cost_details = {}
            for field in _USAGE:
                setattr(facts, field, None)

    def alias_of(self, key_hash: str | None) -> str | None:
        """Return the name of an API key."""
        return find_alias(key_hash, self.key_aliases)

    def read(self, reply: GatewayResponse, facts: CallResult) -> None:
        """Read into ``facts`` what the reply says in this gateway's own dialect."""


def _origin_of(base_url: object) -> tuple[str, int, str]:
    try:
        parts = urlsplit(base_url) if isinstance(base_url, str) else urlsplit("")
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        port = None
    if port is None or not parts.hostname:
        # What stands before an @ may be a password.
        shown = repr(base_url) if "@" not in str(base_url) else "base_url"
        raise SettingError("byline.E032", f"{shown} is no http(s) URL", "write it as http://host:port/path")
    return parts.hostname.lower(), port, parts.path.rstrip("/")
