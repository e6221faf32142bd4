"""The APIs of model providers: one parser for each reads requests, replies, streams and messages."""

from __future__ import annotations

import re
from typing import Final

from byline.apis import anthropic, bedrock, cohere, gemini, mistral, ollama, openai, openai_responses
from byline.apis.parser import ApiParser, apply_stated_cost, parse_error

#: End of the path → the parser of the API. A path that has two of these ends has the longer one first.
PARSERS: Final[dict[str, ApiParser]] = {
    "/chat/completions": openai.Chat(),
    "/agents/completions": mistral.Agents(),
    "/completions": openai.Completions(),
    "/embeddings": openai.Embeddings(),
    "/images/generations": openai.Images(),
    "/responses": openai_responses.Responses(),
    "/messages": anthropic.Messages(),
    ":rawPredict": anthropic.VertexMessages(),
    ":streamRawPredict": anthropic.VertexMessages(),
    ":generateContent": gemini.Generate(),
    ":streamGenerateContent": gemini.Generate(),
    ":embedContent": gemini.Embed(),
    ":batchEmbedContents": gemini.Embed(),
    ":predict": gemini.VertexEmbed(),
    "/interactions": gemini.Interactions(),
    "/conversations": mistral.Conversations(),
    "/api/chat": ollama.OllamaChat(),
    "/api/generate": ollama.OllamaGenerate(),
    "/api/embed": ollama.OllamaEmbed(),
    "/v2/chat": cohere.CohereChat(),
    "/v2/embed": cohere.CohereEmbed(),
    "/v1/embed": cohere.CohereEmbed(),
    "/rerank": cohere.CohereRerank(),
    "/converse": bedrock.Converse(),
    "/converse-stream": bedrock.Converse(),
    "/invoke": bedrock.Invoke(),
    "/invoke-with-response-stream": bedrock.Invoke(),
}
_ENDINGS: Final = tuple(PARSERS)
#: Reads the responses to requests of which `is_retrieval` is true.
RETRIEVAL: Final = openai_responses.RetrievedResponse()
_RETRIEVAL: Final = re.compile(r"/responses/resp_[^/]+\Z")
#: A conversation goes on at a path that ends with its id.
_CONVERSATION: Final = re.compile(r"/conversations/[^/]+(?:/restart)?")


def find_parser(path: str) -> ApiParser | None:
    """Return the parser of the API at a path, ``None`` if no model is called there.

    This runs for every outgoing request of the app.
    """
    if path.endswith(_ENDINGS):
        parser = next(parser for ending, parser in PARSERS.items() if path.endswith(ending))
        return parser if parser.path_pattern is None or parser.path_pattern.search(path) else None
    if "/conversations/" in path and _CONVERSATION.fullmatch(path, path.rindex("/conversations/")):
        return PARSERS["/conversations"]
    return None


def is_retrieval(method: str, path: str) -> bool:
    """Return whether a request asks for a response that was created before, perhaps in the background."""
    return method == "GET" and "/responses/" in path and _RETRIEVAL.search(path) is not None


__all__ = ["PARSERS", "RETRIEVAL", "ApiParser", "apply_stated_cost", "find_parser", "is_retrieval", "parse_error"]
