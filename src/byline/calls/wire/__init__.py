"""Wire readers: what the bodies of each API shape say of their call."""

from __future__ import annotations

from typing import Final

from byline.calls.wire import anthropic, bedrock, gemini, openai, others
from byline.calls.wire.members import take_error
from byline.calls.wire.sse import decode
from byline.calls.wire.wire import Wire
from byline.facts import Facts
from byline.gateways import values

#: End of the path → the shape that is spoken there; longer endings first.
WIRES: Final[dict[str, Wire]] = {
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
_ENDINGS: Final = tuple(WIRES)


def recognise(path: str) -> Wire | None:
    """Return the API shape that is spoken at a path, ``None`` where no model is called.

    This runs for every outgoing request of the app.
    """
    if not path.endswith(_ENDINGS):
        return None
    wire = next(wire for ending, wire in WIRES.items() if path.endswith(ending))
    return wire if wire.within in path else None


def read_error(status: int, body: bytes, facts: Facts) -> None:
    """Take class and detail of an error reply, in any provider's shape; else the status is the class."""
    decoded = decode(body)
    if isinstance(decoded, list) and decoded:
        decoded = decoded[0]
    take_error(values.mapping(decoded), facts)
    if facts.error_type is None or facts.error_type == "error":
        facts.error_type = str(status)


__all__ = ["WIRES", "Wire", "read_error", "recognise"]
