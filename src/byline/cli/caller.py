"""The demo's caller: a conversation of two turns, as any OpenAI client holds it.

``python -m byline.cli.caller BASE_URL``
"""

from __future__ import annotations

import sys
from typing import Any, Final

from openai import OpenAI

MODEL: Final = "openai/gpt-4o"

#: The caller's ids: the session in a header, the rest in the body.
CLAIMS: Final[dict[str, Any]] = {
    "extra_headers": {"x-session-id": "session_abc"},
    "extra_body": {
        "user": "user_12345",
        "trace": {
            "trace_id": "workflow_12345",
            "trace_name": "Document Processing Pipeline",
            "span_name": "Summarization Step",
            "generation_name": "Generate Summary",
            "environment": "production",
            "pipeline_version": "2.1.0",
        },
    },
}


def converse(base_url: str) -> None:
    """Ask twice, the second time for a stream."""
    messages: list[Any] = [{"role": "user", "content": "Summarize this document in one sentence."}]
    with OpenAI(base_url=base_url, api_key="caller") as client:
        first = client.chat.completions.create(model=MODEL, messages=messages, **CLAIMS)
        messages += [
            {"role": "assistant", "content": first.choices[0].message.content},
            {"role": "user", "content": "Shorter, please."},
        ]
        for _ in client.chat.completions.create(model=MODEL, messages=messages, stream=True, **CLAIMS):
            pass


if __name__ == "__main__":
    converse(sys.argv[1])
