"""What every gateway file says: how it is recognised, its names for each claim, what it returns."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, ClassVar, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from byline.attribution import Attribution
from byline.facts import Facts


class Field(NamedTuple):
    """One name under which an attribution field travels.

    Attributes:
        field: The attribution field, e.g. ``session_id``.
        where: ``header``, ``body`` (a dotted path) or ``query``.
        name: The name there; headers in lower case.
        kind: How the value is written: ``text``, ``tags`` (comma list or JSON array), ``metadata``
            (JSON object), ``trace`` (the trace object), ``controls`` (LiteLLM's metadata object).
    """

    field: str
    where: Literal["header", "body", "query"]
    name: str
    kind: Literal["text", "tags", "metadata", "trace", "controls"] = "text"


class Outgoing(msgspec.Struct, kw_only=True):
    """A call about to be sent, as a gateway may write on it.

    Attributes:
        attribution: The request's accepted attribution.
        headers: The call's headers with names in lower case; what a gateway sets here is sent.
        body: The JSON body as bytes, ``None`` where there is none or it is streamed.
        path: The path of the URL.
        trace_id: The trace of the LLM span, 32 hex digits.
        span_id: The LLM span, 16 hex digits.
        sampled: Whether that span is recorded.
    """

    attribution: Attribution
    headers: MutableMapping[str, str]
    body: bytes | None = None
    path: str = "/"
    trace_id: str | None = None
    span_id: str | None = None
    sampled: bool = False


class Reply(msgspec.Struct, kw_only=True):
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

    Example:
        >>> Gateway("http://llm.internal:4000").recognises("llm.internal", 4000, "/v1/chat/completions")
        True
    """

    name: ClassVar[str] = ""
    hosts: ClassVar[tuple[str, ...]] = ()
    fields: ClassVar[tuple[Field, ...]] = ()

    def __init__(self, base_url: str | None = None, *, broadcasts: bool = False) -> None:
        self.base_url = base_url
        self.broadcasts = broadcasts
        self._origin: tuple[str, int | None, str] | None = None
        if base_url is not None:
            parts = urlsplit(base_url)
            port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
            self._origin = ((parts.hostname or "").lower(), port, parts.path.rstrip("/"))

    def recognises(self, host: str, port: int | None, path: str) -> bool:
        """Whether a call to this place goes to this gateway, so that ids may be written on it."""
        if self._origin is None:
            return host in self.hosts
        name, own_port, prefix = self._origin
        return host == name and port == own_port and (not prefix or path == prefix or path.startswith(prefix + "/"))

    def answered(self, headers: Mapping[str, str]) -> bool:  # noqa: ARG002 - for subclasses
        """Whether a reply came from this kind of gateway, for gateways nobody named."""
        return False

    def write(self, call: Outgoing) -> None:
        """Write the ids onto the call in this gateway's own dialect."""

    def read(self, reply: Reply, facts: Facts) -> None:
        """Read into ``facts`` what the reply says in this gateway's own dialect."""
