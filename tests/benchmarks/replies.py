"""Reading a response with big members that nobody wants, beside the decoding that every SDK does first."""

from __future__ import annotations

import json
from typing import Any, Final

from byline.apis import find_parser
from byline.call_result import CallResult
from tests.benchmarks.measure import Row, costs

_USAGE: Final = {"prompt_tokens": 3, "completion_tokens": 4}


def chat_reply(choice: dict[str, Any], **members: Any) -> bytes:
    """Return the body of a response with one choice."""
    message = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop", **choice}
    return json.dumps({"id": "c-1", "model": "m", "choices": [message], "usage": _USAGE, **members}).encode()


def _prompt_logprobs() -> bytes:
    """Return a response of vLLM, 1.2 MiB long."""
    tokens = [
        {str(n + k): {"logprob": -0.1234, "rank": k, "decoded_token": " t"} for k in range(6)} for n in range(3600)
    ]
    return chat_reply({}, prompt_logprobs=[None, *tokens])


def _logprobs() -> bytes:
    token = {"token": " t", "logprob": -0.1234, "bytes": [32, 116]}
    return chat_reply({"logprobs": {"content": [{**token, "top_logprobs": [token] * 8} for _ in range(2500)]}})


def rows() -> list[Row]:
    """Return the time that reading such a response takes."""
    parser = find_parser("/v1/chat/completions")
    assert parser is not None
    found = []
    for name, body, bound in (("prompt_logprobs", _prompt_logprobs(), 0.1), ("logprobs", _logprobs(), 0.2)):

        def ours(loops: int, body: bytes = body) -> None:
            for _ in range(loops):
                result = CallResult()
                parser.parse_response(body, result, capture=False)
                assert result.input_tokens == 3

        def theirs(loops: int, body: bytes = body) -> None:
            for _ in range(loops):
                json.loads(body)

        taken = costs({"ours": ours, "theirs": theirs}, loops=3)
        size = f"{len(body) / 2**20:.1f} MiB"
        found.append(Row(f"response of {size}, {name}", "json.loads of it", taken["theirs"], taken["ours"], bound))
    return found
