"""The simulated model behind `Gateway`: its answer, its tokens and its price."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

#: USD per token.
PRICE_IN: Final = 2.5e-6
PRICE_OUT: Final = 1e-5


class ModelCall(NamedTuple):
    """One call of the simulated model.

    Attributes:
        body: The JSON body of the request.
        id: The id of the response.
        model: The name of the model in the response.
        priced: Whether the response states a cost, as gateways do and providers do not.
        sse: Whether Gemini streams server-sent events instead of a JSON array.
        cached: Whether the response comes from the gateway's cache and costs nothing.
        extra: Members that the gateway adds to the response, or to the last chunk of a stream.
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
        """The prompt, from the field of the API that was called."""
        fields = ("messages", "input", "contents", "prompt")
        return next((self.body[field] for field in fields if self.body.get(field)), "")

    @property
    def tool(self) -> str | None:
        """The name of the first tool. The model calls it unless the last message is a tool result."""
        tools = self.body.get("tools")
        first: Any = tools[0] if isinstance(tools, list) and tools else None
        if not isinstance(first, dict) or _ends_with_tool_result(self.prompt):
            return None
        declared = first.get("functionDeclarations") or first.get("function_declarations") or [first.get("function")]
        inner = declared[0] if isinstance(declared[0], dict) else first
        return str(inner.get("name") or "tool")

    @property
    def text(self) -> str:
        """The answer."""
        turns = len(self.prompt) if isinstance(self.prompt, list) else 1
        return f"This is the answer to {turns} message(s)."

    @property
    def tokens(self) -> tuple[int, int]:
        """Prompt tokens and completion tokens."""
        return (0, 0) if self.cached else (count_tokens(self.prompt), count_tokens(self.tool or self.text))

    @property
    def cost(self) -> dict[str, Any]:
        """The cost members of OpenRouter's usage object; empty if the response states no cost."""
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
        """Yield the answer word by word."""
        first, *others = self.text.split(" ")
        yield first
        for word in others:
            yield f" {word}"


def _ends_with_tool_result(prompt: Any) -> bool:
    """Return whether the last message is the result of a tool."""
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
    """Return an estimate of four characters per token."""
    return max(1, len(value if isinstance(value, str) else json.dumps(value)) // 4)


def sse_data(value: Any) -> bytes:
    """Return a server-sent event without an event name."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def sse_event(kind: str, **fields: Any) -> bytes:
    """Return a server-sent event whose name is also the ``type`` in its data."""
    return f"event: {kind}\n".encode() + sse_data({"type": kind, **fields})
