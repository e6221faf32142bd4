"""Reads the claims of a request in order of precedence, and applies ``trust`` and ``identity``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from inspect import iscoroutinefunction
from typing import Any, Final, cast

from byline import carrier, errors
from byline.attribution import FIELDS as ATTRIBUTION_FIELDS
from byline.attribution import MASKS, Attribution, merge
from byline.inbound import sources
from byline.inbound.body import DEFAULT_LIMIT, BodyBuffer, BodyDecoder
from byline.inbound.claim_names import (
    BODY_CLAIMS,
    CLAIM_NAMES,
    CONTROL_KEYS,
    HEADER_CLAIMS,
    LANGFUSE_KEYS,
    TRACE_KEYS,
)
from byline.inbound.claim_set import ClaimSet
from byline.inbound.request import HeaderNames, Request
from byline.settings import SettingError

Identity = Callable[[MutableMapping[str, Any]], "Mapping[str, Any] | Attribution | None"]
Predicate = Callable[[MutableMapping[str, Any]], "bool | str | Collection[str] | None"]
Trust = Collection[str] | Predicate

#: Attribution field → claim group.
GROUP_OF: Final[dict[str, str]] = {
    "session_id": "session",
    "user_id": "user",
    "organization_id": "user",
    "environment_id": "user",
    "trace_id": "trace",
    "parent_span_id": "trace",
    "trace_name": "labels",
    "span_name": "labels",
    "generation_name": "labels",
    "environment": "labels",
    "release": "labels",
    "version": "labels",
    "tags": "labels",
    "metadata": "metadata",
}
GROUPS: Final = frozenset(GROUP_OF.values())
#: Claims of these fields are ignored if an identity function is set.
_IDENTITY_FIELDS: Final = frozenset({"user_id", "organization_id", "environment_id"})

#: Key of a scope or environ with its decoded `carrier.HEADER`, which is accepted once but read several times.
_CARRIED: Final = "byline.carried"
#: Members of the body of which only nested members are needed → the paths to these.
_NESTED_PATHS: Final = {
    name: tuple(path[1:] for _, _, path in claims)
    for name, claims in BODY_CLAIMS.items()
    if all(len(path) > 1 for _, _, path in claims)
}
#: Members of the body of which only their presence is needed.
_PRESENCE_ONLY: Final = frozenset(field.needs for field in CLAIM_NAMES if field.needs) - BODY_CLAIMS.keys()


class ClaimReader:
    """Reads the claims of any number of requests with the settings of one middleware."""

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
                f"identity={identity!r} is not a synchronous function",
                "pass a plain function of the scope or environ, not a coroutine function",
            )
        self.sources = sources.validate_fields(fields)
        self.identity = identity
        self.trust = validate_trust(trust)
        self.body_limit = body_limit
        self._signing = carrier.Signing.from_settings()
        own_members = [source.path[0] for source in self.sources if source.kind == "body"]
        own_nested = [source.path[1] for source in self.sources if len(source.path) > 1]
        own_headers = [source.name for source in self.sources if source.kind == "header"]
        self._body_decoder = BodyDecoder(
            [*own_members, *BODY_CLAIMS],
            nested={name: paths for name, paths in _NESTED_PATHS.items() if name not in own_members},
            presence_only=_PRESENCE_ONLY,
            known_keys={*TRACE_KEYS, *CONTROL_KEYS, *LANGFUSE_KEYS, *MASKS, "id", *own_nested},
        )
        self._header_names = HeaderNames([*HEADER_CLAIMS, carrier.HEADER, "baggage", "cookie", *own_headers])
        #: Whether values may become known after the headers and the body have been read.
        self.late = identity is not None or any(source.late for source in self.sources)

    def read(
        self, request: Request, raw: MutableMapping[str, Any], body: BodyBuffer | None
    ) -> tuple[Attribution, list[str], bool]:
        """Return the claims known so far, the dropped ones, and whether all late values are known.

        Args:
            request: The request.
            raw: Its ASGI scope or WSGI environ, for ``identity`` and ``trust``.
            body: The body as far as the app has read it.
        """
        rejected: list[str] = []
        headers = request.collect_headers(self._header_names)
        members = self._decode_body(body, rejected)
        # The first one that has a field wins: the order of these lines is the precedence.
        identified = None if self.identity is None else self._identify(self.identity, raw, rejected)
        own = self._read_sources(request, headers, members, rejected) if self.sources else None
        claims = ClaimSet(rejected)
        if headers:
            claims.add_header_claims(headers)
        if members:
            claims.add_body_claims(members)
        if request.is_handshake():
            claims.add_query_claims(request.query())
        verified = None
        if carrier.HEADER in headers:
            verified = self._read_carried(headers[carrier.HEADER], raw, claims)
        if "baggage" in headers:
            claims.add_baggage_claims(headers["baggage"])
        layers = (claims,) if own is None else (own, claims)
        if self.trust is not GROUPS:
            accepted = self._accepted_fields(raw)
            for layer in layers:
                layer.keep_only(accepted, "not trusted")
        # An own service has read its caller's claims by its own rules: what it signed needs no trust.
        if verified:
            _leave_identity_to("own service", layers)
        if identified is not None:
            _leave_identity_to("identity", layers)
            if verified and not _IDENTITY_FIELDS.isdisjoint(identified):
                _leave_identity_to("identity", (verified,))
            layers = (identified, *((verified,) if verified else ()), *layers)
        elif verified:
            layers = (verified, *layers)
        late_values_known = not self.late or (
            (identified is None or bool(identified))
            and all(source.field in (own or ()) for source in self.sources if source.late)
        )
        return merge(layers), rejected, late_values_known

    def _read_sources(
        self, request: Request, headers: Mapping[str, list[str]], members: Mapping[str, Any], rejected: list[str]
    ) -> ClaimSet:
        claims = ClaimSet(rejected)
        for source in self.sources:
            source.add_to(claims, request, headers, members)
        return claims

    def _read_carried(self, lines: list[str], raw: MutableMapping[str, Any], claims: ClaimSet) -> ClaimSet:
        """Return the attribution that an own service has signed; add an unsigned one to the claims."""
        carried: carrier.Carried | None = raw.get(_CARRIED)
        verified = ClaimSet(claims.rejected)
        if carried is None:
            # Two values are one that is malformed.
            value = ",".join(lines)
            carried = carrier.decode(value, self._signing, carrier.HTTP_MAX_AGE)
            if carried.verified and not carrier.seen.is_first(value):
                carried = carrier.drop("replayed")
            raw[_CARRIED] = carried
        if carried.fields is None:
            claims.reject(carrier.HEADER, carried.dropped)
        elif carried.verified:
            verified.add_app_fields(carried.fields)
        else:
            for field, item in carried.fields.items():
                claims.add(field, item)
        return verified

    def _decode_body(self, body: BodyBuffer | None, rejected: list[str]) -> dict[str, Any]:
        if body is None or not body.is_complete():
            return {}
        if body.overflow:
            rejected.append("body: too long")
            return {}
        members = body.decode(self._body_decoder)
        if members is None:
            rejected.append("body: cannot be decoded")
            return {}
        return members

    def _identify(self, identity: Identity, raw: MutableMapping[str, Any], rejected: list[str]) -> ClaimSet:
        claims = ClaimSet(rejected)
        try:
            values = identity(raw)
            if values is not None:
                claims.add_app_fields(values)
        except Exception:
            errors.report_internal_error("identity")
        return claims

    def _accepted_fields(self, raw: MutableMapping[str, Any]) -> frozenset[str]:
        try:
            return accepted_fields(self.trust, raw)
        except Exception:
            errors.report_internal_error("trust")
            return frozenset()


def _leave_identity_to(source: str, layers: Iterable[ClaimSet]) -> None:
    for layer in layers:
        layer.keep_only(ATTRIBUTION_FIELDS - _IDENTITY_FIELDS, f"{source} decides")


def validate_trust(trust: Trust) -> Trust:
    """Return a set of claim groups or a function. Raises `SettingError` ``byline.E011`` for anything else."""
    if is_plain_function(trust):
        return trust
    try:
        groups = None if isinstance(trust, str) else frozenset(cast("Collection[str]", trust))
    except TypeError:
        groups = None
    if groups is None or not groups <= GROUPS:
        raise SettingError(
            "byline.E011",
            f"trust={trust!r} names no claim groups",
            f"pass a set of {', '.join(sorted(GROUPS))}, an empty set, or a plain function of the request",
        )
    return GROUPS if groups == GROUPS else groups


def is_plain_function(value: object) -> bool:
    """Return whether a value is callable and not a coroutine function, because a span's start cannot await."""
    return callable(value) and not iscoroutinefunction(value) and not iscoroutinefunction(type(value).__call__)


def accepted_fields(trust: Trust, raw: MutableMapping[str, Any]) -> frozenset[str]:
    """Return the attribution fields that a request may claim."""
    accepted = trust(raw) if callable(trust) else trust
    if accepted is True:
        return ATTRIBUTION_FIELDS
    if not accepted:
        return frozenset()
    groups = GROUPS.intersection((accepted,) if isinstance(accepted, str) else accepted)
    return frozenset(field for field, group in GROUP_OF.items() if group in groups)
