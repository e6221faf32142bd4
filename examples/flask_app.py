"""A streaming chat API with Flask and the middleware.

    byline gateway python examples/flask_app.py

Then send a request:

    curl localhost:8000/chat -H 'content-type: application/json' \
        -d '{"conversation": {"id": "session_abc"}, "user": "user_12345", "question": "Who wrote this?"}'

The first command prints one line about each model call. If the environment names Langfuse or an OTLP
endpoint, it sends the spans there instead.
"""

import os
from collections.abc import Iterator

from flask import Flask, Response, request
from openai import OpenAI
from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

import byline
from byline.wsgi import AttributionMiddleware

byline.instrument()
OpenAIInstrumentor().instrument()

app = Flask(__name__)
# This API has the session id at its own place in the body.
app.wsgi_app = AttributionMiddleware(app.wsgi_app, fields={"session_id": "body:conversation.id"})
client = OpenAI()


@app.post("/chat")
def chat() -> Response:
    question = request.get_json()["question"]

    def words() -> Iterator[str]:
        stream = client.chat.completions.create(
            model="openai/gpt-4o", messages=[{"role": "user", "content": question}], stream=True
        )
        for chunk in stream:
            if chunk.choices:
                yield chunk.choices[0].delta.content or ""

    return Response(words(), mimetype="text/plain")


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "8000")), threaded=True)
