"""Reads what a request claims, in the order in which claims win."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from operator import itemgetter
from typing import Any, Final
from urllib.parse import unquote

from byline import errors
from byline.attribution import FIELDS as ATTRIBUTION_FIELDS
from byline.attribution import Attribution, merge
from byline.gateways.base import Field
from byline.inbound import sources
from byline.inbound.body import DEFAULT_LIMIT, BodyBuffer, BodyDecoder, value_at_path
from byline.inbound.claim_names import BAGGAGE, CLAIM_NAMES
from byline.inbound.claim_set import ClaimSet
from byline.inbound.request import HeaderNames, Request, canonical_header_name, parse_query
from byline.inbound.trust import GROUPS, Trust, accepted_fields, is_plain_function
from byline.inbound.trust import validate_trust as check_trust
from byline.settings import SettingError

Identity = Callable[[MutableMapping[str, Any]], "Mapping[str, Any] | Attribution | None"]

#: With an identity function set, nobody may claim these.
_IDENTIFIED: Final = frozenset({"user_id", "organization_id", "environment_id"})

#: Canonical name of a header → its first row.
_HEADERS: Final[dict[str, tuple[int, Field]]] = {}
for _rank, _field in enumerate(CLAIM_NAMES):
    if _field.where == "header":
        _HEADERS.setdefault(canonical_header_name(_field.name), (_rank, _field))
#: Top-level member of a body → the rows that start there.
_BODY: Final[dict[str, list[tuple[int, Field, tuple[str, ...]]]]] = {}
for _rank, _field in enumerate(CLAIM_NAMES):
    if _field.where == "body":
        _path = tuple(_field.name.split("."))
        _BODY.setdefault(_path[0], []).append((_rank, _field, _path))
#: Members of which only what stands at these paths is wanted.
_WITHIN: Final = {
    name: tuple(path[1:] for _, _, path in rows) for name, rows in _BODY.items() if all(len(row[2]) > 1 for row in rows)
}
#: Members of which only is wanted whether they are there.
_NEEDED: Final = frozenset(field.needs for field in CLAIM_NAMES if field.needs) - _BODY.keys()
#: What the W3C lets a recipient of baggage cut off.
_MAX_BAGGAGE: Final = 8192
_rank_of: Final = itemgetter(0)
_QUERY: Final = tuple(field for field in CLAIM_NAMES if field.where == "query")


class ClaimReader:
    """The settings of one middleware, ready to read any number of requests."""

    def __init__(
        self,
        *,
        fields: Mapping[str, str | Iterable[str]] | None = None,
        identity: Identity | None = None,
        trust: Trust = GROUPS,
        body_limit: int = DEFAULT_LIMIT,
    ) -> None:
        if type(body_limit) is not int or body_limit < 0:
            raise SettingError(
                "byline.E014", f"body_limit={body_limit!r}", "pass a number of bytes, 0 to read no bodies"
            )
        if identity is not None and not is_plain_function(identity):
            raise SettingError(
                "byline.E015",
                f"identity={identity!r} is no function that returns at once",
                "pass a plain function of the scope or environ, not a coroutine function",
            )
        self.sources = sources.validate_fields(fields)
        self.identity = identity
        self.trust = check_trust(trust)
        self.body_limit = body_limit
        own = [source.path[0] for source in self.sources if source.kind == "body"]
        self._body = BodyDecoder(
            [*own, *_BODY], within={name: _WITHIN[name] for name in _WITHIN if name not in own}, present=_NEEDED
        )
        self._wanted = HeaderNames(
            [*_HEADERS, "baggage", "cookie", *(source.name for source in self.sources if source.kind == "header")]
        )
        #: Whether a value may be known later than the headers and the body are.
        self.late = identity is not None or any(source.late for source in self.sources)

    def read(
        self, request: Request, raw: MutableMapping[str, Any], body: BodyBuffer | None
    ) -> tuple[Attribution, list[str], bool]:
        """Return what is claimed by now, what was dropped, and whether all that may come late is known."""
        rejected: list[str] = []
        headers = request.collect(self._wanted)
        members = self._members(body, rejected)
        # The first that names a field wins, so that the order of these lines is the precedence.
        identified = None if self.identity is None else self._identity_layer(self.identity, raw, rejected)
        sourced = self._source_layer(request, headers, members, rejected) if self.sources else None
        claims = ClaimSet(rejected)
        if headers:
            add_header_claims(claims, headers)
        if members:
            add_body_claims(claims, members)
        if request.is_handshake():
            add_query_claims(claims, request.query())
        if "baggage" in headers:
            add_baggage_claims(claims, headers["baggage"])
        layers = (claims,) if sourced is None else (sourced, claims)
        if self.trust is not GROUPS:
            accepted = self._accepted(raw)
            for layer in layers:
                _keep(layer, accepted, "not trusted")
        if identified is not None:
            for layer in layers:
                _keep(layer, ATTRIBUTION_FIELDS - _IDENTIFIED, "identity decides")
            layers = (identified, *layers)
        known = not self.late or (
            (identified is None or bool(identified))
            and all(source.field in (sourced or ()) for source in self.sources if source.late)
        )
        return merge(layers), rejected, known

    def _source_layer(
        self, request: Request, headers: Mapping[str, list[str]], members: Mapping[str, Any], rejected: list[str]
    ) -> ClaimSet:
        layer = ClaimSet(rejected)
        for source in self.sources:
            source.read(layer, request, headers, members)
        return layer

    def _members(self, body: BodyBuffer | None, rejected: list[str]) -> dict[str, Any]:
        if body is None or not body.is_complete():
            return {}
        if body.overflow:
            rejected.append("body: too long")
            return {}
        members = body.read(self._body)
        if members is None:
            rejected.append("body: cannot be decoded")
            return {}
        return members

    def _identity_layer(self, identity: Identity, raw: MutableMapping[str, Any], rejected: list[str]) -> ClaimSet:
        layer = ClaimSet(rejected)
        try:
            known = identity(raw)
            if known is not None:
                add_app_fields(layer, attribution_fields(known))
        except Exception:
            errors.report_internal_error("identity")
        return layer

    def _accepted(self, raw: MutableMapping[str, Any]) -> frozenset[str]:
        try:
            return accepted_fields(self.trust, raw)
        except Exception:
            errors.report_internal_error("trust")
            return frozenset()


def attribution_fields(known: Mapping[str, Any] | Attribution) -> Mapping[str, Any]:
    """Return attribution fields as a mapping, whichever way they were given."""
    if isinstance(known, Attribution):
        return {field: getattr(known, field) for field in known.__struct_fields__ if getattr(known, field)}
    return known


def add_app_fields(layer: ClaimSet, fields: Mapping[str, Any]) -> None:
    """Add fields that the app itself gave; a name that is none is dropped and said."""
    for field, value in fields.items():
        if field in ATTRIBUTION_FIELDS:
            layer.add(field, value)
        else:
            layer.reject(str(field)[:64], "no attribution field")


def _keep(layer: ClaimSet, accepted: frozenset[str], reason: str) -> None:
    for field in [field for field in layer if field not in accepted]:
        del layer[field]
        layer.reject(field, reason)


def add_header_claims(layer: ClaimSet, headers: Mapping[str, list[str]]) -> None:
    """Add the claims that came in headers."""
    found = [(*_HEADERS[name], headers[name]) for name in _HEADERS.keys() & headers.keys()]
    if len(found) > 1:
        found.sort(key=_rank_of)
    for _, field, lines in found:
        if field.kind == "entry":
            layer.add(field.field, {field.name.removeprefix("langfuse_"): lines[0]})
        elif field.encoded:
            layer.add_encoded(field.field, field.kind, lines)
        else:
            layer.add_header(field.field, field.kind, lines)


def add_body_claims(layer: ClaimSet, members: Mapping[str, Any]) -> None:
    """Add the claims that came in the JSON body."""
    found = [row for name in _BODY.keys() & members.keys() for row in _BODY[name]]
    if len(found) > 1:
        found.sort(key=_rank_of)
    for _, field, path in found:
        value = members[path[0]] if len(path) == 1 else value_at_path(members, path)
        if value is None or (field.needs is not None and field.needs not in members):
            continue
        if field.kind == "entry":
            layer.add("metadata", {field.name: value})
        elif field.kind == "id":
            layer.add(field.field, value.get("id") if isinstance(value, Mapping) else value)
        elif field.kind in ("text", "tags"):
            layer.add(field.field, value)
        else:
            layer.add_object(field.field, field.kind, value)


def add_query_claims(layer: ClaimSet, query: str) -> None:
    """Add the claims of a websocket's handshake: a browser can set no headers on it."""
    values = parse_query(query)
    for field in _QUERY:
        text = values.get(field.name)
        if text:
            layer.add_text(field.field, field.kind, text)


def add_baggage_claims(layer: ClaimSet, lines: list[str]) -> None:
    """Add the members of W3C baggage that are claims."""
    members = ",".join(lines)
    if len(members) > _MAX_BAGGAGE:
        # Whole members only: a cut id would be another id.
        members = members[: _MAX_BAGGAGE + 1].rpartition(",")[0]
        layer.reject("baggage", "too long")
    for member in members.split(","):
        name, equals, value = member.partition(";")[0].partition("=")
        field = BAGGAGE.get(name.strip()) if equals else None
        if field is not None:
            layer.add_text(
                field, "tags" if field == "tags" else "text", unquote(value.strip(), errors="surrogateescape")
            )
