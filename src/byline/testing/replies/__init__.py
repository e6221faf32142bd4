"""What the testing gateway answers: one file for each API's shapes, whole and streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from byline.testing.replies import chat, gemini, messages, responses
from byline.testing.replies.model import Ask

#: A whole reply, and the chunks of a streamed one.
Whole = Callable[[Ask], dict[str, Any]]
Streamed = Callable[[Ask], Iterator[bytes]]


class Api(NamedTuple):
    """One endpoint: what its replies look like.

    Attributes:
        ending: How its path ends.
        prefix: What its ids begin with.
        whole: Makes a whole reply.
        stream: Makes the chunks of a streamed one; ``None`` where it does not stream.
        error: Makes the body of an error from status and message.
        stream_error: Makes the chunk that tells of an error in the middle of a stream.
        model: The model that answers where the request names none.
        priced: Whether replies state a cost wherever it is served, or below ``/api/`` alone.
    """

    ending: str
    prefix: str
    whole: Whole
    stream: Streamed | None = None
    error: Callable[[int, str], dict[str, Any]] = chat.error
    stream_error: Callable[[Ask, int, str], bytes] = chat.stream_error
    model: str = "openai/gpt-4o"
    priced: bool = True

    def model_of(self, path: str) -> str:
        """Return the model that a path names, as Gemini's do, else the usual one."""
        name, colon, _ = path.rpartition("/")[2].partition(":")
        return name if colon and name else self.model


_CLAUDE: Final = (messages.error, messages.stream_error, "claude-sonnet-4-5", False)
_GEMINI: Final = (gemini.error, gemini.stream_error, "gemini-2.5-flash", False)

APIS: Final = (
    Api("/chat/completions", "gen", chat.chat, chat.chat_stream),
    Api("/completions", "gen", chat.completion, chat.completion_stream),
    Api("/embeddings", "gen-emb", chat.embeddings),
    Api("/responses", "resp", responses.response, responses.response_stream, chat.error, responses.stream_error),
    Api("/messages", "msg", messages.message, messages.message_stream, *_CLAUDE),
    Api(":generateContent", "gem", gemini.generate, None, *_GEMINI),
    Api(":streamGenerateContent", "gem", gemini.generate, gemini.generate_stream, *_GEMINI),
    Api(":embedContent", "gem", gemini.embed, None, *_GEMINI),
    Api(":batchEmbedContents", "gem", gemini.embed, None, *_GEMINI),
)


def find(path: str) -> Api | None:
    """Return the endpoint at a path, ``None`` where there is none."""
    return next((api for api in APIS if path.endswith(api.ending)), None)
