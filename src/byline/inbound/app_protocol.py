"""Tells an app of the other kind before its first request does: both doors have one name, and are mixed up."""

from __future__ import annotations

import inspect
from types import FunctionType, MethodType
from typing import Any, Literal

from byline.settings import SettingError


def require_protocol(app: Any, door: Literal["asgi", "wsgi"]) -> None:
    """Raise `SettingError` ``byline.E018`` where an app is certainly none for this door.

    Example:
        >>> require_protocol(lambda environ, start_response: [], "wsgi")
        >>> require_protocol(lambda environ, start_response: [], "asgi")
        Traceback (most recent call last):
        byline.settings.SettingError: byline.E018: byline.asgi's middleware is around a WSGI app. To mend it, import \
AttributionMiddleware from byline.wsgi.
    """
    other = "wsgi" if door == "asgi" else "asgi"
    if is_asgi(app) if door == "wsgi" else is_wsgi(app):
        raise SettingError(
            "byline.E018",
            f"byline.{door}'s middleware is around {'an ASGI' if door == 'wsgi' else 'a WSGI'} app",
            f"import AttributionMiddleware from byline.{other}",
        )


def is_asgi(app: Any) -> bool:
    """Whether an app is certainly an ASGI one."""
    return inspect.iscoroutinefunction(_code_of(app)[0])


def is_wsgi(app: Any) -> bool:
    """Whether an app is certainly a WSGI one: it takes two arguments, and not three.

    Its signature is not asked for: that may be what a decorator says of something else, and comes with
    annotations, which may name what type checkers alone know.
    """
    function, bound = _code_of(app)
    code = getattr(function, "__code__", None)
    if code is None or inspect.iscoroutinefunction(function) or code.co_flags & inspect.CO_VARARGS:
        return False
    needs_more = code.co_kwonlyargcount > len(function.__kwdefaults__ or ())
    return bool(code.co_argcount - bound == 2 and not needs_more)


def _code_of(app: Any) -> tuple[Any, int]:
    """Return what runs when an app is called, and how many of its arguments are bound to it.

    The app itself is not asked: it may be a proxy that answers only within a request.
    """
    kind = type(app)
    if kind is FunctionType:
        return app, 0
    if kind is MethodType:
        return app.__func__, 1
    code = next((vars(each)["__call__"] for each in kind.__mro__ if "__call__" in vars(each)), None)
    return (code, 1) if type(code) is FunctionType else (None, 0)
