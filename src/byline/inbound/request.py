"""A request as both protocols show it: the few things that claims are read from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qsl

_MAX_QUERY_FIELDS: Final = 1000
_CGI_HEADERS: Final = {"CONTENT_TYPE": "content-type", "CONTENT_LENGTH": "content-length"}


def decode_latin1(value: bytes) -> str:
    """Decode a header value: UTF-8 where it is, else Latin-1, as HTTP has it."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def canonical_header_name(name: str) -> str:
    """Return a header name in lower case with dashes."""
    return name.lower().replace("_", "-")


def plain_headers(scope: MutableMapping[str, Any]) -> dict[bytes, bytes] | None:
    """Return the headers of an ASGI scope by name, ``None`` where one is repeated or written in an odd way.

    Nearly always they are plain, and need not be gone through one by one.
    """
    headers = scope.get("headers")
    if type(headers) is not list:
        return None
    plain: dict[bytes, bytes] = dict(headers)
    names = b"".join(plain)
    return plain if len(plain) == len(headers) and names.islower() and b"_" not in names else None


class HeaderNames:
    """The headers that somebody will read, under the names by which each protocol shows them.

    Names are given and answered in canonical form: lower case, with dashes.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(canonical_header_name(name) for name in names)
        self.asgi = {name.encode("latin-1", "replace"): name for name in self.names}
        self.wsgi = {f"HTTP_{name.upper().replace('-', '_')}": name for name in self.names}


class AsgiRequest:
    """What an ASGI scope says."""

    __slots__ = ("scope",)

    def __init__(self, scope: MutableMapping[str, Any]) -> None:
        self.scope = scope

    def headers(self) -> Iterator[tuple[str, str]]:
        """All headers, names as they came."""
        for name, value in self.scope.get("headers", ()):
            yield name.decode("latin-1"), decode_latin1(value)

    def collect(self, wanted: HeaderNames) -> dict[str, list[str]]:
        """Gather the wanted headers; a spelling with dashes goes before one with underscores."""
        names = wanted.asgi
        plain = plain_headers(self.scope)
        if plain is not None:
            return {names[raw]: [decode_latin1(plain[raw])] for raw in names.keys() & plain.keys()}
        found: dict[str, list[str]] = {}
        underscored: dict[str, list[str]] | None = None
        for raw, value in self.scope.get("headers", ()):
            folded = raw.lower()
            name = names.get(folded)
            if name is not None:
                if name in found:
                    found[name].append(decode_latin1(value))
                else:
                    found[name] = [decode_latin1(value)]
            elif b"_" in folded:
                name = names.get(folded.replace(b"_", b"-"))
                if name is not None:
                    underscored = underscored or {}
                    underscored.setdefault(name, []).append(decode_latin1(value))
        return {**underscored, **found} if underscored else found

    def query(self) -> str:
        """The query string, still encoded."""
        raw: bytes = self.scope.get("query_string", b"")
        return raw.decode("latin-1")

    def path(self) -> str:
        """The path, decoded."""
        path: str = self.scope.get("path", "")
        return path

    def path_parameters(self) -> Mapping[str, Any]:
        """What the router has matched so far."""
        return self.scope.get("path_params") or {}

    def route(self) -> str | None:
        """The route's template, where the framework tells it."""
        path = getattr(self.scope.get("route"), "path", None)
        return path if isinstance(path, str) else None

    def address(self) -> str | None:
        """The peer's address."""
        client = self.scope.get("client")
        return client[0] if client else None

    def is_handshake(self) -> bool:
        """Whether this is a websocket's handshake, whose query may carry claims."""
        return bool(self.scope["type"] == "websocket")


class WsgiRequest:
    """What a WSGI environ says."""

    __slots__ = ("environ",)

    def __init__(self, environ: MutableMapping[str, Any]) -> None:
        self.environ = environ

    def headers(self) -> Iterator[tuple[str, str]]:
        """All headers, names with dashes: WSGI does not tell how they came."""
        for key, value in list(self.environ.items()):
            if key.startswith("HTTP_"):
                name = key[5:].lower().replace("_", "-")
            elif key in _CGI_HEADERS:
                name = _CGI_HEADERS[key]
            else:
                continue
            yield name, _decode_native(value)

    def collect(self, wanted: HeaderNames) -> dict[str, list[str]]:
        """Gather the wanted headers. WSGI servers have joined repeated ones by commas already."""
        names, environ = wanted.wsgi, self.environ
        return {names[key]: [_decode_native(environ[key])] for key in names.keys() & environ.keys()}

    def query(self) -> str:
        """The query string, still encoded."""
        return str(self.environ.get("QUERY_STRING", ""))

    def path(self) -> str:
        """The path, decoded."""
        raw = str(self.environ.get("SCRIPT_NAME", "")) + str(self.environ.get("PATH_INFO", ""))
        return decode_latin1(raw.encode("latin-1", "replace"))

    def path_parameters(self) -> Mapping[str, Any]:
        """What the router has matched so far, where Werkzeug or a PEP 3333 router tells it."""
        arguments = getattr(self.environ.get("werkzeug.request"), "view_args", None)
        if arguments:
            return dict(arguments)
        routing = self.environ.get("wsgiorg.routing_args")
        return routing[1] if routing else {}

    def route(self) -> str | None:
        """The route's template, where the framework tells it."""
        rule = getattr(self.environ.get("werkzeug.request"), "url_rule", None)
        path = getattr(rule, "rule", None)
        return path if isinstance(path, str) else None

    def address(self) -> str | None:
        """The peer's address."""
        return self.environ.get("REMOTE_ADDR") or None

    def is_handshake(self) -> bool:
        """WSGI has no websockets."""
        return False


Request = AsgiRequest | WsgiRequest


def _decode_native(value: Any) -> str:
    # WSGI shows the bytes of a header as characters of Latin-1.
    try:
        return decode_latin1(value.encode("latin-1"))
    except (UnicodeEncodeError, AttributeError):
        return str(value)


def request_of(raw: MutableMapping[str, Any]) -> Request:
    """Return the request that an environ or a scope stands for."""
    return WsgiRequest(raw) if "REQUEST_METHOD" in raw else AsgiRequest(raw)


def parse_query(query: str) -> dict[str, str]:
    """Return the query's first value of each name."""
    try:
        # Bytes that are no text must not turn into another text.
        pairs = parse_qsl(query, errors="surrogateescape", max_num_fields=_MAX_QUERY_FIELDS)
    except ValueError:
        return {}
    return dict(reversed(pairs))


def parse_cookies(header: str) -> dict[str, str]:
    """Return the cookies of a ``Cookie`` header."""
    cookies: dict[str, str] = {}
    for pair in header.split(";"):
        name, _, value = pair.partition("=")
        cookies.setdefault(name.strip(), value.strip().strip('"'))
    return cookies
