"""Langfuse's stand-in for OpenAI's SDK."""

from __future__ import annotations

from tests.matrix.content.sdks import openai


class Calls(openai.Calls):
    """OpenAI's API by way of ``langfuse.openai``."""

    module = "langfuse.openai"
