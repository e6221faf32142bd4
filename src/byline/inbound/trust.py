"""Which claims of a request are accepted: ``trust``, ``identity`` and the public mode."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, MutableMapping
from inspect import iscoroutinefunction
from typing import Any, Final, cast

from byline import errors
from byline.attribution import FIELDS as ATTRIBUTION_FIELDS
from byline.attribution import MASKS, MAX_ID, Attribution
from byline.inbound.claim_set import ClaimSet
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
#: The groups that are accepted by default.
GROUPS: Final = frozenset(GROUP_OF.values())
#: The group of ``mask_input`` and ``mask_output``, which hide content from the operator: accepted only if named.
MASK_GROUP: Final = "masks"
#: The groups that a public endpoint accepts by default.
PUBLIC_GROUPS: Final = frozenset({"session"})
#: Claims of these fields are ignored if an identity function is set.
_IDENTITY_FIELDS: Final = frozenset({"user_id", "organization_id", "environment_id"})
_NOT_IDENTITY_FIELDS: Final = ATTRIBUTION_FIELDS - _IDENTITY_FIELDS
#: Keys of the result of ``identity`` that are no attribution fields: the caller's API key, and a name for it.
CALLER_KEYS: Final = ("api_key", "key_alias")


class ClaimPolicy:
    """Decides which claims of a request are accepted.

    Args:
        trust: The accepted groups, or a function of the request; ``None`` for all groups, or for ``{"session"}`` on a
            public endpoint.
        identity: The app's identity function, or ``None``.
        public: Whether strangers call the endpoint.

    Attributes:
        public: Whether strangers call the endpoint.
        accepts_all: Whether every claim of every caller is accepted.
        may_isolate: Whether the trace of a caller may be refused.

    Raises:
        SettingError: ``byline.E011``, ``byline.E015`` or ``byline.E110``.
    """

    def __init__(self, trust: Trust | None, identity: Identity | None, *, public: bool = False) -> None:
        if not isinstance(public, bool):
            raise SettingError("byline.E110", f"public is {type(public).__name__}", "pass True or False")
        if identity is not None and not is_plain_function(identity):
            raise SettingError(
                "byline.E015",
                f"identity={identity!r} is not a synchronous function",
                "pass a plain function of the scope or environ, not a coroutine function",
            )
        if trust is None:
            trust = PUBLIC_GROUPS if public else GROUPS
        self.public = public
        self._identity_decides = identity is not None
        self._trust = _validate_trust(trust)
        self.accepts_all = self._trust == GROUPS and not public
        self.may_isolate = callable(self._trust) or "trace" not in self._trust

    def accepts_trace(self, raw: MutableMapping[str, Any]) -> bool:
        """Return whether the request continues the trace of its ``traceparent``. Asked as the request begins."""
        return not self.may_isolate or "trace" in self._groups(raw)

    def apply(
        self,
        layers: Collection[ClaimSet],
        identified: ClaimSet | None,
        verified: ClaimSet | None,
        raw: MutableMapping[str, Any],
    ) -> None:
        """Drop the claims that are not accepted.

        Args:
            layers: The claims of the caller.
            identified: The values of ``identity``, ``None`` without an identity function.
            verified: The attribution that an own service has signed. That service has read the claims of its caller
                by its own rules, so they need no trust.
            raw: The ASGI scope or WSGI environ.
        """
        groups = GROUPS
        if not self.accepts_all:
            groups = self._groups(raw)
            accepted = frozenset(field for field, group in GROUP_OF.items() if group in groups)
            for layer in layers:
                layer.keep_only(accepted, "not trusted")
        if verified:
            for layer in layers:
                layer.keep_only(_NOT_IDENTITY_FIELDS, "own service decides")
        if self._identity_decides:
            for layer in layers:
                layer.keep_only(_NOT_IDENTITY_FIELDS, "identity decides")
            if verified and not _IDENTITY_FIELDS.isdisjoint(identified or ()):
                verified.keep_only(_NOT_IDENTITY_FIELDS, "identity decides")
        # Without an identified user, any client could hide the content of requests.
        may_mask = MASK_GROUP in groups and (identified is None or bool(identified))
        for layer in layers:
            if "metadata" in layer and not may_mask:
                _drop_masks(layer)
            if self.public and "session_id" in layer:
                _bind_session(layer, {**(verified or {}), **(identified or {})})

    def _groups(self, raw: MutableMapping[str, Any]) -> frozenset[str]:
        trust = self._trust
        if not callable(trust):
            return cast("frozenset[str]", trust)
        try:
            accepted = trust(raw)
            if accepted is True:
                return GROUPS
            if not accepted:
                return frozenset()
            return frozenset((accepted,) if isinstance(accepted, str) else accepted)
        except Exception:
            errors.report_internal_error("trust")
            return frozenset()


def _validate_trust(trust: Trust) -> Trust:
    if is_plain_function(trust):
        return trust
    try:
        groups = None if isinstance(trust, str) else frozenset(cast("Collection[str]", trust))
    except TypeError:
        groups = None
    if groups is None or not groups <= GROUPS | {MASK_GROUP}:
        raise SettingError(
            "byline.E011",
            f"trust={trust!r} names no claim groups",
            f"pass a set of {', '.join(sorted(GROUPS | {MASK_GROUP}))}, an empty set, or a plain function of the "
            "request",
        )
    return groups


def is_plain_function(value: object) -> bool:
    """Return whether a value is callable and not a coroutine function, because a span's start cannot await."""
    return callable(value) and not iscoroutinefunction(value) and not iscoroutinefunction(type(value).__call__)


def _drop_masks(layer: ClaimSet) -> None:
    metadata = layer["metadata"]
    present = [mask for mask in MASKS if mask in metadata]
    if present:
        for mask in present:
            layer.reject(f"metadata.{mask}", "not trusted")
        layer["metadata"] = {key: value for key, value in metadata.items() if key not in MASKS}
        if not layer["metadata"]:
            del layer["metadata"]


def _bind_session(layer: ClaimSet, identified: Mapping[str, Any]) -> None:
    """Replace a claimed session by one of the identified user, or drop it."""
    if identified.get("user_id") or identified.get("organization_id"):
        layer["session_id"] = bound_session_id(
            layer["session_id"], identified.get("user_id"), identified.get("organization_id")
        )
    else:
        del layer["session_id"]
        layer.reject("session_id", "not identified")


def bound_session_id(session_id: str, user_id: str | None, organization_id: str | None = None) -> str:
    """Return the id of a user's own session, which no other user can name.

    The digest is 128 bits of the SHA-256 of organization, user and session as a JSON list, the same in every process.
    The session's own id follows if there is room.

    Example:
        >>> bound_session_id("chat-1", "ada")
        'f58954351178fd15f9954fd48d00e7dc:chat-1'
    """
    owner = json.dumps([organization_id, user_id, session_id]).encode()
    bound = f"{hashlib.sha256(owner).hexdigest()[:32]}:{session_id}"
    return bound if len(bound) <= MAX_ID else bound[:32]
