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
        client: The client in `clients`.
        stream: How the page describes a streamed response.
        concurrent: How the page describes 16 requests at once.
    """

    title: str
    packages: tuple[str, ...]
    app: str
    command: tuple[str, ...]
    client: str = "http"
    stream: str = "yes"
    concurrent: str = "yes"

    @property
    def name(self) -> str:
        """The name of the test and of the environment."""
        return "web-" + self.title.lower().replace(" ", "-").replace(",", "")


def _asgi(title: str, app: str, *packages: str, client: str = "http") -> Row:
    return Row(title, (*packages, "uvicorn>=0.30", "httpx2>=2.0"), app, UVICORN, client)


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
    _asgi("Sanic", "sanic", "sanic>=24.6"),
    _asgi("Connexion", "connexion", "connexion>=3.1"),
    _asgi("Strawberry", "strawberry", "strawberry-graphql[fastapi]>=0.341", client="graphql"),
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


def _adapter(title: str, app: str, command: tuple[str, ...]) -> Row:
    return Row(title, ("a2wsgi>=1.10", "uvicorn>=0.30", "waitress>=3.0", *_FLASK), app, command)


def _lambda(version: str) -> Row:
    command = ("-m", "tests.frameworks.lambda_server", "{port}", version)
    return Row(
        f"Mangum, payload {version}",
        ("mangum>=0.19", _HTTPX),
        "starlette",
        command,
        stream="as a whole: Mangum collects the response",
        concurrent="in turn: Lambda runs one request in a process",
    )


SERVERS: Final = (
    Row(
        "hypercorn",
        ("hypercorn>=0.17", _HTTPX),
        "starlette",
        ("-m", "hypercorn", APP, "--bind", "127.0.0.1:{port}"),
    ),
    Row(
        "hypercorn, HTTP/2",
        ("hypercorn>=0.17", _HTTPX),
        "starlette",
        ("-m", "hypercorn", APP, "--bind", "127.0.0.1:{port}"),
        "http2",
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
    Row(
        "uWSGI",
        ("pyuwsgi>=2.0.27", *_FLASK),
        "flask",
        ("-m", "tests.frameworks.uwsgi_server", "{port}"),
    ),
    _adapter("a2wsgi, under uvicorn", "a2wsgi_flask", UVICORN),
    _adapter("a2wsgi, under waitress", "a2wsgi_starlette", WAITRESS),
    _lambda("1.0"),
    _lambda("2.0"),
)
ROWS: Final = (*FRAMEWORKS, *SERVERS)


def page() -> str:
    """Return docs/frameworks.md."""
    middleware = {row: "byline.asgi" if row.command == UVICORN else "byline.wsgi" for row in FRAMEWORKS}
    frameworks = [f"| {row.title} | `{middleware[row]}` | {_results(row)} |" for row in FRAMEWORKS]
    servers = [f"| {row.title} | {row.app.rpartition('_')[2].title()} | {_results(row)} |" for row in SERVERS]
    return _PAGE.format(frameworks="\n".join(frameworks), servers="\n".join(servers))


def _results(row: Row) -> str:
    return " | ".join(("yes", row.stream, "yes", row.concurrent, "yes"))


_PAGE: Final = """\
# Frameworks and servers

`pytest -m matrix tests/frameworks` runs each row in an environment of its own, with the newest versions: a real server,
requests over the network, a model call in the view. Each LLM span must have the session of a header, and the user and
the trace of the JSON body, which the app itself reads as well: also if the call is made within a streamed response, if
it fails and the framework answers with its error page, and for 16 requests at once. The server span of each request
must have the session, the user and the number of LLM calls.

| framework | middleware | LLM span | in a streamed response | failed call | 16 at once | server span |
|---|---|---|---|---|---|---|
{frameworks}

Frameworks run under uvicorn or waitress, servers with Starlette or Flask:

| server | app | LLM span | in a streamed response | failed call | 16 at once | server span |
|---|---|---|---|---|---|---|
{servers}

Under AWS Lambda, call `byline.flush()` at the end of the handler: the process is frozen after each response.
Sanic's own server calls no ASGI app; run Sanic under an ASGI server, or attribute its handlers as below.

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
