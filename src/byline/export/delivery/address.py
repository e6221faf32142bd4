"""Where a destination's batches are posted, and what posts them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SpanExporter

from byline.export.delivery.http_session import OTLPHttpSession
from byline.export.delivery.outlet import Outlet
from byline.export.delivery.spool import Spool
from byline.export.delivery.spool_exporter import SpoolExporter

#: Logs what it cannot read of the headers in the environment, keys and all.
_READER: Final = logging.getLogger("opentelemetry.util.re")


class DestinationAddress(NamedTuple):
    """A destination's address.

    Attributes:
        label: The destination's name in counters and messages.
        endpoint: Full URL.
        headers: Headers of each post.
    """

    label: str
    endpoint: str
    headers: Mapping[str, str]

    def patient(self) -> OTLPHttpSession:
        """Make a line that tries each batch for a while."""
        return OTLPHttpSession(self.label, headers=self.headers)

    def quick(self) -> OTLPHttpSession:
        """Make a line that tries each batch once."""
        return OTLPHttpSession(self.label, patience=0, headers=self.headers)

    def exporter(self, line: OTLPHttpSession) -> SpanExporter:
        """Make an exporter that posts by a line."""
        # The headers are the line's. Those of the environment are read all the same, also where they are for nobody.
        _READER.addFilter(_nothing)
        try:
            return OTLPSpanExporter(endpoint=self.endpoint, compression=Compression.Gzip, session=line)
        finally:
            _READER.removeFilter(_nothing)

    def outlet(self) -> Outlet:
        """Make an outlet that posts at once."""
        line = self.patient()
        return Outlet(self.exporter(line), line)

    def spooling(self, folder: Path, max_bytes: int) -> Outlet:
        """Make an outlet that posts by way of a spool."""
        spare = self.quick()
        return SpoolExporter(
            self.label,
            self.exporter(spare),
            spare,
            line=self.quick(),
            spool=Spool(folder, name=self.label, max_bytes=max_bytes),
            endpoint=self.endpoint,
        )


def _nothing(_: logging.LogRecord) -> bool:
    return False
