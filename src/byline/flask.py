"""Flask's extension: `Byline` wraps the app and takes the logged-in user as the user of the request.

Example:
    >>> from flask import Flask
    >>> app = Flask("example")
    >>> byline = Byline(app)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final

from flask import Flask, Response, current_app, g, has_request_context, request

from byline import errors
from byline.attribution import Attribution
from byline.settings import SettingError
from byline.wsgi import AttributionMiddleware

__all__ = ["Byline", "logged_in_user"]

_USER_KEY: Final = "byline.flask_user"

Identity = Callable[[], Mapping[str, Any] | Attribution | None]


def logged_in_user() -> dict[str, Any] | None:
    """Return the user that Flask-Login found, ``None`` for an anonymous one or without Flask-Login."""
    manager = getattr(current_app, "login_manager", None)
    if manager is None:
        return None
    if "_login_user" not in g:
        manager._load_user()
    user = g.get("_login_user")
    return {"user_id": user.get_id()} if user is not None and user.is_authenticated else None


class Byline:
    """Attributes the LLM spans of a Flask app.

    Args:
        app: The app; without one, call `init_app` later.
        identity: Function that returns the authenticated values within a request, by default the user of Flask-Login.
            Asked before the stream of a response begins, because Flask's ``g`` and ``session`` are gone then.
        **settings: Further arguments of `byline.wsgi.AttributionMiddleware`.

    Example:
        >>> from flask import Flask, g
        >>> app = Flask("example")
        >>> extension = Byline(app, identity=lambda: {"user_id": g.get("user_id")}, trust={"session"})
    """

    def __init__(self, app: Flask | None = None, *, identity: Identity = logged_in_user, **settings: Any) -> None:
        self._identity = identity
        self._settings = settings
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Wrap an app.

        Raises:
            SettingError: ``byline.E109`` for an app of another kind, and as for `byline.wsgi.AttributionMiddleware`.
        """
        if not isinstance(app, Flask):
            raise SettingError(
                "byline.E109",
                f"byline.flask's extension got {type(app).__name__}, which is no app of Flask",
                "write Byline(app), with the app itself and not app.wsgi_app",
            )
        has_identity = self._identity is not logged_in_user or hasattr(app, "login_manager")
        identity = self._identify if has_identity else None
        app.wsgi_app = AttributionMiddleware(app.wsgi_app, identity=identity, **self._settings)  # type: ignore[method-assign]
        if has_identity:
            app.after_request(self._remember)

    def _identify(self, environ: MutableMapping[str, Any]) -> Mapping[str, Any] | Attribution | None:
        if _USER_KEY in environ:
            remembered: Mapping[str, Any] | Attribution | None = environ[_USER_KEY]
            return remembered
        # A generator runs without Flask's context.
        return self._identity() if has_request_context() else None

    def _remember(self, response: Response) -> Response:
        if response.is_streamed:
            try:
                request.environ[_USER_KEY] = self._identity()
            except Exception:
                errors.report_internal_error("identity")
        return response
