"""Adds the request's ids to calls of a gateway, and reads the gateway's values from the response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from opentelemetry.sdk.trace import Span

from byline import errors
from byline.attribution import EMPTY, MASKS, Attribution
from byline.call_result import CallResult
from byline.gateways.base import Gateway, GatewayRequest, GatewayResponse
from byline.gateways.keys import key_settings
from byline.request_context import RequestContext


class Injected(NamedTuple):
    """The changes of a gateway to one request.

    Attributes:
        headers: Headers to add or replace, names in lower case.
        body: The new body; ``None`` if the body does not change.
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
    context: RequestContext | None,
    span: Span | None,
) -> Injected:
    """Return the gateway's changes to a request; none without a gateway, or if the gateway fails."""
    if gateway is None:
        return NOTHING_INJECTED
    all_headers = dict(headers)
    span_context = None if span is None else span.get_span_context()
    outgoing = GatewayRequest(
        attribution=EMPTY if context is None else _sendable(gateway, context),
        headers=all_headers,
        body=body,
        members=members,
        path=path,
        trace_id=None if span_context is None else f"{span_context.trace_id:032x}",
        span_id=None if span_context is None else f"{span_context.span_id:016x}",
        sampled=span_context is not None and span_context.trace_flags.sampled,
    )
    try:
        gateway.inject(outgoing)
    except Exception:
        errors.report_internal_error(f"gateway {gateway.name}")
        return NOTHING_INJECTED
    return Injected(
        {name: value for name, value in all_headers.items() if headers.get(name) != value},
        None if outgoing.body is body else outgoing.body,
    )


def _sendable(gateway: Gateway, context: RequestContext) -> Attribution:
    """Return the attribution without the claims that the gateway must not get."""
    attribution = context.attribution()
    withheld = gateway.withheld_claims(public=context.has_public_origin)
    if not any(getattr(attribution, field) for field in withheld):
        return attribution
    vouched = context.vouched()
    kept = {field: getattr(vouched, field) for field in withheld}
    if "metadata" in kept:
        # Requests for masking have been accepted by name.
        masks = {key: value for key, value in attribution.metadata.items() if key in MASKS}
        kept["metadata"] = {**masks, **vouched.metadata}
    return msgspec.structs.replace(attribution, **kept)


def name_provider(gateway: Gateway | None, result: CallResult) -> None:
    """Name the gateway as the provider of a call whose host is no known provider, in place of the host."""
    if gateway is not None and result.provider == result.server_address:
        result.provider = gateway.name


def extract(
    gateway: Gateway | None,
    result: CallResult,
    headers: Mapping[str, str],
    decoded: Mapping[str, Any] | None,
    *,
    streamed: bool,
) -> None:
    """Set the values that the gateway reads from its response on the result."""
    if gateway is None:
        result.key_alias = _alias_of(result)
        return
    if not gateway.is_provider:
        result.gateway = gateway.name
    result.key_alias = gateway.find_key_alias(result.key_hash) or _alias_of(result)
    try:
        gateway.extract(
            GatewayResponse(status=result.status_code or 0, headers=headers, body=decoded, streamed=streamed),
            result,
        )
    except Exception:
        errors.report_internal_error(f"gateway {gateway.name}")


def _alias_of(result: CallResult) -> str | None:
    """Return the name of the key by its SHA-256, or by the hash that spans have."""
    if result.key_hash is None:
        return None
    return key_settings.describe_key(result.key_hash, guessable=result.key_is_guessable)[1]
