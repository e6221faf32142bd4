"""The model behind the testing gateway: what it says, in how many tokens, at what price."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

#: USD a token.
PRICE_IN: Final = 2.5e-6
PRICE_OUT: Final = 1e-5


class Ask(NamedTuple):
    """What is asked.

    Attributes:
        body: The JSON object that was posted.
        id: The id that the reply carries.
        model: The model that answers.
        priced: Whether the reply states a cost, as gateways do and providers do not.
        sse: Whether Gemini was asked to stream server-sent events instead of a JSON array.
        cached: Whether the reply comes from the gateway's cache, and costs nothing.
        extra: What the gateway adds to the reply, to the last chunk of a stream.
    """

    body: dict[str, Any]
    id: str
    model: str
    priced: bool = True
    sse: bool = True
    cached: bool = False
    extra: dict[str, Any] = {}  # noqa: RUF012 - never changed

    @property
    def prompt(self) -> Any:
        """What was asked, in whichever field the API has it."""
        fields = ("messages", "input", "contents", "prompt")
        return next((self.body[field] for field in fields if self.body.get(field)), "")

    @property
    def tool(self) -> str | None:
        """The name of the first tool, which the model calls unless it has been given a result."""
        tools = self.body.get("tools")
        first: Any = tools[0] if isinstance(tools, list) and tools else None
        if not isinstance(first, dict) or _is_result(self.prompt):
            return None
        declared = first.get("functionDeclarations") or first.get("function_declarations") or [first.get("function")]
        inner = declared[0] if isinstance(declared[0], dict) else first
        return str(inner.get("name") or "tool")

    @property
    def text(self) -> str:
        """What the model says."""
        turns = len(self.prompt) if isinstance(self.prompt, list) else 1
        return f"This is the answer to {turns} message(s)."

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens of the prompt and of the answer."""
        return (0, 0) if self.cached else (count_tokens(self.prompt), count_tokens(self.tool or self.text))

    @property
    def cost(self) -> dict[str, Any]:
        """The cost as OpenRouter states it beside the tokens; empty where no cost is stated."""
        if not self.priced:
            return {}
        prompt, answer = self.tokens
        return {
            "cost": round(prompt * PRICE_IN + answer * PRICE_OUT, 9),
            "is_byok": False,
            "cost_details": {
                "upstream_inference_cost": None,
                "upstream_inference_prompt_cost": round(prompt * PRICE_IN, 9),
                "upstream_inference_completions_cost": round(answer * PRICE_OUT, 9),
            },
        }

    def words(self) -> Iterator[str]:
        """What the model says, word by word."""
        first, *others = self.text.split(" ")
        yield first
        for word in others:
            yield f" {word}"


def _is_result(prompt: Any) -> bool:
    """Whether the last turn gives the result of a tool."""
    last = prompt[-1] if isinstance(prompt, list) and prompt else None
    if not isinstance(last, dict):
        return False
    if last.get("role") == "tool" or last.get("type") == "function_call_output":
        return True
    parts = last.get("content") or last.get("parts")
    return isinstance(parts, list) and any(
        isinstance(part, dict) and (part.get("type") == "tool_result" or "functionResponse" in part) for part in parts
    )


def count_tokens(value: Any) -> int:
    """Return a plausible number of tokens: four characters each."""
    return max(1, len(value if isinstance(value, str) else json.dumps(value)) // 4)


def data(value: Any) -> bytes:
    """Return a server-sent event without a name."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def event(kind: str, **fields: Any) -> bytes:
    """Return a server-sent event with a name, and its type in the data as well."""
    return f"event: {kind}\n".encode() + data({"type": kind, **fields})
