"""Any OTLP/HTTP endpoint as a destination."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote

from byline import settings
from byline.export.destination import Destination
from byline.export.options import Options, Spans
from byline.settings import SettingError

if TYPE_CHECKING:
    from typing_extensions import Unpack


class OTLP(Destination):
    """Any backend or collector that takes OTLP over HTTP.

    Args:
        endpoint: Base URL, to which ``/v1/traces`` is appended unless it is there; by default that of
            ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_ENDPOINT``.
        headers: Headers of each export, e.g. credentials; where the endpoint is the environment's, by
            default those of ``OTEL_EXPORTER_OTLP_HEADERS``.
        spans: ``"all"``, ``"llm"`` or a function of the finished span.
        **options: As every destination takes them, see `Destination`: ``traces``, ``unsampled``,
            ``sampling``, ``keep_errors``, ``privacy``, ``mask``, filters, ``conventions``, ``spool``,
            ``label``, ``allow_http``.

    Raises:
        SettingError: ``byline.E044`` where there is no endpoint, ``byline.E066`` for headers that HTTP
            cannot carry, and whatever `Destination` raises.

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
        given: object = endpoint
        if isinstance(given, str) and not whole and not given.rstrip("/").endswith("/v1/traces"):
            endpoint = endpoint.rstrip("/") + "/v1/traces"
        super().__init__(endpoint, headers=headers, spans=spans, **options)


def _endpoint() -> tuple[str, bool]:
    found = settings.find("otlp_endpoint")
    if not found.value:
        raise SettingError("byline.E044", "no OTLP endpoint is set", "set OTEL_EXPORTER_OTLP_ENDPOINT or pass endpoint")
    return found.value, found.variable == "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


def parse_headers(text: str) -> dict[str, str]:
    """Read ``key=value`` pairs as OpenTelemetry writes headers in its variables."""
    found: dict[str, str] = {}
    for number, part in enumerate(text.split(","), 1):
        if not part.strip():
            continue
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            # OpenTelemetry's own parser would log the part, which may be a key.
            raise SettingError(
                "byline.E066",
                f"part {number} of OTEL_EXPORTER_OTLP_HEADERS is no name=value",
                "write name=value, separated by commas, values percent-encoded",
            )
        found[unquote(name).strip().lower()] = unquote(value).strip()
    return found
