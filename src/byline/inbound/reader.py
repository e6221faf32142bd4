"""Reads the claims of a request in order of precedence, and applies ``trust`` and ``identity``."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final, NamedTuple, cast

from byline import carrier, errors, settings
from byline.attribution import EMPTY, MASKS, Attribution, merge
from byline.inbound import sources
from byline.inbound.body import BodyBuffer, BodyDecoder, value_at_path
from byline.inbound.claim_names import (
    BODY_CLAIMS,
    CLAIM_NAMES,
    CONTROL_KEYS,
    HEADER_CLAIMS,
    LANGFUSE_KEYS,
    MCP_META,
    MCP_NEEDS,
    TRACE_KEYS,
    canonical_header_name,
)
from byline.inbound.claim_set import ClaimSet
from byline.inbound.request import HeaderNames, Request
from byline.inbound.trust import CALLER_KEYS, ClaimPolicy, Identity, Trust
from byline.settings import SettingError

#: Key of a scope or environ with its decoded `carrier.HEADER`, which is accepted once but read several times.
_CARRIED: Final = "byline.carried"
#: Members of the body of which only nested members are needed → the paths to these.
_NESTED_PATHS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    name: tuple(path[1:] for _, _, path in claims)
    for name, claims in BODY_CLAIMS.items()
    if all(len(path) > 1 for _, _, path in claims)
}
_BAGGAGE: Final = "baggage"
_NESTED_PATHS[MCP_META[0]] += ((MCP_META[1], _BAGGAGE), (MCP_META[1], carrier.HEADER))
#: Members of the body of which only their presence is needed.
_PRESENCE_ONLY: Final = frozenset(field.needs for field in CLAIM_NAMES if field.needs) - BODY_CLAIMS.keys()


class ReadClaims(NamedTuple):
    """The claims of a request as far as they are known.

    Attributes:
        attribution: The accepted claims.
        rejected: Field name and reason of each dropped claim.
        is_final: Whether all values that become known late are known.
        identified: The part of the attribution that ``identity`` returned, or that an own service has stated and
            signed.
        caller_key: The caller's API key and its name, as ``identity`` returned them.
        is_sent_by_public: Whether a service has sent claims of its own public endpoint.
    """

    attribution: Attribution
    rejected: list[str]
    is_final: bool
    identified: Attribution = EMPTY
    caller_key: tuple[str | None, ...] = ()
    is_sent_by_public: bool = False


class LateValues(NamedTuple):
    """Values that may become known after the headers and the body have been read.

    Attributes:
        identity: The result of ``identity``.
        paths: The values of path parameters, which the app's router sets.
    """

    identity: Any
    paths: tuple[Any, ...]


class ClaimReader:
    """Reads the claims of any number of requests with the settings of one middleware."""

    def __init__(
        self,
        *,
        fields: Mapping[str, str | Iterable[str]] | None = None,
        identity: Identity | None = None,
        trust: Trust | None = None,
        public: bool | None = None,
        body_limit: int | None = None,
    ) -> None:
        if fields is None or identity is None or trust is None or public is None:
            settings.config_file.check()
        fields = settings.find("fields").value or None if fields is None else fields
        identity = load_identity(settings.find("identity").value) if identity is None else identity
        trust = _trust_of_settings() if trust is None else trust
        public = settings.resolve("public", public)
        body_limit = settings.resolve("body_limit", body_limit)
        if type(body_limit) is not int or body_limit < 0:
            raise SettingError(
                "byline.E014", f"body_limit={body_limit!r}", "pass a number of bytes, 0 to read no bodies"
            )
        self.sources = sources.validate_fields(fields)
        self.identity = identity
        self.policy = ClaimPolicy(trust, identity, public=public)
        self.body_limit = body_limit
        self._signing = carrier.Signing.from_settings()
        own_members = [source.path[0] for source in self.sources if source.kind == "body"]
        own_nested = [source.path[1] for source in self.sources if len(source.path) > 1]
        own_headers = [source.written for source in self.sources if source.kind == "header"]
        self._body_decoder = BodyDecoder(
            [*own_members, *BODY_CLAIMS],
            nested={name: paths for name, paths in _NESTED_PATHS.items() if name not in own_members},
            presence_only=_PRESENCE_ONLY,
            known_keys={*TRACE_KEYS, *CONTROL_KEYS, *LANGFUSE_KEYS, *MASKS, "id", *own_nested},
        )
        claim_headers = {name: field.name for name, (_, field) in HEADER_CLAIMS.items()}
        self._header_names = HeaderNames(
            {**claim_headers, carrier.HEADER: carrier.HEADER, _BAGGAGE: _BAGGAGE, "cookie": "cookie"},
            # A proxy that sets one of these headers may pass the other spelling on.
            exact={canonical_header_name(name): name for name in own_headers},
            all_exact=public,
        )
        #: Whether `one_pass` can read usual requests.
        self.reads_in_one_pass = self.policy.accepts_all and identity is None and not self.sources
        #: Whether values may become known after the headers and the body have been read.
        self.late = identity is not None or any(source.late for source in self.sources)
        #: Whether the middleware was added by zero code: one of the app's own, further inside, replaces the reader.
        self.is_automatic = False

    def read_late_values(self, request: Request, raw: MutableMapping[str, Any]) -> LateValues:
        """Return the values that may become known late: only if they have changed, the claims are read again."""
        values: Any = None
        if self.identity is not None:
            try:
                values = self.identity(raw)
            except Exception:
                errors.report_internal_error("identity")
        paths = tuple(request.path_parameters().get(source.name) for source in self.sources if source.late)
        # A copy, because the app may fill the same mapping later.
        return LateValues(dict(values) if isinstance(values, Mapping) else values, paths)

    def read(
        self,
        request: Request,
        raw: MutableMapping[str, Any],
        body: BodyBuffer | None,
        late_values: LateValues | None = None,
    ) -> ReadClaims:
        """Return the claims known so far.

        Args:
            request: The request.
            raw: Its ASGI scope or WSGI environ, for ``identity`` and ``trust``.
            body: The body as far as the app has read it.
            late_values: The values of `read_late_values`, if the caller has them.
        """
        late_values = late_values or self.read_late_values(request, raw)
        rejected: list[str] = []
        headers = request.collect_headers(self._header_names)
        members = self._decode_body(body, rejected)
        # The first one that has a field wins: the order of these lines is the precedence.
        identified = None if self.identity is None else self._clean_identity(late_values.identity, rejected)
        own = self._read_sources(request, headers, members, rejected) if self.sources else None
        claims = ClaimSet(rejected)
        if headers:
            claims.add_header_claims(headers)
        if members:
            claims.add_body_claims(members)
        if request.is_handshake():
            claims.add_query_claims(request.query())
        verified, carried = None, None
        in_message = _headers_in_message(members) if MCP_NEEDS in members else {}
        lines = headers.get(carrier.HEADER) or in_message.get(carrier.HEADER)
        if lines:
            verified, carried = self._read_carried(lines, raw, claims)
        for source in (in_message, headers):
            if _BAGGAGE in source and not self.policy.public:
                claims.add_baggage_claims(source[_BAGGAGE])
        layers = (claims,) if own is None else (own, claims)
        self.policy.apply(layers, identified, verified, raw)
        late_values_known = not self.late or (
            (identified is None or bool(identified))
            and all(source.field in (own or ()) for source in self.sources if source.late)
        )
        stated: list[Mapping[str, Any]] = [] if identified is None else [identified]
        if verified and carried is not None:
            layers = (verified, *layers)
            stated.append({field: value for field, value in verified.items() if field not in carried.claimed})
        return ReadClaims(
            merge(layers if identified is None else (identified, *layers)),
            rejected,
            late_values_known,
            merge(stated) if stated else EMPTY,
            () if identified is None else identified.caller_key,
            carried is not None and carried.public,
        )

    def _read_sources(
        self, request: Request, headers: Mapping[str, list[str]], members: Mapping[str, Any], rejected: list[str]
    ) -> ClaimSet:
        claims = ClaimSet(rejected)
        for source in self.sources:
            source.add_to(claims, request, headers, members)
        return claims

    def _read_carried(
        self, lines: list[str], raw: MutableMapping[str, Any], claims: ClaimSet
    ) -> tuple[ClaimSet, carrier.Carried]:
        """Return the attribution that an own service has signed, and the header; add an unsigned one to the claims."""
        carried: carrier.Carried | None = raw.get(_CARRIED)
        verified = ClaimSet(claims.rejected)
        if carried is None:
            # Two values are one that is malformed.
            value = ",".join(lines)
            max_age = self._signing.http_max_age
            carried = carrier.decode(value, self._signing, max_age)
            if carried.verified and not carrier.seen.is_first(value, max_age):
                carried = carrier.drop("replayed")
            elif carried.fields is not None and not carried.verified and self.policy.public:
                # Any browser can send the header; a service of one's own has a key for public endpoints.
                carried = carrier.drop("unsigned")
            raw[_CARRIED] = carried
        if carried.fields is None:
            claims.reject(carrier.HEADER, carried.dropped)
        elif carried.verified:
            verified.add_app_fields(carried.fields)
        else:
            for field, item in carried.fields.items():
                claims.add(field, item)
        return verified, carried

    def _decode_body(self, body: BodyBuffer | None, rejected: list[str]) -> Mapping[str, Any]:
        if body is None or not body.is_complete():
            return {}
        members = body.decode(self._body_decoder)
        if body.overflow:
            rejected.append("body: too long")
            return {}
        if members is None:
            rejected.append("body: cannot be decoded")
            return {}
        return members

    def _clean_identity(self, values: Any, rejected: list[str]) -> ClaimSet:
        claims = ClaimSet(rejected)
        try:
            if isinstance(values, Mapping) and any(key in values for key in CALLER_KEYS):
                claims.caller_key = tuple(_text_or_none(values.get(key)) for key in CALLER_KEYS)
                values = {field: value for field, value in values.items() if field not in CALLER_KEYS}
            if values is not None:
                claims.add_app_fields(values)
        except Exception:
            errors.report_internal_error("identity")
        return claims


def _headers_in_message(members: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the headers in the ``_meta`` of a message of MCP."""
    meta = value_at_path(members, MCP_META)
    if not isinstance(meta, dict):
        return {}
    return {name: [value] for name in (carrier.HEADER, _BAGGAGE) if isinstance(value := meta.get(name), str)}


def _trust_of_settings() -> Trust | None:
    groups, variable = settings.find("trust")
    return groups if variable is not None else None


def load_identity(name: str) -> Identity | None:
    """Return the function ``module:name``, ``None`` for an empty name. Raises `SettingError` ``byline.E137``."""
    if not name:
        return None
    module, _, attribute = name.partition(":")
    try:
        function: Any = importlib.import_module(module)
        for part in attribute.split("."):
            function = getattr(function, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingError(
            "byline.E137",
            f"identity={name!r} cannot be imported ({type(error).__name__})",
            "write module:function, with a module that can be imported from where the app starts",
        ) from None
    return cast("Identity", function)


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
