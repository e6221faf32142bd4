"""smolagents: an agent that calls tools, and one that writes code."""

from __future__ import annotations

import importlib
from typing import Any, Final

QUESTION: Final = "Who wrote this?"
_LOOK_UP: Final = "Look it up.\n<code>\nprint(look_up())\n</code>"
_ANSWER: Final = "Answer.\n<code>\nfinal_answer('This is the answer.')\n</code>"


class Calls:
    """A code agent on OpenAI's chat completions; it runs what the model writes."""

    def __init__(self, url: str) -> None:
        self.smolagents: Any = importlib.import_module("smolagents")
        self.model = self.smolagents.OpenAIServerModel(
            model_id="openai/gpt-4o", api_base=f"{url}/api/v1", api_key="sk-matrix", client_kwargs={"max_retries": 0}
        )

    @staticmethod
    def reply(body: Any) -> str:
        """The agent looks up, and answers."""
        return _ANSWER if "Ada did." in str(body["messages"]) else _LOOK_UP

    def tool_call(self) -> list[str]:
        """The model calls a tool, and is told what it gave."""
        agent = self.smolagents.CodeAgent(
            model=self.model,
            tools=[self.smolagents.tool(look_up)],
            name="writer",
            description="Answers.",
            verbosity_level=0,
        )
        agent.run(QUESTION)
        return []


def look_up() -> str:
    """Look something up."""
    return "Ada did."
