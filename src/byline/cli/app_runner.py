"""Loads the app of ``byline check app:app`` and sends one request through it, within this process."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

from byline.inbound.app_protocol import find_other_framework, is_asgi_app, is_wsgi_app
from byline.testing.gateway import PROVIDER_PATH, is_answered

_HOST: Final = "byline-check.localhost"
_STARTUP_TIMEOUT: Final = 30.0
_REQUEST_TIMEOUT: Final = 60.0
#: Keys that SDKs need to be created; no provider sees them.
_API_KEYS: Final = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "OPENROUTER_API_KEY", "MISTRAL_API_KEY")
_NAME_THE_APP: Final = "name the app itself, as the server's command does: byline check module:name"


class AppError(Exception):
    """The app cannot be loaded or called; the message says why, ``advice`` what to do if it cannot be loaded."""

    def __init__(self, message: str, advice: str = "run this command where the server is started") -> None:
        super().__init__(message)
        self.advice = advice


class TestRequest(NamedTuple):
    """The request that is sent through the app."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class TestResponse(NamedTuple):
    """The app's response, and the error that an ASGI app raised after it, as text."""

    status: int
    body: bytes
    error: str = ""


class LoadedApp(NamedTuple):
    """An app and its protocol, ``asgi`` or ``wsgi``."""

    app: Any
    protocol: str


def load_app(target: str, *, factory: bool) -> LoadedApp:
    """Import ``module:attribute`` as servers do, with the working directory on the path.

    Args:
        target: The module and the app in it, e.g. ``main:app``; ``app`` is the default.
        factory: Whether the attribute is a function that returns the app.

    Raises:
        AppError: The module, the attribute or the app cannot be used.
    """
    module_name, _, attribute = target.partition(":")
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path has strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    for name in _API_KEYS:
        os.environ[name] = os.environ.get(name) or "byline-check"
    try:
        found: Any = importlib.import_module(module_name)
        for name in (attribute or "app").split("."):
            found = getattr(found, name)
        if factory:
            found = found()
    except (Exception, SystemExit) as error:
        raise AppError(f"{target} cannot be loaded: {type(error).__name__}: {error}") from error
    framework = find_other_framework(found)
    if framework is not None:
        raise AppError(
            f"{target} is an app of {framework}, which is neither ASGI nor WSGI and cannot be called here",
            "serve it by byline gateway, e.g. byline gateway python main.py, which prints each LLM call",
        )
    if not callable(found):
        raise AppError(f"{target} is {type(found).__name__}, which is neither an ASGI nor a WSGI app", _NAME_THE_APP)
    if is_asgi_app(found) or (not is_wsgi_app(found) and hasattr(found, "router")):
        return LoadedApp(found, "asgi")
    if is_wsgi_app(found) or hasattr(found, "wsgi_app"):
        return LoadedApp(found, "wsgi")
    if not factory and getattr(getattr(found, "__code__", None), "co_argcount", None) == 0:
        raise AppError(f"{target} takes no arguments, so it looks like a factory", "add --factory")
    raise AppError(f"{target} is neither an ASGI nor a WSGI app", _NAME_THE_APP)


def find_routes(app: Any) -> list[str]:
    """Return the paths that take POST and have no parameters, as far as the framework lists them."""
    seen: set[int] = set()
    while app is not None and id(app) not in seen:
        seen.add(id(app))
        rules = getattr(app, "url_map", None)
        if rules is not None:
            return sorted({rule.rule for rule in rules.iter_rules() if "POST" in rule.methods and not rule.arguments})
        routes = getattr(app, "routes", None)
        if isinstance(routes, list):
            return sorted({path for route in routes for path in _post_paths(route)})
        # A method such as Flask's `wsgi_app` belongs to the app.
        inner = getattr(app, "app", None)
        app = inner if inner is not None else getattr(app, "__self__", None)
    return []


def _post_paths(route: Any) -> Iterator[str]:
    path = getattr(route, "path", "{")
    if "POST" in (getattr(route, "methods", None) or ()) and "{" not in path:
        yield path


def run_request(loaded: LoadedApp, request: TestRequest, before_request: Callable[[], None]) -> TestResponse:
    """Start the app, send the request, read the whole response and stop the app.

    Args:
        loaded: The app.
        request: The request.
        before_request: Called when the app has started.

    Raises:
        AppError: The app raised an exception or did not answer in time.
    """
    try:
        if loaded.protocol == "wsgi":
            before_request()
            return _call_wsgi(loaded.app, request)
        return asyncio.run(_call_asgi(loaded.app, request, before_request))
    except AppError:
        raise
    except Exception as error:
        raise AppError(f"{type(error).__name__}: {error}") from error


def _call_wsgi(app: Any, request: TestRequest) -> TestResponse:
    parts = urlsplit(request.path)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": parts.path,
        "QUERY_STRING": parts.query,
        "SERVER_NAME": _HOST,
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": _HOST,
        "CONTENT_LENGTH": str(len(request.body)),
        "CONTENT_TYPE": "application/json",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    environ |= {
        f"HTTP_{name.upper().replace('-', '_')}": value
        for name, value in request.headers.items()
        if name.lower() != "content-type"
    }
    statuses: list[str] = []
    written: list[bytes] = []

    def start_response(status: str, *_: Any) -> Callable[..., Any]:
        statuses.append(status)
        return written.append

    body = app(environ, start_response)
    try:
        written.extend(body)
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()
    return TestResponse(int(statuses[-1].split()[0]), b"".join(written))


async def _call_asgi(app: Any, request: TestRequest, before_request: Callable[[], None]) -> TestResponse:
    async with _lifespan(app) as state:
        before_request()
        parts = urlsplit(request.path)
        headers = {"host": _HOST, "content-length": str(len(request.body)), "content-type": "application/json"}
        headers |= {name.lower(): value for name, value in request.headers.items()}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": parts.path,
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
            "client": ("127.0.0.1", 50000),
            "server": (_HOST, 80),
            "state": dict(state),
        }
        sent = False
        status = 0
        body = b""
        raised = ""
        finished = asyncio.Event()

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": request.body, "more_body": False}
            await finished.wait()
            return {"type": "http.disconnect"}

        async def send(message: Mapping[str, Any]) -> None:
            nonlocal status, body
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                body += message.get("body", b"")
                if not message.get("more_body"):
                    finished.set()

        try:
            await asyncio.wait_for(app(scope, receive, send), _REQUEST_TIMEOUT)
        except asyncio.TimeoutError:
            raise AppError(f"no answer within {_REQUEST_TIMEOUT:.0f} s") from None
        except Exception as error:
            # Starlette, for example, answers with status 500 and then raises the app's error.
            if not status:
                raise
            raised = f"{type(error).__name__}: {error}"
        return TestResponse(status, body, raised)


@contextlib.asynccontextmanager
async def _lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
    """Run the app's lifespan around the block, if the app has one."""
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    answers: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
    state: dict[str, Any] = {}
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}

    async def run() -> None:
        # An app without a lifespan raises, which is no failure.
        with contextlib.suppress(Exception):
            await app(scope, events.get, answers.put)
        await answers.put({"type": "lifespan.ended"})

    task = asyncio.create_task(run())
    await events.put({"type": "lifespan.startup"})
    answer = await asyncio.wait_for(answers.get(), _STARTUP_TIMEOUT)
    if answer["type"] == "lifespan.startup.failed":
        raise AppError(f"the app's startup failed: {answer.get('message', '')}")
    try:
        yield state
    finally:
        await events.put({"type": "lifespan.shutdown"})
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(task, _STARTUP_TIMEOUT)


class LLMRedirect:
    """Sends the app's LLM requests to the testing gateway instead of the provider, below byline's hooks.

    Covers httpx, httpx2 and requests, also if the app imports them during the request, as Django does with its views.
    Other clients call the real provider.

    Args:
        gateway_url: The gateway's URL.
        is_gateway: Function of host, port and path that says whether a gateway is there, which states costs.
    """

    def __init__(self, gateway_url: str, is_gateway: Callable[[str, int | None, str], bool]) -> None:
        self._gateway_url = gateway_url
        self._is_gateway = is_gateway
        #: The hosts of all redirected requests.
        self.hosts: list[str] = []

    def target(self, url: str) -> str | None:
        """Return the URL to call instead, ``None`` for a request that is no LLM request."""
        parts = urlsplit(url)
        if not is_answered(parts.path):
            return None
        host = parts.hostname or ""
        self.hosts.append(host)
        prefix = "/api" if self._is_gateway(host, parts.port, parts.path) else PROVIDER_PATH.rstrip("/")
        return f"{self._gateway_url}{prefix}{parts.path}" + (f"?{parts.query}" if parts.query else "")

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Patch the transports during the block."""
        with contextlib.ExitStack() as stack:
            for name, patch in (
                ("httpx", self._patch_httpx),
                ("httpx2", self._patch_httpx),
                ("requests", self._patch_requests),
            ):
                with contextlib.suppress(ImportError):
                    patch(stack, importlib.import_module(name))
            yield

    def _patch_httpx(self, stack: contextlib.ExitStack, module: ModuleType) -> None:
        def redirected(request: Any) -> Any:
            url = self.target(str(request.url))
            if url is None:
                return request
            return module.Request(
                request.method, url, headers=request.headers, stream=request.stream, extensions=request.extensions
            )

        send = module.HTTPTransport.handle_request
        send_async = module.AsyncHTTPTransport.handle_async_request

        def handle_request(transport: Any, request: Any) -> Any:
            return send(transport, redirected(request))

        async def handle_async_request(transport: Any, request: Any) -> Any:
            return await send_async(transport, redirected(request))

        _replace(stack, module.HTTPTransport, "handle_request", handle_request)
        _replace(stack, module.AsyncHTTPTransport, "handle_async_request", handle_async_request)

    def _patch_requests(self, stack: contextlib.ExitStack, module: ModuleType) -> None:
        adapter: Any = cast("Any", module).adapters.HTTPAdapter
        send = adapter.send

        def send_redirected(self_: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            request.url = self.target(request.url) or request.url
            return send(self_, request, *args, **kwargs)

        _replace(stack, adapter, "send", send_redirected)


def _replace(stack: contextlib.ExitStack, owner: Any, name: str, new: Any) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, new)
