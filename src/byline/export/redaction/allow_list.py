"""The allow-list of content redaction: which texts stay on a span. Every other text counts as content.

Numbers and booleans always stay. A text stays under the names listed here, and a single word stays under
names of choices and ids (``…type``, ``…status``, ``…id``). Names of prompts and completions
need no list: instrumentations invent new ones with every release, while the names of ids, models, and
transport attributes are few and settled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from byline.genai import attributes as names
from byline.genai.attributes import json_dumps

#: Attributes that hold request parameters as one JSON text; `redact_parameters` cleans their values.
PARAMETERS: Final = frozenset(
    {"embedding.invocation_parameters", "langfuse.observation.model.parameters", "llm.invocation_parameters"}
)
#: Attributes that hold a URL, or the parts of one that may repeat a question.
URLS: Final = frozenset({"http.target", "http.url", "url.fragment", "url.full", "url.original", "url.query"})

_KEPT: Final = frozenset(
    {
        *(name for fields in names.ATTRIBUTION.values() for name in fields),
        *PARAMETERS,
        # OpenTelemetry's GenAI conventions. Single-word parameters are choices: `_CHOICES`.
        "gen_ai.agent.name", "gen_ai.evaluation.name", "gen_ai.operation.name", "gen_ai.output.type",
        "gen_ai.prompt.name", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.request.user",
        "gen_ai.response.id", "gen_ai.response.model", "gen_ai.system", "gen_ai.tool.name", "gen_ai.workflow.name",
        "openai.api.type", "openai.request.service_tier", "openai.response.service_tier",
        "openai.response.system_fingerprint",
        # Langfuse.
        "langfuse.observation.completion_start_time", "langfuse.observation.cost_details",
        "langfuse.observation.level", "langfuse.observation.model.name", "langfuse.observation.prompt.name",
        "langfuse.observation.usage_details", "langfuse.prompt.name", "langfuse.session.id", "langfuse.trace.metadata",
        "langfuse.user.id",
        # OpenInference, OpenLLMetry, Pydantic AI.
        "agent.name", "agent_name", "embedding.model_name", "graph.node.name", "llm.model_name", "metadata",
        "model_name", "openinference.span.kind", "reranker.model_name", "tag.tags", "tool.name",
        "traceloop.workflow.name",
        # OpenTelemetry's general conventions: errors, databases, GraphQL, HTTP, users.
        "db.collection.name", "db.name", "db.namespace", "db.operation", "db.operation.name", "db.query.summary",
        "db.response.status_code", "db.sql.table", "db.system", "db.system.name", "error.type", "exception.type",
        "graphql.operation.name", "http.client_ip", "http.flavor", "http.host", "http.method", "http.request.method",
        "http.request.method_original", "http.route", "http.scheme", "http.server_name", "http.status_text",
        "http.target", "http.url", "http.user_agent", "user.roles",
    }
)  # fmt: skip
#: Names that begin so stay, unless they are below one of `_CONTENT`.
_KEPT_BELOW: Final = (
    "byline.",
    names.METADATA,
    "gen_ai.aggregated_usage.",
    "gen_ai.usage.",
    "llm.cost.",
    "llm.token_count.",
    "llm.usage.",
    "client.", "cloud.", "code.", "container.", "deployment.", "faas.", "feature_flag.", "host.", "k8s.",
    "messaging.", "net.", "network.", "os.", "otel.", "peer.", "process.", "rpc.", "server.", "service.",
    "telemetry.", "thread.", "url.", "user_agent.",
)  # fmt: skip
#: Content and credentials that stand among the names above, or that hold values of any kind by their keys.
_CONTENT: Final = (
    names.ERROR_MESSAGE,
    "code.stacktrace",
    "container.command",
    "feature_flag.error.message",
    "feature_flag.evaluation.error.message",
    "gen_ai.prompt.variable.",
    "http.request.header.",
    "http.response.header.",
    "llm.prompt_template.",
    "messaging.message.body",
    "otel.status_description",
    "process.command",
    "process.environment_variable",
    "rpc.connect_rpc.request.metadata.",
    "rpc.connect_rpc.response.metadata.",
    "rpc.grpc.request.metadata.",
    "rpc.grpc.response.metadata.",
)
#: The caller's address and user agent: no content, but personal data.
_PERSONAL: Final = re.compile(
    r"byline\.caller\.(?:address|user_agent)|client\..+|http\.(?:client_ip|user_agent)|net\.peer\.ip|"
    r"net\.sock\.peer\..+|network\.peer\..+|user_agent\..+|"
    r"http\.request\.header\.(?:forwarded|user[_-]agent|x[_-]forwarded[_-](?:by|for)|x[_-]real[_-]ip)"
)
#: Headers that describe the exchange; all others may repeat a question or a page's address.
_HEADERS: Final = re.compile(
    r"accept(?:-charset|-encoding|-language)?|age|allow|cache-control|connection|content-(?:encoding|length|type)|date|"
    r"etag|expires|forwarded|host|keep-alive|openai-(?:processing-ms|version)|origin|retry-after|server|te|"
    r"traceparent|transfer-encoding|upgrade|user-agent|vary|via|x-forwarded-(?:by|for|host|port|proto)|x-real-ip|"
    r"x-stainless-.+|.+-ratelimit-.+|.+-id"
)
#: Last words of names under which a single word is a choice of a few, an id or a version, and no content.
_CHOICES: Final = frozenset(
    {
        "alias", "choice", "code", "effort", "fingerprint", "format", "formats", "hash", "id", "ids", "kind", "level",
        "method", "mime", "modalities", "mode", "model", "object", "path", "provider", "quality", "reason", "reasons",
        "size", "stage", "state", "status", "tier", "truncation", "type", "variant", "verbosity", "version",
        "voice",
    }
)  # fmt: skip
#: A name, or the description of a task, by OpenLLMetry's instrumentations of agents.
_ENTITY_NAME: Final = "traceloop.entity.name"
_MAX_VECTOR: Final = 8
_WORD_BREAK: Final = re.compile(r"[\W_\d]+|(?<=[a-z])(?=[A-Z])")
#: Alone, in quotes, or alone in a list, as in JSON.
_SINGLE_WORD: Final = re.compile(r"""(?:\[?["']?[\w.+/:\-]{1,64}["']?\]?)?""")


def is_allowed(name: str, value: Any) -> bool:
    """Return whether an attribute stays when content is redacted.

    Example:
        >>> is_allowed("tool_choice", "auto"), is_allowed("response_format", '{"type": "json_schema"}')
        (True, False)
    """
    return is_kept_name(name) or not _holds_text(value) or (_names_choice(name) and is_plain_value(value))


@lru_cache(maxsize=4096)
def is_kept_name(name: str) -> bool:
    """Return whether any text under this name stays."""
    if name in _KEPT:
        return True
    _, is_header, header = name.partition(".header.")
    if is_header:
        return _HEADERS.fullmatch(header.lower().replace("_", "-")) is not None
    return name.startswith(_KEPT_BELOW) and not name.startswith(_CONTENT)


@lru_cache(maxsize=4096)
def is_personal(name: str) -> bool:
    """Return whether an attribute identifies the caller's machine or program; `is_allowed` does not judge these."""
    return _PERSONAL.fullmatch(name) is not None


def is_configuration(name: str, _value: Any) -> bool:
    """Return whether an attribute of a resource or scope stays: all but the command line, which may hold a prompt."""
    return not name.startswith("process.command")


def is_plain_value(value: Any) -> bool:
    """Return whether a value is a number, one word (a choice, an id, a version), or a list of these."""
    if isinstance(value, list | tuple):
        return all(is_plain_value(item) for item in value)
    if isinstance(value, str):
        return _SINGLE_WORD.fullmatch(value) is not None
    return value is None or isinstance(value, bool | int | float)


def split_words(name: str) -> list[str]:
    """Return the words of a name in lower case."""
    return [word.lower() for word in _WORD_BREAK.split(name) if word]


def redact_parameters(parameters: str) -> str:
    """Return request parameters, a JSON object, without the texts that may be content.

    Example:
        >>> redact_parameters('{"temperature": 0.5, "top_p": NaN, "service_tier": "flex", "preamble": "You are …"}')
        '{"temperature": 0.5, "service_tier": "flex"}'
    """
    try:
        parsed = json.loads(parameters)
    except (ValueError, RecursionError):
        return "{}"
    if not isinstance(parsed, dict):
        return "{}"
    return json_dumps({name: value for name, value in parsed.items() if is_allowed(name, value)})


@lru_cache(maxsize=4096)
def _names_choice(name: str) -> bool:
    words = split_words(name)
    is_choice = bool(words) and (words[-1] in _CHOICES or name == _ENTITY_NAME)
    return is_choice and not name.startswith(_CONTENT)


def _holds_text(value: Any) -> bool:
    if value is None or isinstance(value, bool | int | float):
        return False
    if isinstance(value, list | tuple):
        # An embedding reveals its text.
        return len(value) > _MAX_VECTOR or any(_holds_text(item) for item in value)
    return not isinstance(value, Mapping) or any(_holds_text(item) for item in value.values())
