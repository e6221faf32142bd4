"""An app that sends its spans to a collector.

COLLECTOR_URL=http://collector:4318 uvicorn app:app
curl -X POST -H 'x-session-id: session_abc' http://127.0.0.1:8000/chat
"""

import os
from urllib.parse import urlsplit

from opentelemetry import trace
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import byline
from byline.asgi import AttributionMiddleware

collector = os.environ.get("COLLECTOR_URL", "http://127.0.0.1:4318")
byline.instrument(
    destinations=[
        byline.destinations.OTLP(
            collector,
            spans="llm",
            # The collector does not translate attributes, so the app adds the names of both backends.
            conventions=["langfuse", "openinference"],
            # Every LLM call, even if the app's own sampler dropped the request.
            unsampled="record",
            # The collector is in the same network; otherwise use https.
            allow_http=[str(urlsplit(collector).hostname)],
        )
    ]
)


async def chat(_: Request) -> JSONResponse:
    """Create an LLM span as an SDK's instrumentation would."""
    with trace.get_tracer("app").start_as_current_span("chat", attributes={"gen_ai.operation.name": "chat"}):
        return JSONResponse({"answer": "42", "session": byline.current().session_id})


app = Starlette(routes=[Route("/chat", chat, methods=["POST"])])
app.add_middleware(AttributionMiddleware)
