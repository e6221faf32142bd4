"""The middleware without a line of code: servers get the app with `AttributionMiddleware` around it.

`byline run` and ``opentelemetry-instrument`` install these hooks. They wrap the app where a server receives it, so that
every framework works. An app that has the middleware already is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from byline import asgi, errors, settings, wsgi
from byline.genai.server_span import walk_apps
from byline.inbound.app_protocol import is_asgi_app
from byline.patching import Patches
from byline.settings import SettingError

Protocol = Literal["asgi", "wsgi"]
Middleware = asgi.AttributionMiddleware | wsgi.AttributionMiddleware

_patches: Final = Patches(
    "byline.E138: %s serves the app without byline's middleware, because this version cannot be hooked (%s); add "
    "AttributionMiddleware in code"
)
#: What the middleware does if a setting of it is wrong: nothing that the right value might forbid.
_SAFE: Final[Mapping[str, Mapping[str, Any]]] = {
    "fields": {"fields": {}},
    "identity": {"identity": lambda _: None, "trust": ()},
    "trust": {"trust": ()},
    "public": {"public": True},
    "body_limit": {"body_limit": 0},
    "app_span": {"app_span": "auto"},
    "after_response": {"after_response": 0.0},
    "respond": {"respond": ()},
}


def wrap(app: Any, protocol: Protocol | None = None) -> Any:
    """Return the app with the middleware around it; the app itself if it has the middleware, and if byline fails.

    Args:
        app: An ASGI or WSGI app.
        protocol: Its protocol, found out if not given.
    """
    try:
        if app is None or has_middleware(app) or hasattr(app, "__rsgi__"):
            return app
        if protocol is None:
            protocol = "asgi" if is_asgi_app(app) else "wsgi"
        kind: type[Middleware] = asgi.AttributionMiddleware if protocol == "asgi" else wsgi.AttributionMiddleware
        return _make(kind, app)
    except SettingError as error:
        errors.error_once("auto middleware", "%s The app is served without byline's middleware", error)
    except Exception:
        errors.report_internal_error("auto middleware")
    return app


def _make(kind: type[Middleware], app: Any) -> Middleware:
    """Return the middleware; a wrong setting is reported and switches off what it names, and nothing else."""
    safe: dict[str, Any] = {}
    try:
        settings.config_file.check()
    except SettingError as error:
        errors.error_once(str(error), "%s", error)
        safe = {key: value for values in _SAFE.values() for key, value in values.items()}
    for name, values in () if safe else _SAFE.items():
        others = {key: value for other in _SAFE if other != name for key, value in _SAFE[other].items()}
        try:
            kind(app, **{key: value for key, value in others.items() if key != name})
        except SettingError as error:
            errors.error_once(f"setting {name}", "%s", error)
            safe.update(values)
    middleware = kind(app, **safe)
    middleware.mark_automatic()
    return middleware


def has_middleware(app: Any) -> bool:
    """Return whether an app has byline's middleware around it, or, as far as can be seen, within it."""
    ours = (asgi.AttributionMiddleware, wsgi.AttributionMiddleware)
    for inner in walk_apps(app):
        if isinstance(inner, ours):
            return True
        added = getattr(inner, "user_middleware", None)
        if isinstance(added, list) and any(getattr(each, "cls", None) in ours for each in added):
            return True
    return False


# The servers


def _patch_argument(owner: Any, name: str, position: int, keyword: str, protocol: Protocol | None = None) -> None:
    """Wrap a function that takes the app as an argument."""

    def make_wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if keyword in kwargs:
                kwargs[keyword] = wrap(kwargs[keyword], protocol)
            elif len(args) > position:
                args = (*args[:position], wrap(args[position], protocol), *args[position + 1 :])
            return original(*args, **kwargs)

        return call

    _patches.wrap_method(owner, name, make_wrapper)


def _patch_result(owner: Any, name: str, protocol: Protocol | None = None) -> None:
    """Wrap a function that returns the app."""

    def make_wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return wrap(original(*args, **kwargs), protocol)

        return call

    _patches.wrap_method(owner, name, make_wrapper)


def _patch_uvicorn(_: Patches, module: Any) -> None:
    def make_wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        def load(self: Any) -> None:
            original(self)
            # uvicorn has adapted apps of other protocols to ASGI.
            self.loaded_app = wrap(self.loaded_app, "asgi")

        return load

    _patches.wrap_method(module.Config, "load", make_wrapper)


def _patch_gunicorn(_: Patches, module: Any) -> None:
    def make_wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        def load_app(self: Any) -> Any:
            self.callable = wrap(original(self))
            return self.callable

        return load_app

    _patches.wrap_method(module.BaseApplication, "wsgi", make_wrapper)


def _patch_wsgiref(_: Patches, module: Any) -> None:
    def make_wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        def set_app(self: Any, application: Any) -> None:
            # The endpoint of Prometheus's client is not the app.
            is_app = not str(getattr(application, "__module__", "")).startswith("prometheus_client")
            original(self, wrap(application, "wsgi") if is_app else application)

        return set_app

    _patches.wrap_method(module.WSGIServer, "set_app", make_wrapper)


#: Server → the module to patch, and the patching function.
SERVERS: Final[Mapping[str, tuple[str, Callable[[Patches, Any], None]]]] = {
    "uvicorn": ("uvicorn.config", _patch_uvicorn),
    "hypercorn": ("hypercorn.utils", lambda _, module: _patch_argument(module, "wrap_app", 0, "app")),
    "daphne": ("daphne.server", lambda _, module: _patch_argument(module.Server, "__init__", 1, "application", "asgi")),
    "granian": ("granian._internal", lambda _, module: _patch_result(module, "load_target")),
    "gunicorn": ("gunicorn.app.base", _patch_gunicorn),
    "waitress": (
        "waitress.server",
        lambda _, module: _patch_argument(module, "create_server", 0, "application", "wsgi"),
    ),
    # Flask's and Django's development servers, and those of Bottle and Pyramid.
    "werkzeug": ("werkzeug.serving", lambda _, module: _patch_argument(module, "make_server", 2, "app", "wsgi")),
    "wsgiref": ("wsgiref.simple_server", _patch_wsgiref),
    "mangum": ("mangum.adapter", lambda _, module: _patch_argument(module.Mangum, "__init__", 1, "app", "asgi")),
}


def install() -> None:
    """Hook the servers, now or when they are imported, unless ``BYLINE_MIDDLEWARE`` is false."""
    try:
        if not settings.find("middleware").value:
            return
    except SettingError as error:
        errors.error_once("setting middleware", "%s", error)
    for name, (module, patch) in SERVERS.items():
        _patches.patch_when_imported(name, module, patch)


def uninstall() -> None:
    """Unhook the servers. Apps that are being served keep the middleware."""
    _patches.unwrap_all()
