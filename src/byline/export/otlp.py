"""Any OTLP/HTTP endpoint as a destination."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote

from byline import settings
from byline.export.decisions import Spans
from byline.export.destination import Destination
from byline.export.options import Options
from byline.settings import SettingError

if TYPE_CHECKING:
    from typing_extensions import Unpack


class OTLP(Destination):
    """Any backend or collector that takes OTLP over HTTP.

    Args:
        endpoint: Base URL, to which ``/v1/traces`` is appended unless it ends with that; by default
            ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_ENDPOINT``.
        headers: Headers of each export, e.g. credentials. If the endpoint is the environment's, the default is
            ``OTEL_EXPORTER_OTLP_HEADERS``.
        spans: ``"all"``, ``"llm"`` or a function of the finished span.
        **options: The settings of every destination: `byline.export.options.DestinationOptions`.

    Raises:
        SettingError: ``byline.E044`` if there is no endpoint, ``byline.E066`` for headers that HTTP cannot carry,
            and the errors of `Destination`.

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
        is_complete = False
        if endpoint is None:
            endpoint, is_complete = _endpoint_from_environment()
            headers = parse_headers(settings.find("otlp_headers").value) if headers is None else headers
        given: object = endpoint
        if isinstance(given, str):
            endpoint = _traces_url(given, is_complete)
        super().__init__(endpoint, headers=headers, spans=spans, **options)
        self._is_named_by_environment = self.endpoint == _traces_url(*_endpoint_from_environment(required=False))


def _traces_url(endpoint: str, is_complete: bool) -> str:
    is_complete = is_complete or endpoint.rstrip("/").endswith("/v1/traces")
    return endpoint if is_complete else endpoint.rstrip("/") + "/v1/traces"


def _endpoint_from_environment(*, required: bool = True) -> tuple[str, bool]:
    """Return the endpoint, and whether it has the path of traces already."""
    setting = settings.find("otlp_endpoint")
    if not setting.value and required:
        raise SettingError("byline.E044", "no OTLP endpoint is set", "set OTEL_EXPORTER_OTLP_ENDPOINT or pass endpoint")
    return setting.value, setting.variable == "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


def parse_headers(text: str) -> dict[str, str]:
    """Return the headers in a variable of OpenTelemetry, which separates ``key=value`` pairs by commas."""
    headers: dict[str, str] = {}
    for number, part in enumerate(text.split(","), 1):
        if not part.strip():
            continue
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            # The message does not repeat the part, which may be a key. OpenTelemetry's own parser logs it.
            raise SettingError(
                "byline.E066",
                f"part {number} of OTEL_EXPORTER_OTLP_HEADERS is no name=value",
                "write name=value, separated by commas, values percent-encoded",
            )
        headers[unquote(name).strip().lower()] = unquote(value).strip()
    return headers
