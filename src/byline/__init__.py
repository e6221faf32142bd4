"""Adds the user, session, trace, gateway, token usage and cost to the LLM spans of Python web apps."""

from byline import destinations, gateways
from byline.attribution import Attribution
from byline.bound import bound, unbound
from byline.carry import carried, carry, extract, inject
from byline.instrument import flush, instrument, stats, trace_ids, uninstrument
from byline.request_context import bind, current
from byline.settings import SettingError

__all__ = [
    "Attribution",
    "SettingError",
    "bind",
    "bound",
    "carried",
    "carry",
    "current",
    "destinations",
    "extract",
    "flush",
    "gateways",
    "inject",
    "instrument",
    "stats",
    "trace_ids",
    "unbound",
    "uninstrument",
]
