"""The client of the demo: a conversation of two turns through the OpenAI SDK.

``python -m byline.cli.demo_caller BASE_URL`` runs in a process of its own, as clients do, so that only the
app's process is instrumented.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from openai import OpenAI, OpenAIError

MODEL: Final = "openai/gpt-4o"
QUESTIONS: Final = ("Summarize this document in one sentence.", "Shorter, please.")

#: The client's ids: the session in a header, the others in the body.
HEADERS: Final = {"x-session-id": "session_abc"}
BODY: Final = {
    "user": "user_12345",
    "trace": {
        "trace_id": "workflow_12345",
        "trace_name": "Document Processing Pipeline",
        "span_name": "Summarization Step",
        "generation_name": "Generate Summary",
        "environment": "production",
        "pipeline_version": "2.1.0",
    },
}


def run_conversation(base_url: str) -> None:
    """Send two requests, the second one for a stream."""
    messages: list[Any] = [{"role": "user", "content": QUESTIONS[0]}]
    with OpenAI(base_url=base_url, api_key="caller", max_retries=0, timeout=30) as client:
        first = client.chat.completions.create(model=MODEL, messages=messages, extra_headers=HEADERS, extra_body=BODY)
        messages += [
            {"role": "assistant", "content": first.choices[0].message.content},
            {"role": "user", "content": QUESTIONS[1]},
        ]
        second = client.chat.completions.create(
            model=MODEL, messages=messages, stream=True, extra_headers=HEADERS, extra_body=BODY
        )
        for _ in second:
            pass


if __name__ == "__main__":
    try:
        run_conversation(sys.argv[1])
    except OpenAIError as failure:
        sys.exit(f"{type(failure).__name__}: {failure}")
