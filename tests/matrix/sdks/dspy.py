"""DSPy: a ReAct agent, which reads its next step from the text of the answer."""

from __future__ import annotations

import importlib
from typing import Any, Final

QUESTION: Final = "Who wrote this?"
_CALL: Final = """[[ ## next_thought ## ]]
Look it up.

[[ ## next_tool_name ## ]]
{tool}

[[ ## next_tool_args ## ]]
{{}}

[[ ## completed ## ]]"""
_ANSWER: Final = """[[ ## reasoning ## ]]
It was looked up.

[[ ## answer ## ]]
This is the answer.

[[ ## completed ## ]]"""


class Calls:
    """An agent of DSPy, which calls OpenAI's chat completions through LiteLLM."""

    def __init__(self, url: str) -> None:
        dspy: Any = importlib.import_module("dspy")
        self.dspy = dspy
        # The default engine of DSPy speaks HTTP over sockets of its own, which byline does not hook.
        model = dspy.LM(
            "openai/openai/gpt-4o",
            api_base=f"{url}/api/v1",
            api_key="sk-matrix",
            cache=False,
            num_retries=0,
            engine="litellm",
        )
        dspy.configure(lm=model)
        self.agent = dspy.ReAct("question -> answer", tools=[look_up])

    @staticmethod
    def reply(body: Any) -> str:
        """The agent looks up, finishes, and answers."""
        asked = str(body["messages"])
        if "next_tool_name" not in body["messages"][0]["content"]:
            return _ANSWER
        return _CALL.format(tool="finish" if "Ada did." in asked else "look_up")

    def tool_call(self) -> list[str]:
        """The model calls a tool, and is told what it gave."""
        self.agent(question=QUESTION)
        return []

    async def async_tool_call(self) -> list[str]:
        """The same, awaited."""
        await self.agent.acall(question=QUESTION)
        return []


def look_up() -> str:
    """Look something up."""
    return "Ada did."
