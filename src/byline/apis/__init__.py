"""ApiParser readers: what the bodies of each API shape say of their call."""

from __future__ import annotations

from typing import Final

from byline.apis import anthropic, bedrock, gemini, openai, others
from byline.apis.fields import apply_error
from byline.apis.parser import ApiParser
from byline.apis.sse import decode_event
from byline.call_result import CallResult
from byline.gateways import values

#: End of the path → the shape that is spoken there; longer endings first.
PARSERS: Final[dict[str, ApiParser]] = {
    "/chat/completions": openai.Chat(),
    "/completions": openai.Completions(),
    "/embeddings": openai.Embeddings(),
    "/responses": openai.Responses(),
    "/messages": anthropic.Messages(),
    ":generateContent": gemini.Generate(),
    ":streamGenerateContent": gemini.Generate(),
    ":embedContent": gemini.Embed(),
    ":batchEmbedContents": gemini.Embed(),
    "/api/chat": others.OllamaChat(),
    "/api/generate": others.OllamaGenerate(),
    "/api/embed": others.OllamaEmbed(),
    "/v2/chat": others.CohereChat(),
    "/v2/embed": others.CohereEmbed(),
    "/converse": bedrock.Converse(),
    "/converse-stream": bedrock.Converse(),
    "/invoke": bedrock.Invoke(),
    "/invoke-with-response-stream": bedrock.Invoke(),
}
_ENDINGS: Final = tuple(PARSERS)


def find_parser(path: str) -> ApiParser | None:
    """Return the API shape that is spoken at a path, ``None`` where no model is called.

    This runs for every outgoing request of the app.
    """
    if not path.endswith(_ENDINGS):
        return None
    wire = next(wire for ending, wire in PARSERS.items() if path.endswith(ending))
    return wire if wire.within in path else None


def parse_error(status: int, body: bytes, facts: CallResult) -> None:
    """Take class and detail of an error reply, in any provider's shape; else the status is the class."""
    decoded = decode_event(body)
    if isinstance(decoded, list) and decoded:
        decoded = decoded[0]
    apply_error(values.mapping(decoded), facts)
    if facts.error_type is None or facts.error_type == "error":
        facts.error_type = str(status)


__all__ = ["PARSERS", "ApiParser", "find_parser", "parse_error"]
