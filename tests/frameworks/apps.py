"""The same app in each framework: ``POST /chat`` calls a model, ``POST /stream`` calls it within a streamed response.

Both answer with the message of the body, which they read themselves, and fail if the call fails.

``uvicorn tests.frameworks.apps:app`` serves the framework that ``FRAMEWORK`` names. Frameworks are imported where they
are used, because each is installed in its own environment only.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2

import byline
from byline import asgi, wsgi

URL = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
CALL = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}


def _text(reply: httpx2.Response) -> str:
    return str(reply.raise_for_status().json()["choices"][0]["message"]["content"])


def ask() -> str:
    return _text(httpx2.post(URL, json=CALL, timeout=30))


async def ask_async() -> str:
    async with httpx2.AsyncClient(timeout=30) as client:
        return _text(await client.post(URL, json=CALL))


def answer(body: Any) -> dict[str, str]:
    return {"message": body["message"], "answer": ask()}


async def answer_async(body: Any) -> dict[str, str]:
    return {"message": body["message"], "answer": await ask_async()}


def steps(body: Any) -> Iterator[bytes]:
    yield body["message"].encode()
    yield ask().encode()


async def steps_async(body: Any) -> AsyncIterator[bytes]:
    yield body["message"].encode()
    yield (await ask_async()).encode()


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Route

    async def chat(request: Request) -> JSONResponse:
        return JSONResponse(await answer_async(await request.json()))

    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(steps_async(await request.json()))

    app = Starlette(routes=[Route("/chat", chat, methods=["POST"]), Route("/stream", stream, methods=["POST"])])
    app.add_middleware(asgi.AttributionMiddleware)
    return app


def fastapi() -> Any:
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse

    app = FastAPI()
    app.add_middleware(asgi.AttributionMiddleware)

    def chat(body: dict[str, Any]) -> dict[str, str]:
        return answer(body)

    async def stream(body: dict[str, Any]) -> StreamingResponse:
        return StreamingResponse(steps_async(body))

    app.post("/chat")(chat)
    # The annotation of the return value is a name of this function.
    app.post("/stream", response_model=None)(stream)
    stream.__annotations__.pop("return")
    return app


def litestar() -> Any:
    import litestar
    from litestar.response import Stream

    async def chat(data: dict[str, Any]) -> dict[str, str]:
        return await answer_async(data)

    async def stream(data: dict[str, Any]) -> Any:
        return Stream(steps_async(data))

    routes = [litestar.post("/chat")(chat), litestar.post("/stream")(stream)]
    return asgi.AttributionMiddleware(litestar.Litestar(route_handlers=routes))


def quart() -> Any:
    import quart

    app: Any = quart.Quart("app")

    async def chat() -> Any:
        return await answer_async(await quart.request.get_json())

    async def stream() -> Any:
        return steps_async(await quart.request.get_json()), 200

    app.post("/chat")(chat)
    app.post("/stream")(stream)
    app.asgi_app = asgi.AttributionMiddleware(app.asgi_app)
    return app


def a2wsgi_flask() -> Any:
    from a2wsgi import WSGIMiddleware

    app = flask()
    app.wsgi_app = app.wsgi_app.app
    return asgi.AttributionMiddleware(WSGIMiddleware(app))


def a2wsgi_starlette() -> Any:
    from a2wsgi import ASGIMiddleware

    return ASGIMiddleware(starlette())


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
        return JsonResponse(answer(json.loads(request.body)))

    def stream(request: Any) -> Any:
        return StreamingHttpResponse(steps(json.loads(request.body)))

    async def stream_async(request: Any) -> Any:
        return StreamingHttpResponse(steps_async(json.loads(request.body)))

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
            return await answer_async(json.loads(request.body))

        async def stream(request: Any) -> Any:
            return StreamingHttpResponse(steps_async(json.loads(request.body)))

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
            return Response(answer(request.data))

        def stream(request: Any) -> Any:
            return StreamingHttpResponse(steps(request.data))

        return [path("chat", view(chat)), path("stream", view(stream))]

    _django(patterns, "django.contrib.contenttypes", "django.contrib.auth", "rest_framework")
    return wsgi.AttributionMiddleware(get_wsgi_application())


def flask() -> Any:
    import flask

    app = flask.Flask("app")

    def chat() -> Any:
        return answer(flask.request.get_json())

    def stream() -> Any:
        return flask.Response(steps(flask.request.get_json()))

    app.post("/chat")(chat)
    app.post("/stream")(stream)
    app.wsgi_app = wsgi.AttributionMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    return app


def falcon_asgi() -> Any:
    import falcon.asgi

    class Chat:
        async def on_post(self, request: Any, response: Any) -> None:
            response.media = await answer_async(await request.get_media())

    class Stream:
        async def on_post(self, request: Any, response: Any) -> None:
            response.stream = steps_async(await request.get_media())

    app = falcon.asgi.App()
    app.add_route("/chat", Chat())
    app.add_route("/stream", Stream())
    return asgi.AttributionMiddleware(app)


def falcon_wsgi() -> Any:
    import falcon

    class Chat:
        def on_post(self, request: Any, response: Any) -> None:
            response.media = answer(request.get_media())

    class Stream:
        def on_post(self, request: Any, response: Any) -> None:
            response.stream = steps(request.get_media())

    app = falcon.App()
    app.add_route("/chat", Chat())
    app.add_route("/stream", Stream())
    return wsgi.AttributionMiddleware(app)


def bottle() -> Any:
    import bottle

    app = bottle.Bottle()

    def chat() -> Any:
        return answer(bottle.request.json)

    def stream() -> Any:
        return steps(bottle.request.json)

    app.post("/chat")(chat)
    app.post("/stream")(stream)
    return wsgi.AttributionMiddleware(app)


def pyramid() -> Any:
    from pyramid.config import Configurator
    from pyramid.response import Response

    def chat(request: Any) -> Any:
        return Response(json_body=answer(request.json_body))

    def stream(request: Any) -> Any:
        return Response(app_iter=steps(request.json_body))

    with Configurator() as config:
        for name, view in (("chat", chat), ("stream", stream)):
            config.add_route(name, f"/{name}")
            config.add_view(view, route_name=name)
        return wsgi.AttributionMiddleware(config.make_wsgi_app())


def blacksheep() -> Any:
    from blacksheep import Application, Request, Response
    from blacksheep import json as json_response
    from blacksheep.contents import StreamedContent

    app = Application()

    async def chat(request: Any) -> Any:
        return json_response(await answer_async(await request.json()))

    async def stream(request: Any) -> Any:
        body = await request.json()

        async def steps() -> AsyncIterator[bytes]:
            async for step in steps_async(body):
                yield step

        return Response(200, content=StreamedContent(b"text/plain", steps))

    chat.__annotations__ = stream.__annotations__ = {"request": Request}
    app.router.add_post("/chat", chat)
    app.router.add_post("/stream", stream)
    return asgi.AttributionMiddleware(app)


def sanic() -> Any:
    import sanic

    app = sanic.Sanic("app")

    async def chat(request: Any) -> Any:
        return sanic.json(await answer_async(request.json))

    async def stream(request: Any) -> None:
        response = await request.respond(content_type="text/plain")
        async for step in steps_async(request.json):
            await response.send(step)
        await response.eof()

    app.add_route(chat, "/chat", methods=["POST"])
    app.add_route(stream, "/stream", methods=["POST"])
    return asgi.AttributionMiddleware(app)


def connexion() -> Any:
    import connexion
    from starlette.responses import StreamingResponse

    async def chat(body: Any) -> Any:
        return await answer_async(body)

    async def stream(body: Any) -> Any:
        return StreamingResponse(steps_async(body))

    operations = {
        name: {
            "post": {
                "operationId": name,
                "requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}},
                "responses": {"200": {"description": "an answer"}},
            }
        }
        for name in ("chat", "stream")
    }
    specification = {
        "openapi": "3.0.3",
        "info": {"title": "app", "version": "1"},
        "paths": {f"/{name}": operation for name, operation in operations.items()},
    }
    app = connexion.AsyncApp(__name__)
    app.add_api(specification, resolver=connexion.Resolver(locals().get))
    return asgi.AttributionMiddleware(app)


def strawberry() -> Any:
    import strawberry
    from fastapi import FastAPI
    from strawberry.fastapi import GraphQLRouter

    @strawberry.type
    class Query:
        @strawberry.field
        async def chat(self, message: str) -> str:
            return message + await ask_async()

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def stream(self, message: str) -> AsyncIterator[str]:
            async for step in steps_async({"message": message}):
                yield step.decode()

    schema = strawberry.Schema(Query, subscription=Subscription)
    app = FastAPI()
    for path in ("/chat", "/stream"):
        app.include_router(GraphQLRouter(schema, subscription_protocols=["graphql-sse"]), prefix=path)
    app.add_middleware(asgi.AttributionMiddleware)
    return app


def gradio() -> Any:
    # After byline.instrument(), which hooks the queue of events.
    import gradio
    from fastapi import FastAPI

    async def chat(message: str) -> str:
        return message + await ask_async()

    async def stream(message: str) -> AsyncIterator[str]:
        async for step in steps_async({"message": message}):
            yield step.decode()

    with gradio.Blocks() as blocks:
        text = gradio.Textbox()
        gradio.Button().click(chat, text, text, api_name="chat", concurrency_limit=16)
        gradio.Button().click(stream, text, text, api_name="stream", concurrency_limit=16)
    app = gradio.mount_gradio_app(FastAPI(), blocks, path="/")
    app.add_middleware(asgi.AttributionMiddleware)
    return app


def chainlit() -> Any:
    # Chainlit writes its configuration there.
    os.environ["CHAINLIT_APP_ROOT"] = tempfile.mkdtemp()
    from chainlit.utils import mount_chainlit
    from fastapi import FastAPI

    app = FastAPI()
    mount_chainlit(app=app, target=str(Path(__file__).with_name("chainlit_target.py")), path="/chainlit")
    app.add_middleware(asgi.AttributionMiddleware)
    return app


def nicegui() -> Any:
    from fastapi import FastAPI
    from nicegui import ui

    @ui.page("/page")
    def page() -> None:
        async def answer(event: Any) -> None:
            label.set_text("")
            try:
                async for step in steps_async({"message": event.args}):
                    label.set_text(label.text + step.decode())
            except httpx2.HTTPStatusError:
                label.set_text("no answer")

        label = ui.label()
        label.on("ask", answer)
        (listener,) = label._event_listeners
        label.set_text(f"client {ui.context.client.id} element {label.id} listener {listener}.")

    app = FastAPI()
    ui.run_with(app, storage_secret="secret")
    app.add_middleware(asgi.AttributionMiddleware)
    return app


def fastmcp() -> Any:
    from fastmcp import FastMCP

    async def chat(message: str) -> str:
        return message + await ask_async()

    server = FastMCP("app")
    server.tool(chat)
    return asgi.AttributionMiddleware(server.http_app(stateless_http=True))


def aiohttp_web() -> Any:
    from aiohttp import web

    from byline.aiohttp_web import AttributionMiddleware

    async def chat(request: web.Request) -> web.Response:
        return web.json_response(await answer_async(await request.json()))

    async def stream(request: web.Request) -> web.Response:
        return web.Response(body=steps_async(await request.json()))

    app = web.Application(middlewares=[AttributionMiddleware()])
    app.add_routes([web.post("/chat", chat), web.post("/stream", stream)])
    return app


def tornado_web() -> Any:
    import tornado.web

    from byline.tornado import AttributionMiddleware

    class Chat(tornado.web.RequestHandler):
        async def post(self) -> None:
            self.write(await answer_async(json.loads(self.request.body)))

    class Stream(tornado.web.RequestHandler):
        async def post(self) -> None:
            async for step in steps_async(json.loads(self.request.body)):
                self.write(step)
                await self.flush()

    return AttributionMiddleware(tornado.web.Application([("/chat", Chat), ("/stream", Stream)]))


def _bound(headers: Any, body: Any) -> Any:
    """What no middleware reads, for the frameworks that have none."""
    return byline.bound(session_id=headers.get("x-session-id"), user_id=body["user"], **body["trace"])


def robyn() -> Any:
    from robyn import Request, Robyn, StreamingResponse

    app = Robyn(__file__)

    async def chat(request: Request) -> Any:
        body = request.json()
        with _bound(request.headers, body):
            return await answer_async(body)

    async def stream(request: Request) -> Any:
        body = request.json()
        return StreamingResponse(_bound(request.headers, body)(steps_async)(body))

    chat.__annotations__ = stream.__annotations__ = {"request": Request}
    app.post("/chat")(chat)
    app.post("/stream")(stream)
    return app


def sanic_alone() -> Any:
    import sanic

    app = sanic.Sanic("app")

    async def chat(request: Any) -> Any:
        with _bound(request.headers, request.json):
            return sanic.json(await answer_async(request.json))

    async def stream(request: Any) -> None:
        response = await request.respond(content_type="text/plain")
        with _bound(request.headers, request.json):
            async for step in steps_async(request.json):
                await response.send(step)

    app.add_route(chat, "/chat", methods=["POST"])
    app.add_route(stream, "/stream", methods=["POST"])
    return app


byline.instrument()
app: Any = globals()[os.environ["FRAMEWORK"]]() if "FRAMEWORK" in os.environ else None
