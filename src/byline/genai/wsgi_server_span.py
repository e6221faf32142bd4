"""The app span of a WSGI request, made by opentelemetry-instrumentation-wsgi.

That middleware wraps whatever the app returns into a generator, which hides ``wsgi.file_wrapper``
and the length of a list from the server. So it is run here around an empty answer of ours, which
keeps its span open and current for as long as the real answer lasts.
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
from byline.settings import SettingError

try:
    from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
except ImportError:  # the extra byline[wsgi] is not installed
    OpenTelemetryMiddleware = None  # type: ignore[assignment, misc]

ADVICE: Final = "pip install 'byline[wsgi]', or pass app_span=False"
_HELD: Final = "byline.start_response"


class WsgiServerSpans:
    """Makes the app spans of one middleware.

    Raises:
        SettingError: ``byline.E017`` where the extra ``byline[wsgi]`` is missing.
    """

    def __init__(self) -> None:
        if OpenTelemetryMiddleware is None:
            raise SettingError("byline.E017", "an app span needs opentelemetry-instrumentation-wsgi", ADVICE)
        self._middleware: Any = OpenTelemetryMiddleware(_answer)

    def start(self, owner: RequestContext, environ: dict[str, Any]) -> WsgiServerSpan | None:
        """Start a span and make it current in this context; ``None`` where that fails."""
        try:
            # This context is the request's own: nothing has to be restored.
            detach_ended_span()
            steps = self._middleware(environ, _ignore)
            next(steps)
        except Exception:
            errors.report_internal_error("app span")
            return None
        set_server_span(owner, trace.get_current_span())
        return WsgiServerSpan(steps, environ.pop(_HELD))


class WsgiServerSpan:
    """An open app span; every step must run in the request's own context."""

    def __init__(self, steps: Generator[bytes, None, None], start_response: Callable[..., Any]) -> None:
        self._steps = steps
        self._start_response = start_response

    def watch(self, start_response: Callable[..., Any]) -> Callable[..., Any]:
        """Return a ``start_response`` that also tells the span the status."""

        def watched(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            try:
                # OpenTelemetry wants the reason phrase that some apps leave out.
                self._start_response(status if " " in status else status + " ", headers)
            except Exception:
                errors.report_internal_error("app span")
            return start_response(status, headers, *error)

        return watched

    def end(self, error: BaseException | None = None) -> None:
        """End the span, with the error that ended the request."""
        if error is not None:
            with contextlib.suppress(BaseException):
                self._steps.throw(error)
        for _ in self._steps:
            pass


def _answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    # Two steps: the span is current from the first one until the second one is asked for.
    environ[_HELD] = start_response
    return iter((b"", b""))


def _ignore(*_: Any) -> None:
    """Stand in for the server's start_response, which the app itself calls."""
