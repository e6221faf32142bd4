"""The destinations for `byline.instrument`: ``Langfuse``, ``OTLP``, and `Destination`, the base of both."""

from byline.export import OTLP, Destination, Langfuse

__all__ = ["OTLP", "Destination", "Langfuse"]
