"""The APIs of model providers: one parser for each reads requests, replies, streams and messages."""

from __future__ import annotations

import re
from typing import Final

from byline.apis import (
    anthropic,
    bedrock,
    cohere,
    gemini,
    mistral,
    ollama,
    openai,
    openai_media,
    openai_responses,
    replicate,
)
from byline.apis.openai_media import find_form_fields, form_members
from byline.apis.parser import ApiParser, apply_stated_cost, parse_error

#: End of the path → the parser of the API. A path that has two of these ends has the longer one first.
PARSERS: Final[dict[str, ApiParser]] = {
    "/chat/completions": openai.Chat(),
    "/agents/completions": mistral.Agents(),
    "/completions": openai.Completions(),
    "/embeddings": openai.Embeddings(),
    "/images/generations": openai_media.Images(),
    "/images/edits": openai_media.EditedImages(),
    "/audio/speech": openai_media.Speech(),
    "/audio/transcriptions": openai_media.Transcriptions(),
    "/audio/translations": openai_media.Transcriptions(),
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
    "/predictions": replicate.Predictions(),
}
_ENDINGS: Final = tuple(PARSERS)
#: Part of the path → the parser of a response that is asked for by its id.
_RETRIEVALS: Final[dict[str, ApiParser]] = {
    "/responses/": openai_responses.RetrievedResponse(),
    "/predictions/": replicate.RetrievedPrediction(),
}
_RETRIEVED: Final = frozenset(parser.name for parser in _RETRIEVALS.values())
#: A conversation goes on at a path that ends with its id.
_CONVERSATION: Final = re.compile(r"/conversations/[^/]+(?:/restart)?")


def find_api(method: str, path: str) -> ApiParser | None:
    """Return the parser of the API that a request calls, ``None`` if the request is no LLM request.

    This runs for every outgoing request of the app, before anything else is read of the request.
    """
    return find_parser(path) if method == "POST" else find_retrieval(method, path)


def find_parser(path: str) -> ApiParser | None:
    """Return the parser of the API at a path, ``None`` if no model is called there."""
    if path.endswith(_ENDINGS):
        parser = next(parser for ending, parser in PARSERS.items() if path.endswith(ending))
        return parser if parser.path_pattern is None or parser.path_pattern.search(path) else None
    if "/conversations/" in path and _CONVERSATION.fullmatch(path, path.rindex("/conversations/")):
        return PARSERS["/conversations"]
    return None


def find_retrieval(method: str, path: str) -> ApiParser | None:
    """Return the parser of the reply if a request asks for a response that was created before, ``None`` otherwise."""
    if method == "GET":
        for part, parser in _RETRIEVALS.items():
            if part in path and parser.path_pattern is not None and parser.path_pattern.search(path):
                return parser
    return None


def is_retrieved(parser: ApiParser) -> bool:
    """Return whether responses of an API can be asked for again."""
    return parser.name in _RETRIEVED


__all__ = [
    "PARSERS",
    "ApiParser",
    "apply_stated_cost",
    "find_api",
    "find_form_fields",
    "find_parser",
    "find_retrieval",
    "form_members",
    "is_retrieved",
    "parse_error",
]
