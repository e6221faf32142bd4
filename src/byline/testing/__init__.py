"""What you need to test your own app's bylines; no account, no network.

`capture_spans` and `assert_signed` for unit tests, `Gateway` and `Receiver` for tests of the whole:
a gateway for your SDK to call, and a backend for your spans to arrive at.
"""

from byline.testing.capture import assert_signed, capture_spans
from byline.testing.gateway import Gateway
from byline.testing.otlp import ReceivedSpan
from byline.testing.receiver import Receiver
from byline.testing.server import Request

__all__ = ["Gateway", "ReceivedSpan", "Receiver", "Request", "assert_signed", "capture_spans"]
