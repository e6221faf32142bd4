"""Test servers and assertions for apps that use byline; they need no account and no network.

`capture_spans`, `find_llm_span` and `assert_signed` are for unit tests. `Gateway` is a server that an LLM SDK can call,
`Receiver` a server to which spans are exported. docs/testing.md is the reference.
"""

from byline.testing.capture import assert_signed, capture_spans, find_llm_span
from byline.testing.gateway import Gateway
from byline.testing.receiver import ReceivedMedia, ReceivedSpan, Receiver
from byline.testing.server import Request

__all__ = [
    "Gateway",
    "ReceivedMedia",
    "ReceivedSpan",
    "Receiver",
    "Request",
    "assert_signed",
    "capture_spans",
    "find_llm_span",
]
