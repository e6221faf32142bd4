"""A chat over a websocket with Starlette. The session is in the query, because browsers cannot set headers here.

    byline gateway python examples/starlette_websocket.py

Then connect to it:

    python -m websockets 'ws://localhost:8000/chat?session_id=session_abc&user=user_12345'

The first command prints one line about each model call. If the environment names Langfuse or an OTLP
endpoint, it sends the spans there instead.
"""

import os

import uvicorn
from openai import AsyncOpenAI
from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

import byline
from byline.asgi import AttributionMiddleware

byline.instrument()
OpenAIInstrumentor().instrument()

client = AsyncOpenAI()


async def chat(websocket: WebSocket) -> None:
    await websocket.accept()
    turn = 0
    async for question in websocket.iter_text():
        turn += 1
        # Metadata of this message only.
        with byline.bound(metadata={"turn": turn}):
            answer = await client.chat.completions.create(
                model="openai/gpt-4o", messages=[{"role": "user", "content": question}]
            )
        await websocket.send_text(answer.choices[0].message.content or "")


app = Starlette(routes=[WebSocketRoute("/chat", chat)])
app.add_middleware(AttributionMiddleware)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
