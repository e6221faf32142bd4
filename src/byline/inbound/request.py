"""The parts of an ASGI or WSGI request from which claims are read."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import parse_qsl

from byline.internal_metrics import increment

#: Headers of a request of which the names are compared at once; a longer list is read header by header.
MAX_HEADERS: Final = 100
_name: Final = itemgetter(0)
#: Parameters of a query; of a longer one none is read.
MAX_QUERY_FIELDS: Final = 1000
_CGI_HEADERS: Final = {"CONTENT_TYPE": "content-type", "CONTENT_LENGTH": "content-length"}
#: Recipients of baggage may drop members beyond this length (W3C Baggage, 3.3.2).
MAX_BAGGAGE: Final = 8192
#: Langfuse's SDKs add this member to the baggage of requests that are sent within one of their spans.
_LANGFUSE_TRACE: Final = re.compile(r"(?:^|,)\s*langfuse_trace_id\s*=\s*([0-9a-f]{32})\s*(?:[;,]|$)", re.ASCII)


def decode_header(value: bytes) -> str:
    """Decode a header value as UTF-8, or as Latin-1 if the value is not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def plain_headers(scope: MutableMapping[str, Any]) -> dict[bytes, bytes] | None:
    """Return the headers of an ASGI scope by name, ``None`` if a name is repeated, in upper case or has an underscore.

    The headers of nearly all requests can be returned, which saves a loop over them.
    """
    headers = scope.get("headers")
    if type(headers) is not list:
        return None
    plain: dict[bytes, bytes] = dict(headers)
    names = b"".join(plain)
    return plain if len(plain) == len(headers) and names.islower() and b"_" not in names else None


class HeaderNames:
    """The headers that a reader needs, under the names that each protocol uses.

    Args:
        names: Canonical name, in lower case with dashes → the name as written.
        exact: The same for names of which no other spelling counts: ``X_Account`` is not ``X-Account``.
        all_exact: Whether no other spelling counts for any name.

    The environ of WSGI has both spellings under one key, so that a WSGI server has to refuse one of them.
    """

    def __init__(
        self, names: Mapping[str, str], *, exact: Mapping[str, str] | None = None, all_exact: bool = False
    ) -> None:
        exact = exact or {}
        self.names = frozenset({*names, *exact})
        #: The names as received, in lower case.
        self.asgi = {name.encode("latin-1", "replace"): name for name in names if name not in exact and not all_exact}
        self.asgi.update({written.lower().encode("latin-1", "replace"): name for name, written in exact.items()})
        if all_exact:
            self.asgi.update({written.lower().encode("latin-1", "replace"): name for name, written in names.items()})
        #: The names that also count with underscores instead of dashes.
        self.folding = {} if all_exact else {raw: name for raw, name in self.asgi.items() if name not in exact}
        self.wsgi = {f"HTTP_{name.upper().replace('-', '_')}": name for name in self.names}


# Clients send the same headers in the same order with every request.
@functools.lru_cache(maxsize=64)
def _positions(names: tuple[bytes, ...], wanted: HeaderNames) -> list[tuple[str, int]] | None:
    """Return the wanted headers and their positions, ``None`` if names are repeated or not in lower case."""
    places = plain_positions(names)
    if places is None:
        return None
    return [(name, places[raw]) for raw, name in wanted.asgi.items() if raw in places]


def plain_positions(names: tuple[bytes, ...]) -> dict[bytes, int] | None:
    """Return the position of each header, ``None`` if a name is repeated, in upper case or has an underscore."""
    places = {name: position for position, name in enumerate(names)}
    joined = b"".join(names)
    return places if len(places) == len(names) and joined.islower() and b"_" not in joined else None


#: A segment of a path that does not look like an id.
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z_.~-]{0,39}|v\d{1,3}(?:\.\d{1,3})?")
_MAX_SEGMENTS: Final = 8
#: The key under which Django's middleware keeps Django's request in the scope or environ.
DJANGO_REQUEST_KEY: Final = "byline.django_request"

_BAGGAGE: Final = HeaderNames({"baggage": "baggage"})


class AsgiRequest:
    """A request by its ASGI scope."""

    __slots__ = ("scope",)

    def __init__(self, scope: MutableMapping[str, Any]) -> None:
        self.scope = scope

    def headers(self) -> Iterator[tuple[str, str]]:
        """Yield all headers, with names as received."""
        for name, value in self.scope.get("headers", ()):
            yield name.decode("latin-1"), decode_header(value)

    def collect_headers(self, wanted: HeaderNames) -> dict[str, list[str]]:
        """Return the wanted headers by canonical name; a name with dashes wins over one with underscores."""
        names = wanted.asgi
        plain = plain_headers(self.scope)
        if plain is not None:
            return {names[raw]: [decode_header(plain[raw])] for raw in names.keys() & plain.keys()}
        found: dict[str, list[str]] = {}
        underscored: dict[str, list[str]] | None = None
        for raw, value in self.scope.get("headers", ()):
            folded = raw.lower()
            name = names.get(folded)
            if name is not None:
                if name in found:
                    found[name].append(decode_header(value))
                else:
                    found[name] = [decode_header(value)]
            elif b"_" in folded:
                name = wanted.folding.get(folded.replace(b"_", b"-"))
                if name is not None:
                    underscored = underscored or {}
                    underscored.setdefault(name, []).append(decode_header(value))
        return {**underscored, **found} if underscored else found

    def pick_headers(self, wanted: HeaderNames) -> list[tuple[str, str]]:
        """Return the wanted headers by canonical name, repeated ones too, those of one name in their order."""
        headers = self.scope.get("headers", ())
        if type(headers) is list and len(headers) <= MAX_HEADERS:
            positions = _positions(tuple(map(_name, headers)), wanted)
            if positions is not None:
                return [(name, decode_header(headers[position][1])) for name, position in positions]
        names = wanted.asgi
        return [(names[folded], decode_header(value)) for name, value in headers if (folded := name.lower()) in names]

    def query(self) -> str:
        """Return the query string, percent-encoded."""
        raw: bytes = self.scope.get("query_string", b"")
        return raw.decode("latin-1")

    def query_parameters(self) -> dict[str, str]:
        """Return the query parameters; of a repeated one the last value, as Starlette's ``query_params`` do."""
        return dict(parse_query(self.query()))

    def cookies(self, lines: Iterable[str]) -> dict[str, str]:
        """Return the cookies of these header lines; of a repeated one the last value, as Starlette does."""
        return dict(parse_cookies("; ".join(lines)))

    def path(self) -> str:
        """Return the decoded path."""
        path: str = self.scope.get("path", "")
        return path

    def path_parameters(self) -> Mapping[str, Any]:
        """Return the path parameters that the router has matched so far."""
        return self.scope.get("path_params") or {}

    def method(self) -> str:
        """Return the method, ``WS`` for a websocket."""
        return str(self.scope.get("method") or "WS")

    def route(self) -> str | None:
        """Return the route's template, ``None`` if the framework does not provide one."""
        scope = self.scope
        route = scope.get("route")
        path = getattr(route, "path", None)
        if isinstance(path, str):
            # Starlette's mounts put their path into the root path, with the values of its parameters.
            mount = str(scope.get("root_path", "")).removeprefix(scope.get("app_root_path", scope.get("root_path", "")))
            if not mount:
                return path
            of_route = getattr(route, "param_convertors", {})
            values = self.path_parameters().items()
            return path_template(mount, {str(value): name for name, value in values if name not in of_route}) + path
        # Litestar's.
        template = scope.get("path_template")
        return template if isinstance(template, str) else _route_of_django(scope)

    def address(self) -> str | None:
        """Return the client's address."""
        client = self.scope.get("client")
        return client[0] if client else None

    def is_handshake(self) -> bool:
        """Return whether the request is a websocket handshake, in which the query may carry claims."""
        return bool(self.scope["type"] == "websocket")


class WsgiRequest:
    """A request by its WSGI environ."""

    __slots__ = ("environ",)

    def __init__(self, environ: MutableMapping[str, Any]) -> None:
        self.environ = environ

    def headers(self) -> Iterator[tuple[str, str]]:
        """Yield all headers, with dashes in the names, because WSGI does not keep the original names."""
        for key, value in list(self.environ.items()):
            if key.startswith("HTTP_"):
                name = key[5:].lower().replace("_", "-")
            elif key in _CGI_HEADERS:
                name = _CGI_HEADERS[key]
            else:
                continue
            yield name, _decode_native(value)

    def collect_headers(self, wanted: HeaderNames) -> dict[str, list[str]]:
        """Return the wanted headers by canonical name. WSGI servers have joined repeated headers with commas."""
        names, environ = wanted.wsgi, self.environ
        return {names[key]: [_decode_native(environ[key])] for key in names.keys() & environ.keys()}

    def pick_headers(self, wanted: HeaderNames) -> list[tuple[str, str]]:
        """Return the wanted headers by canonical name, in their order."""
        names = wanted.wsgi
        return [(names[key], _decode_native(value)) for key, value in list(self.environ.items()) if key in names]

    def query(self) -> str:
        """Return the query string, percent-encoded."""
        return str(self.environ.get("QUERY_STRING", ""))

    def query_parameters(self) -> dict[str, str]:
        """Return the query parameters; of a repeated one the first value, as Werkzeug's ``args`` do."""
        return dict(reversed(parse_query(self.query())))

    def cookies(self, lines: Iterable[str]) -> dict[str, str]:
        """Return the cookies of these header lines; of a repeated one the first value, as Werkzeug does."""
        return dict(reversed(parse_cookies("; ".join(lines))))

    def path(self) -> str:
        """Return the decoded path."""
        raw = str(self.environ.get("SCRIPT_NAME", "")) + str(self.environ.get("PATH_INFO", ""))
        return decode_header(raw.encode("latin-1", "replace"))

    def path_parameters(self) -> Mapping[str, Any]:
        """Return the path parameters, if Werkzeug or a ``wsgiorg.routing_args`` router has matched some."""
        arguments = getattr(self.environ.get("werkzeug.request"), "view_args", None)
        if arguments:
            return dict(arguments)
        routing = self.environ.get("wsgiorg.routing_args")
        return routing[1] if routing else {}

    def method(self) -> str:
        """Return the method."""
        return str(self.environ["REQUEST_METHOD"])

    def route(self) -> str | None:
        """Return the route's template, ``None`` if the framework does not provide one."""
        environ = self.environ
        # Flask's, and Bottle's.
        rule = getattr(environ.get("werkzeug.request"), "url_rule", None) or environ.get("bottle.route")
        path = getattr(rule, "rule", None)
        return path if isinstance(path, str) else _route_of_django(environ)

    def address(self) -> str | None:
        """Return the client's address."""
        return self.environ.get("REMOTE_ADDR") or None

    def is_handshake(self) -> bool:
        """Return ``False``, because WSGI has no websockets."""
        return False


Request = AsgiRequest | WsgiRequest


def _route_of_django(raw: Mapping[str, Any]) -> str | None:
    path = getattr(getattr(raw.get(DJANGO_REQUEST_KEY), "resolver_match", None), "route", None)
    return with_slash(path) if isinstance(path, str) else None


def path_template(path: str, names: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return a path with ``{id}`` for each segment that looks like an id, empty for a path of more than 8 segments.

    Args:
        path: The path.
        names: Names of parameters by their values, which take the places of the values: ``{tenant}``.

    Example:
        >>> path_template("/v1/users/42/chat")
        '/v1/users/{id}/chat'
    """
    segments = path.split("/")
    if len(segments) > _MAX_SEGMENTS + 1:
        return ""
    return "/".join(
        f"{{{names[part]}}}" if part in names else part if not part or _WORD.fullmatch(part) else "{id}"
        for part in segments
    )


def with_slash(route: str) -> str:
    """Return a template that begins with a slash: Django's do not. One that is a regular expression stays as it is."""
    return route if route.startswith(("/", "^")) else f"/{route}"


def _decode_native(value: Any) -> str:
    # PEP 3333: each character is one byte of the header.
    try:
        return decode_header(value.encode("latin-1"))
    except (UnicodeEncodeError, AttributeError):
        return str(value)


def request_of(raw: MutableMapping[str, Any]) -> Request:
    """Return the request of an ASGI scope or a WSGI environ."""
    return WsgiRequest(raw) if "REQUEST_METHOD" in raw else AsgiRequest(raw)


def langfuse_trace_id(request: Request) -> int:
    """Return the trace in which the caller says to have a span of Langfuse's SDK, 0 if it says nothing."""
    for line in request.collect_headers(_BAGGAGE).get("baggage", ()):
        match = _LANGFUSE_TRACE.search(line[:MAX_BAGGAGE])
        if match is not None:
            return int(match[1], 16)
    return 0


def parse_query(query: str) -> list[tuple[str, str]]:
    """Return the names and values of a query in order, none if there are more than 1,000."""
    try:
        # Invalid UTF-8 stays recognisable and is rejected later, instead of becoming another text.
        return parse_qsl(query, errors="surrogateescape", max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        increment("queries.over_budget")
        return []


def parse_cookies(header: str) -> list[tuple[str, str]]:
    """Return the names and values of a ``Cookie`` header in order."""
    pairs = (pair.partition("=") for pair in header.split(";"))
    return [(name.strip(), value.strip().strip('"')) for name, _, value in pairs]
