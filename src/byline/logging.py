"""Session, user, trace and span on log records: a filter for `logging` and a processor for structlog.

Example:
    >>> import logging.config
    >>> logging.config.dictConfig({
    ...     "version": 1,
    ...     "disable_existing_loggers": False,
    ...     "filters": {"byline": {"()": "byline.logging.AttributionFilter"}},
    ...     "formatters": {"plain": {"format": "%(levelname)s %(session_id)s %(trace_id)s %(message)s"}},
    ...     "handlers": {"app": {"class": "logging.NullHandler", "filters": ["byline"], "formatter": "plain"}},
    ...     "loggers": {"app": {"handlers": ["app"], "level": "INFO"}},
    ... })
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from opentelemetry import trace

from byline import errors, request_context

__all__ = ["AttributionFilter", "add_attribution"]


def _fields() -> dict[str, str]:
    """Return the values of the current request and span, empty texts for those that are unknown."""
    fields = {"session_id": "", "user_id": "", "trace_id": "", "span_id": ""}
    try:
        attribution = request_context.current()
        fields["session_id"] = attribution.session_id or ""
        fields["user_id"] = attribution.user_id or ""
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            fields["trace_id"] = f"{span.trace_id:032x}"
            fields["span_id"] = f"{span.span_id:016x}"
    except Exception:
        errors.report_internal_error("logging")
    return fields


class AttributionFilter(logging.Filter):
    """Sets ``session_id``, ``user_id``, ``trace_id`` and ``span_id`` on each log record, empty if unknown.

    Add the filter to handlers: a filter of a logger does not see the records of other loggers. ``trace_id`` and
    ``span_id`` are those of the current span in the app's own traces, as OpenTelemetry writes them. Values that the
    app itself has set on a record stay.

    Example:
        >>> import byline, logging
        >>> record = logging.makeLogRecord({"msg": "Hello"})
        >>> with byline.bound(session_id="s-1"):
        ...     AttributionFilter().filter(record)
        True
        >>> record.session_id
        's-1'
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Set the attributes; every record passes."""
        for name, value in _fields().items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True


def add_attribution(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ARG001
    """Add the same values to an event of structlog, without those that are unknown: a processor.

    Example:
        >>> import byline
        >>> with byline.bound(session_id="s-1"):
        ...     add_attribution(None, "info", {"event": "Hello"})
        {'event': 'Hello', 'session_id': 's-1'}
    """
    for field, value in _fields().items():
        if value:
            event.setdefault(field, value)
    return event
