"""Chat completions, text completions and embeddings, as OpenRouter answers them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from byline.testing.replies.model import Ask, count_tokens, data

#: Seconds since the epoch: replies are the same in every run.
CREATED: Final = 1764000000
PROCESSING: Final = b": OPENROUTER PROCESSING\n\n"
DONE: Final = b"data: [DONE]\n\n"


def usage(ask: Ask) -> dict[str, Any]:
    """Return tokens, their details and the cost in USD."""
    prompt, answer = ask.tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        **ask.cost,
        "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, "audio_tokens": 0, "video_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def error(status: int, message: str) -> dict[str, Any]:
    """Return an error."""
    return {"error": {"code": status, "message": message}}


def chat(ask: Ask) -> dict[str, Any]:
    """Return a whole chat completion; a call of the first tool where there are tools."""
    message: dict[str, Any] = {"role": "assistant", "content": ask.text, "refusal": None}
    reason = "stop"
    if ask.tool is not None:
        message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [_call(ask.tool)]}
        reason = "tool_calls"
    choice = {
        "index": 0,
        "finish_reason": reason,
        "native_finish_reason": reason,
        "logprobs": None,
        "message": message,
    }
    return {**_head(ask, "chat.completion"), "choices": [choice], "usage": usage(ask), **ask.extra}


def chat_stream(ask: Ask) -> Iterator[bytes]:
    """Yield a streamed chat completion: a comment first, usage and cost in the last chunk."""
    head = _head(ask, "chat.completion.chunk")
    yield PROCESSING
    if ask.tool is not None:
        call = _call(ask.tool)
        begun = {**call, "index": 0, "function": {"name": ask.tool, "arguments": ""}}
        yield data({**head, "choices": [_delta(role="assistant", content=None, tool_calls=[begun])]})
        rest = {"index": 0, "function": {"arguments": "{}"}}
        yield data({**head, "choices": [_delta(tool_calls=[rest])]})
    else:
        for word in ask.words():
            yield data({**head, "choices": [_delta(role="assistant", content=word)]})
    reason = "stop" if ask.tool is None else "tool_calls"
    end = {**_delta(role="assistant", content=""), "finish_reason": reason, "native_finish_reason": reason}
    yield data({**head, "choices": [end]})
    yield data({**head, "choices": [], "usage": usage(ask), **ask.extra})
    yield DONE


def stream_error(ask: Ask, status: int, message: str) -> bytes:
    """Return the chunk by which OpenRouter says that a stream has failed in the middle."""
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
    return data({**_head(ask, "chat.completion.chunk"), **error(status, message), "choices": [choice]})


def completion(ask: Ask) -> dict[str, Any]:
    """Return a whole text completion."""
    choice = {"index": 0, "text": ask.text, "finish_reason": "stop", "logprobs": None}
    return {**_head(ask, "text_completion"), "choices": [choice], "usage": usage(ask)}


def completion_stream(ask: Ask) -> Iterator[bytes]:
    """Yield a streamed text completion."""
    head = _head(ask, "text_completion")
    yield PROCESSING
    for word in ask.words():
        yield data({**head, "choices": [{"index": 0, "text": word, "finish_reason": None, "logprobs": None}]})
    end = {"index": 0, "text": "", "finish_reason": "stop", "logprobs": None}
    yield data({**head, "choices": [end], "usage": usage(ask)})
    yield DONE


def embeddings(ask: Ask) -> dict[str, Any]:
    """Return embeddings of three dimensions."""
    count = len(ask.prompt) if isinstance(ask.prompt, list) else 1
    tokens = 0 if ask.cached else count_tokens(ask.prompt)
    return {
        "id": ask.id,
        "object": "list",
        "model": ask.model,
        "provider": "OpenAI",
        "data": [{"object": "embedding", "index": index, "embedding": [0.1, 0.2, 0.3]} for index in range(count)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "cost": round(tokens * 2e-8, 12)},
        **ask.extra,
    }


def _head(ask: Ask, kind: str) -> dict[str, Any]:
    return {"id": ask.id, "object": kind, "created": CREATED, "model": ask.model, "provider": "OpenAI"}


def _delta(**delta: Any) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": None, "native_finish_reason": None, "logprobs": None}


def _call(name: str) -> dict[str, Any]:
    return {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": "{}"}}
