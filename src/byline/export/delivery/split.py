"""Halves a batch that its destination refuses: it may be too large, or one of its spans may displease."""

from __future__ import annotations

import gzip
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

#: How often in a row a batch is halved without any half being taken: a destination may refuse everything.
MAX_REFUSALS: Final = 12


def split_batch(packed: bytes) -> list[tuple[bytes, int]]:
    """Return the two halves of a gzipped batch, each with its number of spans; fewer where there is one span.

    Raises:
        google.protobuf.message.DecodeError: Where it is no batch.
    """
    whole = ExportTraceServiceRequest.FromString(gzip.decompress(packed))
    count = sum(len(scope.spans) for resource in whole.resource_spans for scope in resource.scope_spans)
    if count < 2:
        return []
    return [_part(whole, 0, count // 2), _part(whole, count // 2, count)]


def _part(whole: ExportTraceServiceRequest, first: int, last: int) -> tuple[bytes, int]:
    part = ExportTraceServiceRequest()
    at = 0
    for resource in whole.resource_spans:
        of_resource = None
        for scope in resource.scope_spans:
            wanted = scope.spans[max(first - at, 0) : max(last - at, 0)]
            at += len(scope.spans)
            if not wanted:
                continue
            if of_resource is None:
                of_resource = part.resource_spans.add(resource=resource.resource, schema_url=resource.schema_url)
            of_resource.scope_spans.add(scope=scope.scope, spans=wanted, schema_url=scope.schema_url)
    return part.SerializeToString(), last - first
