"""The server span of a WSGI request, created by opentelemetry-instrumentation-wsgi.

That middleware wraps the app's response in a generator, which hides ``wsgi.file_wrapper`` and the length of a
list from the server. So the middleware runs around an empty response instead, which keeps the span open and
current until the app's response ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable
from typing import Any, Final

from opentelemetry import trace

from byline import errors
from byline.genai.server_span import detach_ended_span
from byline.genai.span_state import set_server_span
from byline.request_context import RequestContext
from byline.settings import SettingError, install_command

try:
    from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
except ImportError:  # the extra byline[wsgi] is not installed
    OpenTelemetryMiddleware = None  # type: ignore[assignment, misc]

_START_RESPONSE: Final = "byline.start_response"


class WsgiServerSpans:
    """Creates the server spans of one middleware.

    Raises:
        SettingError: ``byline.E017`` if the extra ``byline[wsgi]`` is not installed.
    """

    def __init__(self) -> None:
        if OpenTelemetryMiddleware is None:
            advice = f"run: {install_command('wsgi')}, or pass app_span=False"
            raise SettingError("byline.E017", "a server span needs opentelemetry-instrumentation-wsgi", advice)
        self._middleware: Any = OpenTelemetryMiddleware(_empty_app)

    def start(self, context: RequestContext, environ: dict[str, Any]) -> WsgiServerSpan | None:
        """Start a span and make it current in this context; ``None`` if that fails."""
        try:
            # This ``contextvars`` context belongs to the request alone: nothing has to be restored.
            detach_ended_span()
            steps = self._middleware(environ, _start_nothing)
            next(steps)
        except Exception:
            errors.report_internal_error("server span")
            return None
        set_server_span(context, trace.get_current_span())
        return WsgiServerSpan(steps, environ.pop(_START_RESPONSE))


class WsgiServerSpan:
    """An open server span; all methods must run in the ``contextvars`` context of the request."""

    def __init__(self, steps: Generator[bytes, None, None], start_response: Callable[..., Any]) -> None:
        self._steps = steps
        self._start_response = start_response

    def wrap_start_response(self, start_response: Callable[..., Any]) -> Callable[..., Any]:
        """Return a ``start_response`` that also sets the status on the span."""

        def start_and_record(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            try:
                # OpenTelemetry requires the space before the reason phrase, which some apps omit.
                self._start_response(status if " " in status else status + " ", headers)
            except Exception:
                errors.report_internal_error("server span")
            return start_response(status, headers, *error)

        return start_and_record

    def end(self, error: BaseException | None = None) -> None:
        """End the span, with the error that ended the request."""
        if error is not None:
            with contextlib.suppress(BaseException):
                self._steps.throw(error)
        for _ in self._steps:
            pass


def _empty_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    # Two chunks: the span is current from the first chunk until the second one is requested.
    environ[_START_RESPONSE] = start_response
    return iter((b"", b""))


def _start_nothing(*_: Any) -> None:
    """Replace the server's ``start_response``, which the app itself calls."""
