"""The APIs of model providers: one parser for each reads requests, replies, streams and messages."""

from __future__ import annotations

from typing import Final

from byline.apis import anthropic, bedrock, cohere, gemini, ollama, openai, openai_responses
from byline.apis.parser import ApiParser, parse_error

#: End of the path → the parser of the API. A path that has two of these ends has the longer one first.
PARSERS: Final[dict[str, ApiParser]] = {
    "/chat/completions": openai.Chat(),
    "/completions": openai.Completions(),
    "/embeddings": openai.Embeddings(),
    "/responses": openai_responses.Responses(),
    "/messages": anthropic.Messages(),
    ":generateContent": gemini.Generate(),
    ":streamGenerateContent": gemini.Generate(),
    ":embedContent": gemini.Embed(),
    ":batchEmbedContents": gemini.Embed(),
    "/api/chat": ollama.OllamaChat(),
    "/api/generate": ollama.OllamaGenerate(),
    "/api/embed": ollama.OllamaEmbed(),
    "/v2/chat": cohere.CohereChat(),
    "/v2/embed": cohere.CohereEmbed(),
    "/converse": bedrock.Converse(),
    "/converse-stream": bedrock.Converse(),
    "/invoke": bedrock.Invoke(),
    "/invoke-with-response-stream": bedrock.Invoke(),
}
_ENDINGS: Final = tuple(PARSERS)


def find_parser(path: str) -> ApiParser | None:
    """Return the parser of the API at a path, ``None`` if the path is none of a model call.

    This runs for every outgoing request of the app.
    """
    if not path.endswith(_ENDINGS):
        return None
    parser = next(parser for ending, parser in PARSERS.items() if path.endswith(ending))
    return parser if parser.path_contains in path else None


__all__ = ["PARSERS", "ApiParser", "find_parser", "parse_error"]
