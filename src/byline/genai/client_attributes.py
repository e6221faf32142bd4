"""What a gateway would note of the caller: address, user agent, route, request id, hash of its key."""

from __future__ import annotations

from typing import Final

from byline.attribution import is_printable
from byline.gateways.keys import find_alias, hash_key
from byline.genai import attributes as names
from byline.genai.attributes import AttributeValue
from byline.request_context import RequestContext

_MAX: Final = 200


def client_attributes(owner: RequestContext) -> dict[str, AttributeValue]:
    """Return the caller's attributes of a request; none in a job."""
    request = owner.request()
    if request is None:
        return {}
    attributes: dict[str, AttributeValue] = {}
    for name, value in request.headers():
        folded = name.lower()
        if folded == "user-agent":
            if is_printable(value):
                attributes.setdefault(names.CALLER_USER_AGENT, value[:_MAX])
        elif folded == "x-request-id":
            if 0 < len(value) <= _MAX and is_printable(value):
                attributes.setdefault(names.REQUEST_ID, value)
        elif folded in ("x-api-key", "api-key") and value:
            attributes.setdefault(names.KEY_HASH, hash_key(value))
        elif folded == "authorization" and value[:7].lower() == "bearer " and len(value) > 7:
            attributes.setdefault(names.KEY_HASH, hash_key(value[7:].strip()))
    alias = find_alias(str(attributes.get(names.KEY_HASH, "")) or None)
    if alias is not None:
        attributes[names.KEY_ALIAS] = alias
    address = request.address()
    if address:
        attributes[names.CALLER_ADDRESS] = address
    route = request.route() or request.path()
    if is_printable(route):
        attributes[names.ROUTE] = route[:_MAX]
    return attributes
