"""Any OTLP/HTTP endpoint as a destination."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from byline import settings
from byline.export.destination import Destination
from byline.export.options import Options, Spans
from byline.settings import SettingError

if TYPE_CHECKING:
    from typing_extensions import Unpack


class OTLP(Destination):
    """Any backend or collector that takes OTLP over HTTP.

    Args:
        endpoint: Base URL, to which ``/v1/traces`` is appended unless it is there.
        headers: Headers of each export, e.g. credentials.
        spans: ``"all"``, ``"llm"`` or a function of the finished span.
        **options: As every destination takes them, see `Destination`: ``traces``, ``unsampled``,
            ``sampling``, ``keep_errors``, ``privacy``, ``mask``, filters, ``allow_http``.

    Example:
        >>> OTLP("http://127.0.0.1:4318").endpoint
        'http://127.0.0.1:4318/v1/traces'
    """

    name = "OTLP"

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        spans: Spans = "all",
        **options: Unpack[Options],
    ) -> None:
        if endpoint is None:
            endpoint, whole = _endpoint()
            headers = parse_headers(settings.find("otlp_headers").value) if headers is None else headers
        else:
            whole = False
        if not whole and not endpoint.rstrip("/").endswith("/v1/traces"):
            endpoint = endpoint.rstrip("/") + "/v1/traces"
        super().__init__(endpoint, headers=headers, spans=spans, **options)


def _endpoint() -> tuple[str, bool]:
    found = settings.find("otlp_endpoint")
    if not found.value:
        raise SettingError("byline.E044", "no OTLP endpoint is set", "set OTEL_EXPORTER_OTLP_ENDPOINT or pass endpoint")
    return found.value, found.variable == "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


def parse_headers(text: str) -> dict[str, str]:
    """Read ``key=value`` pairs as OpenTelemetry writes headers in its variables."""
    from opentelemetry.util.re import parse_env_headers

    return dict(parse_env_headers(text, liberal=True))
