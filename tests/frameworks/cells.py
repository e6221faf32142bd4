"""The frameworks and servers of the matrix, and the page about them."""

from __future__ import annotations

from typing import Final, NamedTuple

APP: Final = "tests.frameworks.apps:app"
UVICORN: Final = ("-m", "uvicorn", APP, "--host", "127.0.0.1", "--port", "{port}", "--log-level", "warning")
WAITRESS: Final = ("-m", "waitress", "--host=127.0.0.1", "--port={port}", "--threads=16", APP)


class Row(NamedTuple):
    """A framework under a server.

    Attributes:
        title: As the page calls it.
        packages: What is installed beside byline and httpx2.
        app: The function in `apps`.
        command: The arguments of Python that start the server.
    """

    title: str
    packages: tuple[str, ...]
    app: str
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the test and of the environment."""
        return "web-" + self.title.lower().replace(" ", "-").replace(",", "")


def _asgi(title: str, app: str, *packages: str) -> Row:
    return Row(title, (*packages, "uvicorn>=0.30", "httpx2>=2.0"), app, UVICORN)


def _wsgi(title: str, app: str, *packages: str) -> Row:
    return Row(
        title, (*packages, "waitress>=3.0", "httpx2>=2.0", "opentelemetry-instrumentation-wsgi>=0.61b0"), app, WAITRESS
    )


FRAMEWORKS: Final = (
    _asgi("Starlette", "starlette"),
    _asgi("FastAPI", "fastapi", "fastapi>=0.115"),
    _asgi("Litestar", "litestar", "litestar>=2.13"),
    _asgi("Quart", "quart", "quart>=0.20"),
    _asgi("BlackSheep", "blacksheep", "blacksheep>=2.0"),
    _asgi("Falcon, ASGI", "falcon_asgi", "falcon>=4.0"),
    _asgi("Django, ASGI", "django_asgi", "django>=5.0"),
    _asgi("Django Ninja", "django_ninja", "django-ninja>=1.3"),
    _wsgi("Django, WSGI", "django_wsgi", "django>=5.0"),
    _wsgi("Django REST framework", "django_rest_framework", "djangorestframework>=3.15"),
    _wsgi("Flask", "flask", "flask>=3.0"),
    _wsgi("Falcon, WSGI", "falcon_wsgi", "falcon>=4.0"),
    _wsgi("Bottle", "bottle", "bottle>=0.13"),
    _wsgi("Pyramid", "pyramid", "pyramid>=2.0", "setuptools<81"),
)
_HTTPX: Final = "httpx2>=2.0"
_FLASK: Final = ("flask>=3.0", _HTTPX, "opentelemetry-instrumentation-wsgi>=0.61b0")
_GUNICORN: Final = ("-m", "gunicorn", APP, "--bind", "127.0.0.1:{port}", "--log-level", "warning")
SERVERS: Final = (
    Row(
        "hypercorn",
        ("hypercorn>=0.17", _HTTPX),
        "starlette",
        ("-m", "hypercorn", APP, "--bind", "127.0.0.1:{port}"),
    ),
    Row(
        "granian",
        ("granian>=2.0", _HTTPX),
        "starlette",
        ("-m", "granian", APP, "--interface", "asgi", "--host", "127.0.0.1", "--port", "{port}"),
    ),
    Row("daphne", ("daphne>=4.1", _HTTPX), "starlette", ("-m", "daphne", APP, "-b", "127.0.0.1", "-p", "{port}")),
    Row(
        "gunicorn with uvicorn",
        ("gunicorn>=23.0", "uvicorn-worker>=0.3", _HTTPX),
        "starlette",
        (*_GUNICORN, "-k", "uvicorn_worker.UvicornWorker"),
    ),
    Row("gunicorn, sync", ("gunicorn>=23.0", *_FLASK), "flask", (*_GUNICORN, "--workers", "2")),
    Row("gunicorn, gthread", ("gunicorn>=23.0", *_FLASK), "flask", (*_GUNICORN, "--threads", "16")),
    Row(
        "gunicorn, gevent",
        ("gunicorn>=23.0", "gevent>=24.0", *_FLASK),
        "flask",
        (*_GUNICORN, "-k", "gevent"),
    ),
)
ROWS: Final = (*FRAMEWORKS, *SERVERS)


def page() -> str:
    """Return docs/frameworks.md."""
    middleware = {row: "byline.asgi" if row.command == UVICORN else "byline.wsgi" for row in FRAMEWORKS}
    frameworks = [f"| {row.title} | `{middleware[row]}` | yes | yes | yes | yes |" for row in FRAMEWORKS]
    servers = [f"| {row.title} | {row.app.title()} | yes | yes | yes | yes |" for row in SERVERS]
    return _PAGE.format(frameworks="\n".join(frameworks), servers="\n".join(servers))


_PAGE: Final = """\
# Frameworks and servers

`pytest -m matrix tests/frameworks` runs each row in an environment of its own, with the newest versions: a real server,
requests over the network, a model call in the view. Each LLM span must have the session of a header and the user of the
JSON body, also when the call is made within a streamed response, and for 16 requests at once.

| framework | middleware | header | body | streamed response | 16 at once |
|---|---|---|---|---|---|
{frameworks}

Frameworks run under uvicorn or waitress, servers with Starlette or Flask:

| server | app | header | body | streamed response | 16 at once |
|---|---|---|---|---|---|
{servers}

A framework that is not listed works if its app is an ASGI or WSGI callable: wrap that, outermost.

## Neither ASGI nor WSGI

The apps of aiohttp.web, Robyn and tornado.web cannot be wrapped, and the middlewares say so (`byline.E161`). Attribute
their requests in a middleware of the framework, here of aiohttp.web:

```python
import byline
from aiohttp import web

byline.instrument()


@web.middleware
async def attribute(request: web.Request, handler):
    with byline.bound(session_id=request.headers.get("x-session-id"), user_id=request.get("user")):
        return await handler(request)


app = web.Application(middlewares=[attribute])
```
"""
