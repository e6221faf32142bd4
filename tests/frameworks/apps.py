"""The same app in each framework: ``POST /chat`` calls a model, ``POST /stream`` calls it within a streamed response.

``uvicorn tests.frameworks.apps:app`` serves the framework that ``FRAMEWORK`` names. Frameworks are imported where they
are used, because each is installed in its own environment only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2

import byline
from byline import asgi, wsgi

URL = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
CALL = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}


def ask() -> str:
    return str(httpx2.post(URL, json=CALL, timeout=30).json()["choices"][0]["message"]["content"])


async def ask_async() -> str:
    async with httpx2.AsyncClient(timeout=30) as client:
        return str((await client.post(URL, json=CALL)).json()["choices"][0]["message"]["content"])


def steps() -> Iterator[bytes]:
    yield b"first "
    yield ask().encode()


async def steps_async() -> AsyncIterator[bytes]:
    yield b"first "
    yield (await ask_async()).encode()


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Route

    async def chat(request: Request) -> JSONResponse:
        await request.json()
        return JSONResponse({"answer": await ask_async()})

    async def stream(request: Request) -> StreamingResponse:
        await request.json()
        return StreamingResponse(steps_async())

    app = Starlette(routes=[Route("/chat", chat, methods=["POST"]), Route("/stream", stream, methods=["POST"])])
    app.add_middleware(asgi.AttributionMiddleware)
    return app


def fastapi() -> Any:
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse

    app = FastAPI()
    app.add_middleware(asgi.AttributionMiddleware)

    def chat(body: dict[str, Any]) -> dict[str, str]:
        return {"answer": ask()}

    async def stream(body: dict[str, Any]) -> StreamingResponse:
        return StreamingResponse(steps_async())

    app.post("/chat")(chat)
    # The annotation of the return value is a name of this function.
    app.post("/stream", response_model=None)(stream)
    stream.__annotations__.pop("return")
    return app


def litestar() -> Any:
    import litestar
    from litestar.response import Stream

    async def chat(data: dict[str, Any]) -> dict[str, str]:
        return {"answer": await ask_async()}

    async def stream(data: dict[str, Any]) -> Any:
        return Stream(steps_async)

    routes = [litestar.post("/chat")(chat), litestar.post("/stream")(stream)]
    return asgi.AttributionMiddleware(litestar.Litestar(route_handlers=routes))


def quart() -> Any:
    import quart

    app: Any = quart.Quart("app")

    async def chat() -> Any:
        await quart.request.get_json()
        return {"answer": await ask_async()}

    async def stream() -> Any:
        await quart.request.get_json()
        return steps_async(), 200

    app.post("/chat")(chat)
    app.post("/stream")(stream)
    app.asgi_app = asgi.AttributionMiddleware(app.asgi_app)
    return app


def _django(patterns: Callable[[], list[Any]], *apps: str) -> None:
    import django
    from django.conf import settings

    module = sys.modules[__name__]
    settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="x", ALLOWED_HOSTS=["*"], INSTALLED_APPS=list(apps))
    django.setup()
    module.urlpatterns = patterns()  # type: ignore[attr-defined]


def _django_views() -> list[Any]:
    from django.http import JsonResponse, StreamingHttpResponse
    from django.urls import path

    def chat(request: Any) -> Any:
        json.loads(request.body)
        return JsonResponse({"answer": ask()})

    def stream(request: Any) -> Any:
        json.loads(request.body)
        return StreamingHttpResponse(steps())

    async def stream_async(request: Any) -> Any:
        json.loads(request.body)
        return StreamingHttpResponse(steps_async())

    in_asgi = os.environ["FRAMEWORK"] == "django_asgi"
    return [path("chat", chat), path("stream", stream_async if in_asgi else stream)]


def django_asgi() -> Any:
    from django.core.asgi import get_asgi_application

    _django(_django_views)
    return asgi.AttributionMiddleware(get_asgi_application())


def django_wsgi() -> Any:
    from django.core.wsgi import get_wsgi_application

    _django(_django_views)
    return wsgi.AttributionMiddleware(get_wsgi_application())


def django_ninja() -> Any:
    from django.core.asgi import get_asgi_application

    def patterns() -> list[Any]:
        from django.http import StreamingHttpResponse
        from django.urls import path
        from ninja import NinjaAPI

        api = NinjaAPI()

        async def chat(request: Any) -> Any:
            json.loads(request.body)
            return {"answer": await ask_async()}

        async def stream(request: Any) -> Any:
            json.loads(request.body)
            return StreamingHttpResponse(steps_async())

        api.post("/chat")(chat)
        api.post("/stream")(stream)
        return [path("", api.urls)]

    _django(patterns)
    return asgi.AttributionMiddleware(get_asgi_application())


def django_rest_framework() -> Any:
    from django.core.wsgi import get_wsgi_application

    def patterns() -> list[Any]:
        from django.http import StreamingHttpResponse
        from django.urls import path
        from rest_framework.decorators import api_view, authentication_classes, permission_classes
        from rest_framework.response import Response

        def view(function: Any) -> Any:
            open_to_all = authentication_classes([])(permission_classes([])(function))
            return api_view(["POST"])(open_to_all)

        def chat(request: Any) -> Any:
            return Response({"answer": ask(), "sent": request.data})

        def stream(request: Any) -> Any:
            assert request.data
            return StreamingHttpResponse(steps())

        return [path("chat", view(chat)), path("stream", view(stream))]

    _django(patterns, "django.contrib.contenttypes", "django.contrib.auth", "rest_framework")
    return wsgi.AttributionMiddleware(get_wsgi_application())


def flask() -> Any:
    import flask

    app = flask.Flask("app")

    def chat() -> Any:
        flask.request.get_json()
        return {"answer": ask()}

    def stream() -> Any:
        flask.request.get_json()
        return flask.Response(steps())

    app.post("/chat")(chat)
    app.post("/stream")(stream)
    app.wsgi_app = wsgi.AttributionMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    return app


def falcon_asgi() -> Any:
    import falcon.asgi

    class Chat:
        async def on_post(self, request: Any, response: Any) -> None:
            await request.get_media()
            response.media = {"answer": await ask_async()}

    class Stream:
        async def on_post(self, request: Any, response: Any) -> None:
            await request.get_media()
            response.stream = steps_async()

    app = falcon.asgi.App()
    app.add_route("/chat", Chat())
    app.add_route("/stream", Stream())
    return asgi.AttributionMiddleware(app)


def falcon_wsgi() -> Any:
    import falcon

    class Chat:
        def on_post(self, request: Any, response: Any) -> None:
            request.get_media()
            response.media = {"answer": ask()}

    class Stream:
        def on_post(self, request: Any, response: Any) -> None:
            request.get_media()
            response.stream = steps()

    app = falcon.App()
    app.add_route("/chat", Chat())
    app.add_route("/stream", Stream())
    return wsgi.AttributionMiddleware(app)


def bottle() -> Any:
    import bottle

    app = bottle.Bottle()

    def chat() -> Any:
        assert bottle.request.json
        return {"answer": ask()}

    def stream() -> Any:
        assert bottle.request.json
        return steps()

    app.post("/chat")(chat)
    app.post("/stream")(stream)
    return wsgi.AttributionMiddleware(app)


def pyramid() -> Any:
    from pyramid.config import Configurator
    from pyramid.response import Response

    def chat(request: Any) -> Any:
        assert request.json_body
        return Response(json_body={"answer": ask()})

    def stream(request: Any) -> Any:
        assert request.json_body
        return Response(app_iter=steps())

    with Configurator() as config:
        for name, view in (("chat", chat), ("stream", stream)):
            config.add_route(name, f"/{name}")
            config.add_view(view, route_name=name)
        return wsgi.AttributionMiddleware(config.make_wsgi_app())


def blacksheep() -> Any:
    from blacksheep import Application, Content, Request, Response
    from blacksheep import json as json_response

    app = Application()

    async def chat(request: Any) -> Any:
        await request.json()
        return json_response({"answer": await ask_async()})

    async def stream(request: Any) -> Any:
        await request.json()
        return Response(200, content=_streamed())

    def _streamed() -> Content:
        from blacksheep.contents import StreamedContent

        return StreamedContent(b"text/plain", steps_async)

    chat.__annotations__ = stream.__annotations__ = {"request": Request}
    app.router.add_post("/chat", chat)
    app.router.add_post("/stream", stream)
    return asgi.AttributionMiddleware(app)


byline.instrument()
app = globals()[os.environ["FRAMEWORK"]]() if "FRAMEWORK" in os.environ else None
