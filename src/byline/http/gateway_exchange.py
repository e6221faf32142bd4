"""A call in its gateway's dialect: ids on the way out, facts on the way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from opentelemetry.sdk.trace import Span

from byline import errors
from byline.attribution import EMPTY
from byline.call_result import CallResult
from byline.gateways.base import Gateway, GatewayRequest, GatewayResponse
from byline.gateways.keys import find_alias
from byline.request_context import RequestContext


class Injected(NamedTuple):
    """What a gateway wants to be sent.

    Attributes:
        headers: Headers besides the app's own, names in lower case.
        body: The body in the place of the app's, ``None`` where that stays.
    """

    headers: dict[str, str]
    body: bytes | None


NOTHING_INJECTED = Injected({}, None)


def inject(
    gateway: Gateway | None,
    path: str,
    headers: Mapping[str, str],
    body: bytes | None,
    members: Mapping[str, msgspec.Raw] | None = None,
    *,
    owner: RequestContext | None,
    span: Span | None,
) -> Injected:
    """Let the gateway write the request's ids; nothing where there is none or it fails."""
    if gateway is None:
        return NOTHING_INJECTED
    mine = dict(headers)
    context = None if span is None else span.get_span_context()
    outgoing = GatewayRequest(
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
        gateway.inject(outgoing)
    except Exception:
        errors.report_internal_error(f"gateway {gateway.name}")
        return NOTHING_INJECTED
    return Injected(
        {name: value for name, value in mine.items() if headers.get(name) != value},
        None if outgoing.body is body else outgoing.body,
    )


def extract(
    gateway: Gateway | None,
    facts: CallResult,
    headers: Mapping[str, str],
    decoded: Mapping[str, Any] | None,
    *,
    streamed: bool,
) -> None:
    """Let the gateway read its reply into the facts."""
    if gateway is None:
        facts.key_alias = find_alias(facts.key_hash)
        return
    if not gateway.is_provider:
        facts.gateway = gateway.name
    facts.key_alias = gateway.find_key_alias(facts.key_hash)
    try:
        gateway.extract(
            GatewayResponse(status=facts.status_code or 0, headers=headers, body=decoded, streamed=streamed),
            facts,
        )
    except Exception:
        errors.report_internal_error(f"gateway {gateway.name}")
