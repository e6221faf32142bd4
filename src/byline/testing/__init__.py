"""What users need to test their own app's bylines, and what the demo runs on."""

from byline.testing.capture import assert_signed, capture_spans
from byline.testing.gateway import Gateway
from byline.testing.receiver import ReceivedSpan, Receiver

__all__ = ["Gateway", "ReceivedSpan", "Receiver", "assert_signed", "capture_spans"]
