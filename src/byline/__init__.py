"""Signs every LLM span of a Python web app with who asked, in which conversation, at what cost."""

from byline import destinations, gateways
from byline.attribution import Attribution
from byline.bound import bound
from byline.instrument import flush, instrument, stats, uninstrument
from byline.request_context import bind, current
from byline.settings import SettingError

__all__ = [
    "Attribution",
    "SettingError",
    "bind",
    "bound",
    "current",
    "destinations",
    "flush",
    "gateways",
    "instrument",
    "stats",
    "uninstrument",
]
