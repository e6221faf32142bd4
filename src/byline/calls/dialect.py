"""A call in its gateway's dialect: ids on the way out, facts on the way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from opentelemetry.sdk.trace import Span

from byline import guard
from byline.attribution import EMPTY
from byline.facts import Facts
from byline.gateways.gateway import Gateway, Outgoing, Reply
from byline.gateways.keys import alias_of
from byline.record import Record


class Written(NamedTuple):
    """What a gateway wants to be sent.

    Attributes:
        headers: Headers besides the app's own, names in lower case.
        body: The body in the place of the app's, ``None`` where that stays.
    """

    headers: dict[str, str]
    body: bytes | None


NOTHING = Written({}, None)


def write(
    gateway: Gateway | None,
    path: str,
    headers: Mapping[str, str],
    body: bytes | None,
    members: Mapping[str, msgspec.Raw] | None = None,
    *,
    owner: Record | None,
    span: Span | None,
) -> Written:
    """Let the gateway write the request's ids; nothing where there is none or it fails."""
    if gateway is None:
        return NOTHING
    mine = dict(headers)
    context = None if span is None else span.get_span_context()
    outgoing = Outgoing(
        attribution=EMPTY if owner is None else owner.attribution(),
        headers=mine,
        body=body,
        members=members,
        path=path,
        trace_id=None if context is None else f"{context.trace_id:032x}",
        span_id=None if context is None else f"{context.span_id:016x}",
        sampled=context is not None and context.trace_flags.sampled,
    )
    try:
        gateway.write(outgoing)
    except Exception:
        guard.report(f"gateway {gateway.name}")
        return NOTHING
    return Written(
        {name: value for name, value in mine.items() if headers.get(name) != value},
        None if outgoing.body is body else outgoing.body,
    )


def read(
    gateway: Gateway | None,
    facts: Facts,
    headers: Mapping[str, str],
    decoded: Mapping[str, Any] | None,
    *,
    streamed: bool,
) -> None:
    """Let the gateway read its reply into the facts."""
    if gateway is None:
        facts.key_alias = alias_of(facts.key_hash)
        return
    if not gateway.is_provider:
        facts.gateway = gateway.name
    facts.key_alias = gateway.alias_of(facts.key_hash)
    try:
        gateway.read(
            Reply(status=facts.status_code or 0, headers=headers, body=decoded, streamed=streamed),
            facts,
        )
    except Exception:
        guard.report(f"gateway {gateway.name}")
