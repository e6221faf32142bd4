"""The destinations for `byline.instrument`: ``Langfuse`` and ``OTLP``, and what both take, `Destination`."""

from byline.export import OTLP, Destination, Langfuse

__all__ = ["OTLP", "Destination", "Langfuse"]
