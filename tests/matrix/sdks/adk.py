"""Google ADK: an agent on Gemini's API."""

from __future__ import annotations

import importlib
from typing import Any, Final

import byline

QUESTION: Final = "Who wrote this?"


class Calls:
    """An agent of ADK with a tool. The runner hands the ids of responses to nobody."""

    def __init__(self, url: str) -> None:
        agents: Any = importlib.import_module("google.adk.agents")
        models: Any = importlib.import_module("google.adk.models")
        runners: Any = importlib.import_module("google.adk.runners")
        self.types: Any = importlib.import_module("google.genai.types")
        self.genai: Any = importlib.import_module("google.genai")
        self.model = models.Gemini(model="gemini-2.5-flash", base_url=url)
        # The model takes its key from the environment.
        self.model.api_client = self.genai.Client(api_key="sk-matrix", http_options={"base_url": url})
        agent = agents.LlmAgent(name="writer", model=self.model, tools=[look_up])
        self.runner = runners.InMemoryRunner(agent=agent, app_name="matrix")
        self.config = importlib.import_module("google.adk.agents.run_config")

    async def async_tool_call(self) -> list[str]:
        """The model calls a tool, and is told what it gave."""
        await self._run()
        return []

    async def streamed_tool_call(self) -> list[str]:
        """The same with streamed responses."""
        await self._run(run_config=self.config.RunConfig(streaming_mode=self.config.StreamingMode.SSE))
        return []

    async def _run(self, **settings: Any) -> None:
        # The instrumentations set the ids of ADK's session, so the app gives ADK those of the request.
        asked = byline.current()
        ids: Any = {"user_id": asked.user_id, "session_id": asked.session_id}
        service = self.runner.session_service
        if await service.get_session(app_name="matrix", **ids) is None:
            await service.create_session(app_name="matrix", **ids)
        message = self.types.UserContent(parts=[self.types.Part(text=QUESTION)])
        async for _ in self.runner.run_async(**ids, new_message=message, **settings):
            pass


def look_up() -> str:
    """Look something up."""
    return "Ada did."
