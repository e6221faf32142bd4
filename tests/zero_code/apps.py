"""The same app in each framework: ``POST /chat`` makes an LLM span. ``CODE=1`` adds byline in code."""

from __future__ import annotations

import json
import os
from typing import Any

from opentelemetry import trace

FRAMEWORK = os.environ["FRAMEWORK"]
IN_CODE = bool(os.environ.get("CODE"))
app: Any

if IN_CODE:
    import byline

    byline.instrument()


def chat(body: bytes) -> bytes:
    json.loads(body)
    tracer = trace.get_tracer("tests.zero_code")
    tracer.start_span("chat m", attributes={"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}).end()
    return b'{"answer": 42}'


def in_code(app: Any, protocol: str) -> Any:
    """Add the middleware as the README says."""
    if not IN_CODE:
        return app
    from byline import asgi, wsgi

    return asgi.AttributionMiddleware(app) if protocol == "asgi" else wsgi.AttributionMiddleware(app)


if FRAMEWORK in ("fastapi", "starlette"):
    from starlette.requests import Request
    from starlette.responses import Response

    async def endpoint(request: Request) -> Response:
        return Response(chat(await request.body()))

    if FRAMEWORK == "fastapi":
        from fastapi import FastAPI

        app = FastAPI()
        app.post("/chat")(endpoint)
    else:
        from starlette.applications import Starlette
        from starlette.routing import Route

        app = Starlette(routes=[Route("/chat", endpoint, methods=["POST"])])
    if IN_CODE:
        from byline.asgi import AttributionMiddleware

        app.add_middleware(AttributionMiddleware)

elif FRAMEWORK == "litestar":
    import litestar

    @litestar.post("/chat")
    async def litestar_chat(request: litestar.Request[Any, Any, Any]) -> bytes:
        return chat(await request.body())

    app = in_code(litestar.Litestar([litestar_chat]), "asgi")

elif FRAMEWORK == "quart":
    import quart

    app = quart.Quart(__name__)

    @app.post("/chat")
    async def quart_chat() -> bytes:
        return chat(await quart.request.get_data())  # type: ignore[arg-type]

    app.asgi_app = in_code(app.asgi_app, "asgi")

elif FRAMEWORK.startswith("django"):
    import django
    from django.conf import settings
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    def django_chat(request: HttpRequest) -> HttpResponse:
        return HttpResponse(chat(request.body))

    settings.configure(
        ROOT_URLCONF=__name__,
        SECRET_KEY="tests",
        ALLOWED_HOSTS=["*"],
        # There is no login here: claimed users count, as under the other frameworks.
        BYLINE={"identity": None},
        MIDDLEWARE=["byline.django.AttributionMiddleware"] if IN_CODE and FRAMEWORK == "django-settings" else [],
    )
    django.setup()
    urlpatterns = [path("chat", django_chat)]
    if FRAMEWORK == "django-asgi":
        from django.core.asgi import get_asgi_application

        app = in_code(get_asgi_application(), "asgi")
    else:
        from django.core.wsgi import get_wsgi_application

        app = get_wsgi_application()
        if FRAMEWORK == "django-wsgi":
            app = in_code(app, "wsgi")

elif FRAMEWORK == "flask":
    import flask

    app = flask.Flask(__name__)

    @app.post("/chat")
    def flask_chat() -> bytes:
        return chat(flask.request.get_data())

    app.wsgi_app = in_code(app.wsgi_app, "wsgi")

elif FRAMEWORK == "falcon":
    import falcon

    class Chat:
        def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
            response.data = chat(request.bounded_stream.read())

    falcon_app = falcon.App()
    falcon_app.add_route("/chat", Chat())
    app = in_code(falcon_app, "wsgi")

elif FRAMEWORK == "bottle":
    import bottle

    bottle_app = bottle.Bottle()

    @bottle_app.post("/chat")
    def bottle_chat() -> bytes:
        return chat(bottle.request.body.read())

    app = in_code(bottle_app, "wsgi")

else:
    from pyramid.config import Configurator
    from pyramid.response import Response as PyramidResponse

    with Configurator() as config:
        config.add_route("chat", "/chat")
        config.add_view(lambda request: PyramidResponse(chat(request.body)), route_name="chat")
        app = in_code(config.make_wsgi_app(), "wsgi")


def serve_wsgiref(port: str) -> None:
    """Serve as Django's, Bottle's and Pyramid's development servers do."""
    from wsgiref.simple_server import make_server

    make_server("127.0.0.1", int(port), app).serve_forever()


def serve_mangum(port: str) -> None:
    """Answer HTTP requests by AWS Lambda's handler of Mangum."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    from mangum import Mangum

    handler = Mangum(app, lifespan="off")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            http = {"method": "POST", "path": self.path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}
            event = {
                "version": "2.0",
                "rawPath": self.path,
                "rawQueryString": "",
                "headers": {name.lower(): value for name, value in self.headers.items()},
                "requestContext": {"http": http, "stage": "$default"},
                "body": body,
                "isBase64Encoded": False,
            }
            answer = handler(event, object())
            self.send_response(answer["statusCode"])
            self.end_headers()
            self.wfile.write(answer["body"].encode())

    HTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    import sys

    {"wsgiref": serve_wsgiref, "mangum": serve_mangum}[sys.argv[1]](sys.argv[2])
