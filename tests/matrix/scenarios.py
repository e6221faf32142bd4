"""The scenarios that run in each cell."""

from __future__ import annotations

from typing import Final, NamedTuple


class Scenario(NamedTuple):
    """One thing that apps do.

    Attributes:
        name: What the table calls it.
        about: What is done.
        method: The method of ``Calls`` that does it.
        requests: How many requests do it at once, each of another session.
        status: The error with which the gateway answers.
        leaves: Whether the app's client goes away in mid-stream.
        whole: Whether the reply is read up to its usage.
    """

    name: str
    about: str
    method: str
    requests: int = 1
    status: int | None = None
    leaves: bool = False
    whole: bool = True


SCENARIOS: Final = (
    Scenario("chat", "one response, from a worker thread", "chat"),
    Scenario("stream", "a stream, read to its end in a worker thread", "stream"),
    Scenario("stream of events", "the SDK's low-level stream", "raw_stream"),
    Scenario("async", "one response, awaited", "async_chat"),
    Scenario("async stream", "a stream inside the app's streamed response", "async_stream"),
    Scenario("concurrent", "five requests of five sessions at once", "async_chat", requests=5),
    Scenario("concurrent streams", "five streams of five sessions at once", "async_stream", requests=5),
    Scenario("responses", "OpenAI's Responses API", "responses"),
    Scenario("responses stream", "a stream of the Responses API", "responses_stream"),
    Scenario("async responses", "OpenAI's Responses API, awaited", "async_responses"),
    Scenario(
        "async responses stream",
        "such a stream inside the app's streamed response",
        "async_responses_stream",
    ),
    Scenario("embeddings", "embeddings", "embeddings"),
    Scenario("async embeddings", "embeddings, awaited", "async_embeddings"),
    Scenario("tool call", "the model calls a tool and is called again with the result", "tool_call"),
    Scenario("async tool call", "a tool call, awaited", "async_tool_call"),
    Scenario("streamed tool call", "a tool call whose events the app reads as they come", "streamed_tool_call"),
    Scenario("concurrent tool calls", "five such requests of five sessions at once", "async_tool_call", requests=5),
    Scenario("429", "the gateway refuses the call", "chat", status=429),
    Scenario("500", "the gateway fails", "chat", status=500),
    Scenario("async 429", "the gateway refuses an awaited call", "async_chat", status=429),
    Scenario("stream 500", "the gateway fails before a stream begins", "stream", status=500),
    Scenario("responses 429", "the gateway refuses a call of the Responses API", "responses", status=429),
    Scenario("closed stream", "the app closes a stream after its first chunk", "closed_stream", whole=False),
    Scenario(
        "cancelled stream", "the app's client disconnects in mid-stream", "async_stream", leaves=True, whole=False
    ),
)
