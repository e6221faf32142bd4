"""CrewAI: a crew of one agent with a tool."""

from __future__ import annotations

import importlib
from typing import Any, Final

QUESTION: Final = "Who wrote this?"


class Calls:
    """A crew on OpenAI's chat completions."""

    def __init__(self, url: str) -> None:
        self.crewai: Any = importlib.import_module("crewai")
        self.tool: Any = importlib.import_module("crewai.tools").tool("look_up")(look_up)
        self.llm = self.crewai.LLM(model="openai/gpt-4o", base_url=f"{url}/api/v1", api_key="sk-matrix", max_retries=0)

    def tool_call(self) -> list[str]:
        """The model calls a tool, and is told what it gave."""
        self._crew().kickoff()
        return []

    async def async_tool_call(self) -> list[str]:
        """The same, awaited."""
        await self._crew().akickoff()
        return []

    def _crew(self) -> Any:
        agent = self.crewai.Agent(role="writer", goal="Answer.", backstory="Reads.", llm=self.llm, tools=[self.tool])
        task = self.crewai.Task(description=QUESTION, expected_output="A name.", agent=agent)
        return self.crewai.Crew(name="readers", agents=[agent], tasks=[task])


def look_up() -> str:
    """Look something up."""
    return "Ada did."
