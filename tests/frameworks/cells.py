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
        server_span: How the page describes the server span; with ``yes`` it is checked.
    """

    title: str
    packages: tuple[str, ...]
    app: str
    command: tuple[str, ...]
    client: str = "http"
    stream: str = "yes"
    concurrent: str = "yes"
    server_span: str = "yes"

    @property
    def name(self) -> str:
        """The name of the test and of the environment."""
        return "web-" + self.title.lower().replace(" ", "-").replace(",", "").replace("'", "")


def _asgi(title: str, app: str, *packages: str, **values: str) -> Row:
    return Row(title, (*packages, "uvicorn>=0.30", "httpx2>=2.0"), app, UVICORN, **values)


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
    _asgi(
        "Gradio, mounted in FastAPI",
        "gradio",
        "gradio>=5.0",
        client="gradio",
        server_span="no: events run after their request",
    ),
    _asgi("Chainlit, mounted in FastAPI", "chainlit", "chainlit>=2.0", client="chainlit"),
    _asgi("NiceGUI, mounted in FastAPI", "nicegui", "nicegui>=3.0", client="nicegui"),
    _asgi("FastMCP", "fastmcp", "fastmcp>=2.10", client="mcp"),
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
_OWN: Final = ("-m", "tests.frameworks.own_server", "{port}")
_NO_SPAN: Final = "no: nothing is around the handlers"
#: Frameworks that answer by servers of their own, neither ASGI nor WSGI → byline's middleware, if there is one.
OWN: Final = {
    Row("aiohttp.web", ("aiohttp>=3.10", _HTTPX), "aiohttp_web", _OWN): "byline.aiohttp_web",
    Row("tornado.web", ("tornado>=6.4", _HTTPX), "tornado_web", _OWN): "byline.tornado",
    Row("Robyn", ("robyn>=0.70", _HTTPX), "robyn", _OWN, server_span=_NO_SPAN): "byline.bound",
    Row("Sanic's server", ("sanic>=24.6", _HTTPX), "sanic_alone", _OWN, server_span=_NO_SPAN): "byline.bound",
}
ROWS: Final = (*FRAMEWORKS, *SERVERS, *OWN)


def page() -> str:
    """Return docs/frameworks.md."""
    middleware = {row: "byline.asgi" if row.command == UVICORN else "byline.wsgi" for row in FRAMEWORKS}
    frameworks = [f"| {row.title} | `{middleware[row]}` | {_results(row)} |" for row in FRAMEWORKS]
    servers = [f"| {row.title} | {row.app.rpartition('_')[2].title()} | {_results(row)} |" for row in SERVERS]
    own = [f"| {row.title} | `{use}` | {_results(row)} |" for row, use in OWN.items()]
    return _PAGE.format(frameworks="\n".join(frameworks), servers="\n".join(servers), own="\n".join(own))


def _results(row: Row) -> str:
    return " | ".join(("yes", row.stream, "yes", row.concurrent, row.server_span))


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

Chainlit and NiceGUI answer in a websocket: its handshake has the claims of all its messages. A front end that sends no
headers has its conversation in `chainlit.context.session.thread_id` or `nicegui.app.storage.browser["id"]`; state it
with `byline.bind(session_id=…)` in the handler. Gradio needs `byline.instrument()` before `import gradio`
([hops.md](hops.md#task-queues)).

Frameworks run under uvicorn or waitress, servers with Starlette or Flask:

| server | app | LLM span | in a streamed response | failed call | 16 at once | server span |
|---|---|---|---|---|---|---|
{servers}

Under AWS Lambda, call `byline.flush()` at the end of the handler: the process is frozen after each response.

Without code, with environment variables alone, the spans are the same: [zero-code.md](zero-code.md) has the pairs.

A framework that is not listed works if its app is an ASGI or WSGI callable: wrap that, outermost.

## Neither ASGI nor WSGI

Some frameworks answer by servers of their own. `byline.asgi` and `byline.wsgi` refuse their apps (`byline.E161`):

| framework | use | LLM span | in a streamed response | failed call | 16 at once | server span |
|---|---|---|---|---|---|---|
{own}

The middlewares of aiohttp.web and Tornado take the arguments of `byline.asgi.AttributionMiddleware`. In aiohttp.web the
middleware is the first of the app, which makes it the outermost one, and `identity` finds aiohttp's request in its
argument:

```python
import byline
from aiohttp import web
from byline.aiohttp_web import AttributionMiddleware

byline.instrument()
app = web.Application(
    middlewares=[AttributionMiddleware(identity=lambda scope: {{"user_id": scope["aiohttp.request"].get("user")}})]
)
```

A handler that reads the body by `request.content` has no claims of the body. Tornado's middleware is around the app,
and handlers state the user in `prepare()`:

```python
import byline
from byline.tornado import AttributionMiddleware
from tornado.web import Application, RequestHandler

byline.instrument()


class Chat(RequestHandler):
    def prepare(self):
        byline.bind(user_id=self.current_user)

    async def post(self): ...


app = AttributionMiddleware(Application([("/chat", Chat)]))
# app.listen(8888), or HTTPServer(app)
```

Robyn and Sanic's own server call no code around a handler in the context of the handler. State the attribution in the
handler: `with byline.bound(session_id=request.headers.get("x-session-id"), user_id=…):` around the model call, and
`byline.bound(…)(generate)()` for the generator of a streamed response. There is no server span then, and no other claim
is read. Under an ASGI server, Sanic has the middleware.
"""
