"""The gateways that byline knows, one file each."""

from __future__ import annotations

from typing import Final

from byline.gateways.aptible import Aptible
from byline.gateways.azure_apim import AzureAPIM
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse
from byline.gateways.bifrost import Bifrost
from byline.gateways.braintrust import Braintrust
from byline.gateways.cloudflare import Cloudflare
from byline.gateways.databricks import Databricks, MLflow
from byline.gateways.envoy import Envoy
from byline.gateways.helicone import Helicone
from byline.gateways.kong import Kong
from byline.gateways.langfuse import LangfuseGateway
from byline.gateways.litellm import LiteLLM
from byline.gateways.openrouter import OpenRouter
from byline.gateways.portkey import Portkey
from byline.gateways.providers import Anthropic, Gemini, OpenAI
from byline.gateways.tensorzero import TensorZero
from byline.gateways.vercel import Vercel

#: Every gateway, in the order in which replies are compared with them.
ALL: Final[tuple[type[Gateway], ...]] = (
    OpenRouter,
    LiteLLM,
    Aptible,
    LangfuseGateway,
    Portkey,
    Helicone,
    Cloudflare,
    Vercel,
    Envoy,
    Bifrost,
    TensorZero,
    Kong,
    Databricks,
    MLflow,
    Braintrust,
    AzureAPIM,
    OpenAI,
    Anthropic,
    Gemini,
)

#: Every name that a gateway gives a claim, gathered from the gateways' own files.
FIELDS: Final[tuple[Field, ...]] = tuple(field for made in ALL for field in made.fields)

__all__ = [
    "ALL",
    "FIELDS",
    "Anthropic",
    "Aptible",
    "AzureAPIM",
    "Bifrost",
    "Braintrust",
    "Cloudflare",
    "Databricks",
    "Envoy",
    "Field",
    "Gateway",
    "GatewayRequest",
    "GatewayResponse",
    "Gemini",
    "Helicone",
    "Kong",
    "LangfuseGateway",
    "LiteLLM",
    "MLflow",
    "OpenAI",
    "OpenRouter",
    "Portkey",
    "TensorZero",
    "Vercel",
]
