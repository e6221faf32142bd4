"""Requests of clients to an app whose spans go to Langfuse: the documented fields of OpenRouter, LiteLLM and Langfuse.

Apps with all kinds of instrumentations get the same requests, see `tests.export.instrumented_app`.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from byline.attribution import to_trace_id
from byline.testing import replies
from byline.testing.simulated_model import PRICE_IN, PRICE_OUT, ModelCall

MODEL: Final = "openai/gpt-4o"
QUESTION: Final = "Summarize this document..."
MESSAGES: Final = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
#: Arguments of the SDK besides model and messages.
PARAMETERS: Final[dict[str, Any]] = {"temperature": 0.2, "max_tokens": 64, "top_p": 0.9}
TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {"name": "search", "description": "Finds.", "parameters": {"type": "object", "properties": {}}},
}
PARENT: Final = "00f067aa0ba902b7"


class Asked(NamedTuple):
    """One request to the app.

    Attributes:
        trace: The trace's id, as the caller says it somewhere in the request.
        body: What is posted besides model and messages.
        headers: Its headers.
        stamped: What a span processor of the app's own sets on each of its spans.
        stream: Whether the app asks its model for a stream.
    """

    trace: str
    body: dict[str, Any] = {}  # noqa: RUF012 - nobody writes into it
    headers: dict[str, str] = {}  # noqa: RUF012
    stamped: dict[str, Any] = {}  # noqa: RUF012
    stream: bool = False

    @property
    def filed(self) -> str:
        """The trace's id in Langfuse."""
        return f"{to_trace_id(self.trace):032x}"


#: The example of OpenRouter's page.
OPENROUTER: Final[dict[str, Any]] = {
    "user": "user_12345",
    "session_id": "session_abc",
    "trace": {
        "trace_id": "workflow_12345",
        "trace_name": "Document Processing Pipeline",
        "span_name": "Summarization Step",
        "generation_name": "Generate Summary",
        "environment": "production",
        "pipeline_version": "2.1.0",
    },
}
#: The rows that its page has gained since, and the last one of its table.
LINKED: Final[dict[str, Any]] = {
    **OPENROUTER,
    "trace": {**OPENROUTER["trace"], "trace_id": "linked", "parent_span_id": PARENT, "release": "2026.11"},
}
#: The controls that LiteLLM's integrations with Langfuse know; the first four are the example of its page.
CONTROLS: Final[dict[str, Any]] = {
    "generation_name": "welcome-message",
    "trace_id": "trace-123",
    "session_id": "sess-42",
    "tags": ["prod", "beta-user"],
    "trace_name": "Onboarding",
    "trace_user_id": "user-7",
    "trace_release": "2026.11",
    "trace_version": "v9",
    "trace_metadata": {"plan": "gold"},
    "generation_id": "gen-7",
    "update_trace_keys": ["name"],
    "debug_langfuse": True,
}
BODY_CONTROLS: Final = {**CONTROLS, "parent_observation_id": PARENT, "team": "blue"}
HEADER_CONTROLS: Final = {
    **{f"langfuse_{key}": str(value) for key, value in CONTROLS.items()},
    "langfuse_trace_id": "headers",
    "langfuse_tags": "prod,beta-user",
    "langfuse_trace_metadata": '{"plan": "gold"}',
}

REQUESTS: Final = {
    # The first one is answered by `ANSWER`.
    "resolved": Asked("resolved", {"trace": "resolved"}),
    # And the second one by an error.
    "failed": Asked("failed", {"trace": {"trace_id": "failed", "generation_name": "Try"}}),
    "whole": Asked("workflow_12345", OPENROUTER),
    "streamed": Asked("workflow_12345", OPENROUTER, stream=True),
    "linked": Asked("linked", LINKED),
    "controls": Asked("trace-123", {"metadata": BODY_CONTROLS}),
    "headers": Asked("headers", headers=HEADER_CONTROLS),
    "existing": Asked("existing", {"metadata": {"existing_trace_id": "existing", "trace_id": "new", "version": "v9"}}),
    "tools": Asked("tools", {"trace": {"trace_id": "tools", "generation_name": "Pick a tool"}, "tools": [TOOL]}),
    "mask_input": Asked("mask-in", {"metadata": {"trace_id": "mask-in", "mask_input": True}}),
    "mask_output": Asked("mask-out", {"trace": "mask-out"}, {"langfuse_mask_output": "true"}),
    **{
        key: Asked(key, {"trace": key}, stamped={key: "stated"})
        for key in ("langfuse.session.id", "session.id", "langfuse.user.id", "user.id")
    },
}


def _answer() -> dict[str, Any]:
    found = replies.chat_completion(ModelCall({"messages": MESSAGES}, "gen-resolved", "openai/gpt-4o-2026-05-13"))
    found["usage"]["prompt_tokens_details"]["cached_tokens"] = 4
    found["usage"]["completion_tokens_details"]["reasoning_tokens"] = 2
    return found


#: A reply that names another model than was asked for, with tokens of all kinds.
ANSWER: Final = _answer()


def price(usage: dict[str, float]) -> float:
    """The gateway's price of these tokens, in USD."""
    given = sum(count for name, count in usage.items() if name.startswith("input"))
    returned = sum(count for name, count in usage.items() if name.startswith("output"))
    return given * PRICE_IN + returned * PRICE_OUT
