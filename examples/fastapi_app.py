"""A chat API with FastAPI and the middleware.

    byline gateway python examples/fastapi_app.py

Then send a request:

    curl localhost:8000/chat -H 'x-session-id: session_abc' -H 'content-type: application/json' \
        -d '{"user": "user_12345", "question": "Who wrote this?"}'

The first command prints one line about each model call. If the environment names Langfuse or an OTLP
endpoint, it sends the spans there instead.
"""

import os

import uvicorn
from fastapi import FastAPI
from openai import AsyncOpenAI
from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
from pydantic import BaseModel

import byline
from byline.asgi import AttributionMiddleware

byline.instrument()
OpenAIInstrumentor().instrument()

app = FastAPI()
app.add_middleware(AttributionMiddleware)
client = AsyncOpenAI()


class Question(BaseModel):
    question: str


@app.post("/chat")
async def chat(question: Question) -> dict[str, str | None]:
    byline.bind(tags=["example"])
    answer = await client.chat.completions.create(
        model="openai/gpt-4o", messages=[{"role": "user", "content": question.question}]
    )
    return {"answer": answer.choices[0].message.content}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
