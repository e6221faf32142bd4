"""Points byline at a collector: the few lines that every app of the fleet has in common.

COLLECTOR_URL=http://collector:4318 uvicorn app:app
"""

import os
from urllib.parse import urlsplit

from starlette.applications import Starlette

import byline
from byline.asgi import AttributionMiddleware

collector = os.environ.get("COLLECTOR_URL", "http://127.0.0.1:4318")
byline.instrument(
    destinations=[
        byline.destinations.OTLP(
            collector,
            spans="llm",
            # What Langfuse and the other backend need to know stands on the spans when they leave the app.
            conventions=["langfuse", "openinference"],
            # Every call, although the app itself may sample its requests.
            unsampled="record",
            # The collector is in the same network; anywhere else, use https.
            allow_http=[str(urlsplit(collector).hostname)],
        )
    ]
)

app = Starlette()
app.add_middleware(AttributionMiddleware)
