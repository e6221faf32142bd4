"""The destinations for `byline.instrument`: ``Langfuse`` and ``OTLP``."""

from byline.export import OTLP, Langfuse

__all__ = ["OTLP", "Langfuse"]
