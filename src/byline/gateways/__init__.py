"""The gateways that byline knows, one file each."""

from __future__ import annotations

from typing import Final

from byline.gateways.gateway import Field, Gateway, Outgoing, Reply
from byline.gateways.litellm import LiteLLM
from byline.gateways.openrouter import OpenRouter

#: Every gateway, in the order in which replies are compared with them.
ALL: Final[tuple[type[Gateway], ...]] = (OpenRouter, LiteLLM)

#: Every name that a gateway gives a claim, gathered from the gateways' own files.
FIELDS: Final[tuple[Field, ...]] = tuple(field for made in ALL for field in made.fields)

__all__ = ["ALL", "FIELDS", "Field", "Gateway", "LiteLLM", "OpenRouter", "Outgoing", "Reply"]
