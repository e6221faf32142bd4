"""Checks of the call of a middleware, and of the protocol of its app."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, Final, Literal, TypeVar, cast

from byline.settings import SettingError

_Init = TypeVar("_Init", bound=Callable[..., None])

#: Framework whose apps are neither ASGI nor WSGI → what to do.
_NEITHER: Final = {
    "aiohttp.web": "add byline.aiohttp_web.AttributionMiddleware() to the middlewares of the app",
    "Robyn": "call byline.bound() in the handlers, as docs/frameworks.md shows",
    "tornado.web": "import AttributionMiddleware from byline.tornado",
}
#: Package → the framework that it contains.
_NEITHER_PACKAGES: Final = {"aiohttp": "aiohttp.web", "robyn": "Robyn", "tornado": "tornado.web"}


def check_call(positional: int, usage: str) -> Callable[[_Init], _Init]:
    """Decorate ``__init__`` of a middleware, so that a call in another form raises ``byline.E107`` with the usage.

    Such calls are made by frameworks that got the class instead of an instance, or an instance instead of the class.
    """

    def decorate(init: _Init) -> _Init:
        @functools.wraps(init)
        def checked(self: Any, *arguments: Any, **settings: Any) -> None:
            if len(arguments) + ("app" in settings) != positional:
                kinds = ", ".join(type(argument).__name__ for argument in arguments)
                framework = find_other_framework(arguments[0]) if arguments else None
                raise SettingError(
                    "byline.E107",
                    f"AttributionMiddleware of {type(self).__module__} takes {('no app', 'the app')[positional]}, and "
                    f"settings by name, but was called with {kinds or 'no app'}",
                    usage if framework is None or not positional else _NEITHER[framework],
                )
            init(self, *arguments, **settings)

        return cast("_Init", checked)

    return decorate


def require_protocol(app: Any, protocol: Literal["asgi", "wsgi"]) -> None:
    """Raise `SettingError` if an app certainly speaks another protocol.

    ``byline.E018`` if that is the other one of the two, ``byline.E141`` if the app is Django's chain of middlewares,
    ``byline.E161`` if it is neither ASGI nor WSGI, ``byline.E109`` if it is no app but what makes one.

    Example:
        >>> require_protocol(lambda environ, start_response: [], "wsgi")
        >>> require_protocol(lambda environ, start_response: [], "asgi")
        Traceback (most recent call last):
        byline.settings.SettingError: byline.E018: byline.asgi's middleware wraps a WSGI app. To fix this, import \
AttributionMiddleware from byline.wsgi.
    """
    # Django calls a class without async support with an adapter of asgiref.
    called = app.awaitable if type(app).__module__ == "asgiref.sync" and hasattr(app, "awaitable") else app
    code = called.__code__ if type(called) is FunctionType else None
    file = "" if code is None else code.co_filename.replace("\\", "/")
    if file.endswith("django/core/handlers/exception.py"):
        raise SettingError(
            "byline.E141",
            f"byline.{protocol}.AttributionMiddleware is in Django's settings.MIDDLEWARE",
            'put "byline.django.AttributionMiddleware" there, as its first entry',
        )
    framework = find_other_framework(app)
    if framework is not None:
        raise SettingError(
            "byline.E161",
            f"byline.{protocol}'s middleware wraps an app of {framework}, which is neither ASGI nor WSGI",
            _NEITHER[framework],
        )
    not_app = _describe_other_than_app(app)
    if not_app is not None:
        raise SettingError(
            "byline.E109",
            f"byline.{protocol}'s middleware wraps {not_app[0]}, which is no app",
            not_app[1],
        )
    other = "wsgi" if protocol == "asgi" else "asgi"
    if is_asgi_app(app) if protocol == "wsgi" else is_wsgi_app(app):
        raise SettingError(
            "byline.E018",
            f"byline.{protocol}'s middleware wraps {'an ASGI' if protocol == 'wsgi' else 'a WSGI'} app",
            f"import AttributionMiddleware from byline.{other}",
        )


def require_no_loop(middleware: Any, app: Any) -> None:
    """Raise ``byline.E108`` if an app of Flask, Quart or Bottle calls the middleware that calls the app."""
    members = vars(app) if hasattr(app, "__dict__") else {}
    code = getattr(getattr(type(app), "__call__", None), "__code__", None)  # noqa: B004 - of the class
    called = () if code is None else code.co_names
    for name in ("wsgi_app", "asgi_app", "wsgi"):
        if members.get(name) is middleware and name in called:
            raise SettingError(
                "byline.E108",
                f"app.{name} = AttributionMiddleware(app) makes a loop: each of the two calls the other",
                f"write app.{name} = AttributionMiddleware(app.{name})",
            )


def _describe_other_than_app(app: Any) -> tuple[str, str] | None:
    """Return what is certainly no app, and the advice; ``None`` for all that can be called as an app."""
    if not callable(app):
        if app is None:
            return "None", "return the app from the function that makes it"
        return f"an object of {type(app).__name__}", "pass the app itself"
    if isinstance(app, type):
        members = {name for each in app.__mro__ for name in vars(each)}
        # An instance of a class with these two is a response, made by a call of the class.
        if "__call__" in members and not members & {"__await__", "__iter__"}:
            return f"the class {app.__name__}", f"pass an app: {app.__name__}()"
    elif type(app) is FunctionType:
        code = app.__code__
        if code.co_argcount < 2 and not code.co_flags & inspect.CO_VARARGS:
            return f"the function {app.__name__} without parameters for a request", f"pass its result: {app.__name__}()"
    return None


def find_other_framework(app: Any) -> str | None:
    """Return the framework of an app that is neither ASGI nor WSGI, ``None`` for any other app."""
    packages = (kind.__module__.partition(".")[0] for kind in type(app).__mro__)
    return next((_NEITHER_PACKAGES[name] for name in packages if name in _NEITHER_PACKAGES), None)


def is_asgi_app(app: Any) -> bool:
    """Return whether an app is certainly an ASGI app: calling it makes a coroutine."""
    return inspect.iscoroutinefunction(_called_function(app)[0])


def is_wsgi_app(app: Any) -> bool:
    """Return whether an app takes two arguments and not three.

    The code object is inspected instead of the signature: a decorator may replace the signature, and
    evaluating annotations may fail on names that exist for type checkers only.
    """
    function, bound = _called_function(app)
    code = getattr(function, "__code__", None)
    if code is None or inspect.iscoroutinefunction(function) or code.co_flags & inspect.CO_VARARGS:
        return False
    needs_more = code.co_kwonlyargcount > len(function.__kwdefaults__ or ())
    return bool(code.co_argcount - bound == 2 and not needs_more)


def _called_function(app: Any) -> tuple[Any, int]:
    """Return the function that runs when an app is called, and the number of bound arguments.

    Attributes of the app itself are not read, because a proxy may raise outside a request.
    """
    kind = type(app)
    if kind is FunctionType:
        return app, 0
    if kind is MethodType:
        return app.__func__, 1
    code = next((vars(each)["__call__"] for each in kind.__mro__ if "__call__" in vars(each)), None)
    return (code, 1) if type(code) is FunctionType else (None, 0)
