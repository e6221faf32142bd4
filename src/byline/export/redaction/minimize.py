"""Data minimisation for one destination: the caller's address and program, URL paths, and pseudonyms of ids."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from opentelemetry.sdk.trace import Event
from opentelemetry.trace import Link

from byline import settings
from byline.export.redaction.allow_list import URLS, is_kept_name
from byline.export.span_copy import SpanCopy
from byline.genai import attributes as names
from byline.settings import SettingError

CallerAddress = Literal["full", "truncated", "off"]
ADDRESS_FORMS: Final = ("full", "truncated", "off")

_ADDRESS: Final = re.compile(
    r"byline\.caller\.address|client\.(?:address|socket\.address)|http\.client_ip|net\.peer\.(?:ip|name)|"
    r"net\.sock\.peer\.addr|network\.peer\.address|"
    r"http\.request\.header\.(?:forwarded|x[_-]forwarded[_-](?:by|for)|x[_-]real[_-]ip|cf[_-]connecting[_-]ip|"
    r"true[_-]client[_-]ip|fly[_-]client[_-]ip|x[_-]client[_-]ip|x[_-]cluster[_-]client[_-]ip)"
)
_USER_AGENT: Final = re.compile(
    r"byline\.caller\.user_agent|http\.user_agent|user_agent\..+|http\.request\.header\.(?:user[_-]agent|sec[_-]ch[_-]ua.*)"
)
#: Attributes with the path of a URL, besides `URLS`. ``http.route`` is a template without values.
_PATHS: Final = frozenset({names.ROUTE, "url.path", "http.request.header.referer", "http.request.header.referrer"})
#: Attributes that are the id of a session or user under the names of all conventions and instrumentations.
_SESSION_NAMES: Final = re.compile(
    r"(?:.*[._])?(?:session|conversation|thread)[._]?id|langfuse_session_id|mlflow\.trace\.session", re.IGNORECASE
)
_USER_NAMES: Final = re.compile(
    r"(?:.*[._])?(?:end)?user[._]?(?:id|email|name|full_name|hash)|gen_ai\.request\.user|llm\.user|langfuse_user_id|"
    r"mlflow\.trace\.user|safety_identifier",
    re.IGNORECASE,
)
#: What the app and the provider name, never by an id: a caller whose session is called "gpt-4o" or "chat" would
#: otherwise change the model and the kind of its spans.
_FACTS: Final = frozenset(
    {
        *(
            names.CALL_RESULT[field]
            for field in (
                "operation", "provider", "request_model", "output_type", "api_type", "request_tier", "response_tier",
                "system_fingerprint", "response_model", "finish_reasons", "stream_cut", "cost_source", "gateway",
                "gateway_provider", "model_id", "model_group", "error_type", "server_address",
            )
        ),
        names.ENVIRONMENT, names.VOUCHED, "gen_ai.agent.name",
        "gen_ai.system", "gen_ai.tool.name", "gen_ai.tool.type", "gen_ai.workflow.name", "graph.node.name",
        "http.method", "http.request.method", "http.route", "http.scheme", "langfuse.observation.level",
        "langfuse.observation.model.name", "langfuse.observation.type", "llm.model_name", "llm.provider", "llm.system",
        "openinference.span.kind", "tool.name", "traceloop.span.kind", "url.scheme",
    }
)  # fmt: skip
#: Names that begin so are facts too.
_FACTS_BELOW: Final = ("service.", "telemetry.", "deployment.", "cloud.", "k8s.")
_DIGITS: Final = 32
#: A shorter id may be part of another text by chance.
_MIN_CONTAINED: Final = 6
#: A longer text is taken for content, whatever its name.
_MAX_SHORT: Final = 200


class Minimization(NamedTuple):
    """What a destination gets of the caller.

    Attributes:
        caller_address: ``"full"``, ``"truncated"`` to its network (/24, /48) or ``"off"``.
        user_agent: Whether the caller's user agent is sent.
        url_paths: Whether routes and paths of URLs are sent.
        key: The key of the pseudonyms that replace ids of users and sessions, ``None`` for the ids themselves.
    """

    caller_address: CallerAddress = "full"
    user_agent: bool = True
    url_paths: bool = True
    key: bytes | None = None

    @classmethod
    def from_settings(
        cls, caller_address: Any, user_agent: bool | None, url_paths: bool | None, pseudonyms: bool | None
    ) -> Minimization:
        """Return the checked settings, those of the environment for ``None``.

        Raises:
            SettingError: ``byline.E113`` if one of them cannot be used, or if pseudonyms have no key.
        """
        address = settings.find("caller_address").value if caller_address is None else caller_address
        if address not in ADDRESS_FORMS:
            raise SettingError("byline.E113", f"caller_address={address!r}", 'pass "full", "truncated" or "off"')
        switches = {"user_agent": user_agent, "url_paths": url_paths, "pseudonyms": pseudonyms}
        for name, value in switches.items():
            switches[name] = settings.find(name).value if value is None else value
            if not isinstance(switches[name], bool):
                raise SettingError("byline.E113", f"{name} is {type(value).__name__}", "pass True or False")
        key: str = settings.find("pseudonym_key").value
        if switches["pseudonyms"] and not key:
            raise SettingError(
                "byline.E113",
                "pseudonyms need a key, without which anybody could compute them",
                "set BYLINE_PSEUDONYM_KEY to 32 random characters, the same in every process",
            )
        return cls(
            address,
            bool(switches["user_agent"]),
            bool(switches["url_paths"]),
            key.encode() if switches["pseudonyms"] else None,
        )

    def __bool__(self) -> bool:
        return self != _NOTHING

    def apply(self, span: SpanCopy) -> None:
        """Minimize a span copy in place."""
        if not self.url_paths:
            # First, because ids in the path may be replaced.
            _remove_route(span)
        ids = self._known_ids(span) if self.key is not None else {}
        path = span.attributes.get("url.path") or span.attributes.get("http.target")
        span.attributes = self._minimized(span.attributes, ids)
        if span.events:
            span.events = [
                Event(event.name, self._minimized(event.attributes or {}, ids), event.timestamp)
                for event in span.events
            ]
        if span.links:
            span.links = [Link(link.context, self._minimized(link.attributes or {}, ids)) for link in span.links]
        if not self.url_paths and isinstance(path, str) and path.partition("?")[0] in span.name:
            # Server spans are named after method and path.
            span.name = span.name.split(" ", 1)[0]
        if span.name != _usual_name(span):
            for clear, pseudonym in ids.items():
                if len(clear) >= _MIN_CONTAINED and clear in span.name:
                    span.name = span.name.replace(clear, pseudonym)

    def _known_ids(self, span: SpanCopy) -> dict[str, str]:
        """Return the ids of the span's users and sessions, and their pseudonyms."""
        ids: dict[str, str] = {}
        attribution = span.attribution
        for kind, value in (("session", attribution.session_id), ("user", attribution.user_id)):
            if value:
                ids[value] = pseudonym(self.key or b"", kind, value)
        for name, value in span.attributes.items():
            named_kind = _kind_of_id(name)
            if named_kind is not None and isinstance(value, str) and value and value not in ids:
                ids[value] = pseudonym(self.key or b"", named_kind, value)
        return ids

    def _minimized(self, attributes: Mapping[str, Any], ids: Mapping[str, str]) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for name, value in attributes.items():
            new = value
            if self.caller_address != "full" and _is_address(name):
                new = truncate_address(value) if self.caller_address == "truncated" else None
            elif not self.user_agent and _is_user_agent(name):
                new = None
            elif not self.url_paths and (name in _PATHS or name in URLS):
                new = _origin(value) if name in ("url.full", "http.url", "url.original") else None
            elif ids and name not in _FACTS and not name.startswith(_FACTS_BELOW):
                new = _replace_ids(value, ids, contained=name in URLS or name in _PATHS or not _is_content(name, value))
            if new is not None:
                kept[name] = new
        return kept


_NOTHING: Final = Minimization()


def _remove_route(span: SpanCopy) -> None:
    """Leave the method of the names that traces and roots get from their requests."""
    request_spans = span.request_spans
    route = "" if request_spans is None else request_spans.root.route
    if not route or span.attribution.trace_name == route:
        return
    method = route.partition(" ")[0]
    if span.attributes.get(names.TRACE_NAME) == route:
        span.attributes[names.TRACE_NAME] = method
    if span.name == route:
        span.name = method


def _usual_name(span: SpanCopy) -> str:
    """Return the name that the GenAI conventions give a model call."""
    return f"{span.attributes.get(names.OPERATION_NAME)} {span.attributes.get(names.REQUEST_MODEL)}"


def pseudonym(key: bytes, kind: str, value: str) -> str:
    """Return the pseudonym of an id: 32 digits of an HMAC-SHA-256, the same in every process that has the key.

    Example:
        >>> pseudonym(b"0123456789abcdef", "user", "ada")
        '3159b903de95cc0430df2427877279dc'
    """
    return hmac.new(key, f"{kind}\0{value}".encode(errors="surrogatepass"), hashlib.sha256).hexdigest()[:_DIGITS]


def truncate_address(address: object) -> str | None:
    """Return the network of an IP address, ``None`` for everything else.

    Example:
        >>> truncate_address("203.0.113.77"), truncate_address("2001:db8:1:2:3::4"), truncate_address("host")
        ('203.0.113.0', '2001:db8:1::', None)
    """
    try:
        parsed = ipaddress.ip_address(str(address).strip("[]").partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    prefix = 24 if parsed.version == 4 else 48
    return str(ipaddress.ip_network((parsed, prefix), strict=False).network_address)


def _is_content(name: str, value: Any) -> bool:
    """Return whether a value is a prompt or the like, in which an id that a user has chosen may be any word."""
    return not is_kept_name(name) and (not isinstance(value, str) or len(value) > _MAX_SHORT or value[:1] in ("[", "{"))


def _replace_ids(value: Any, ids: Mapping[str, str], *, contained: bool) -> Any:
    if isinstance(value, str):
        if value in ids:
            return ids[value]
        if not contained:
            return value
        for clear, replacement in ids.items():
            if len(clear) >= _MIN_CONTAINED and clear in value:
                value = value.replace(clear, replacement)
        return value
    if isinstance(value, list | tuple):
        return type(value)(_replace_ids(item, ids, contained=contained) for item in value)
    if isinstance(value, Mapping):
        return {key: _replace_ids(item, ids, contained=contained) for key, item in value.items()}
    return value


def _origin(url: object) -> str | None:
    try:
        parts = urlsplit(str(url))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else None
    except ValueError:
        return None


@lru_cache(maxsize=4096)
def _kind_of_id(name: str) -> str | None:
    if _SESSION_NAMES.fullmatch(name):
        return "session"
    return "user" if _USER_NAMES.fullmatch(name) else None


@lru_cache(maxsize=4096)
def _is_address(name: str) -> bool:
    return _ADDRESS.fullmatch(name) is not None


@lru_cache(maxsize=4096)
def _is_user_agent(name: str) -> bool:
    return _USER_AGENT.fullmatch(name) is not None
