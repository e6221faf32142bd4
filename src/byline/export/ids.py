"""Ids of traces and spans that callers name in their own way."""

from __future__ import annotations

from byline.gateways.ids import span_id_of, trace_id_of

__all__ = ["span_id_of", "trace_id_of"]
