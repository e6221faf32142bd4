"""What a destination answers to a batch."""

from __future__ import annotations

import contextlib
import math
import time
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from byline.export.delivery import messages

#: How much of a body there is use for.
_MAX_BODY: Final = 8 * 1024
_MAX_RETRY_AFTER: Final = 3600.0


class ExportResponse(NamedTuple):
    """An answer, or why there is none."""

    status: int | None
    reason: str
    response: requests.Response | None = None

    @classmethod
    def read(cls, response: requests.Response, until: float) -> ExportResponse:
        """Read an answer, which may come by drips, or without an end, until a moment of the monotonic clock.

        Whether the end of its body arrives does not matter: what it says, the head has said.
        """
        kept = bytearray()
        try:
            # Byte by byte, for to wait for more of them would be to wait for as long as there are drips.
            for byte in response.iter_content(1):
                kept += byte
                if len(kept) >= _MAX_BODY or time.monotonic() > until:
                    response.close()
                    break
        except (requests.RequestException, OSError):
            response.close()
        response._content = bytes(kept)
        response._content_consumed = True  # type: ignore[attr-defined]
        return cls(response.status_code, str(response.reason or ""), response)

    @property
    def is_taken(self) -> bool:
        """Whether the batch was taken."""
        return self.status is not None and 200 <= self.status < 300 and not self.is_page

    @property
    def is_page(self) -> bool:
        """Whether it is a web page: a site may have one for every address."""
        return self.response is not None and messages.is_html_page(self.response)

    @property
    def rejected(self) -> int:
        """How many spans of a batch that was taken were rejected all the same."""
        if self.response is not None and "protobuf" in self._type and len(self.response.content) < _MAX_BODY:
            with contextlib.suppress(Exception):
                told = ExportTraceServiceResponse.FromString(self.response.content)
                return max(int(told.partial_success.rejected_spans), 0)
        return 0

    @property
    def retry_after(self) -> float | None:
        """How many seconds the server asks to wait."""
        value = None if self.response is None else self.response.headers.get("retry-after")
        if not value:
            return None
        try:
            seconds = float(value)
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except (TypeError, ValueError, OverflowError):
                return None
        return min(max(seconds, 0.0), _MAX_RETRY_AFTER) if math.isfinite(seconds) else None

    @property
    def _type(self) -> str:
        return "" if self.response is None else self.response.headers.get("content-type", "")

    def __str__(self) -> str:
        if self.status is None:
            return self.reason
        return f"HTTP {self.status} {self.reason}".rstrip() + (", a web page" if self.is_page else "")
