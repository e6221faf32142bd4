"""A chat API with FastAPI, signed by one line.

    byline gateway & OPENAI_BASE_URL=http://127.0.0.1:4010/api/v1 OPENAI_API_KEY=testing python examples/fastapi_app.py

Then ask it something:

    curl localhost:8000/chat -H 'x-session-id: session_abc' -H 'content-type: application/json' \
        -d '{"user": "user_12345", "question": "Who wrote this?"}'

The spans go to Langfuse or an OTLP endpoint if the environment names one, and are printed otherwise.
"""

import os
import sys

import uvicorn
from fastapi import FastAPI
from openai import AsyncOpenAI
from opentelemetry import trace
from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from pydantic import BaseModel

import byline
from byline.asgi import AttributionMiddleware

byline.instrument()
OpenAIInstrumentor().instrument()
if not any(name.startswith(("LANGFUSE_", "OTEL_EXPORTER_OTLP_")) for name in os.environ):
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(sys.stdout)))

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
