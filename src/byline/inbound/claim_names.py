"""Every name under which a claim may come: the one list, in order of precedence."""

from __future__ import annotations

from typing import Final

from byline.gateways import FIELDS as GATEWAY_FIELDS
from byline.gateways.base import Field

#: byline's own names and those of OpenAI-shaped bodies; the gateways' follow.
BYLINE_CLAIMS: Final[tuple[Field, ...]] = (
    Field("session_id", "header", "x-session-id"),
    Field("trace_id", "header", "trace", "trace"),
    Field("session_id", "body", "session_id"),
    Field("user_id", "body", "user"),
    Field("user_id", "body", "end_user"),
    Field("trace_id", "body", "trace", "trace"),
    Field("metadata", "body", "metadata", "controls"),
    Field("session_id", "query", "session_id"),
    Field("user_id", "query", "user"),
    Field("trace_id", "query", "trace", "trace"),
)

#: Names of agents and of the protocols that they speak. Where a name is used for other things as well,
#: it counts only beside another that shows whose it is.
AGENT_PROTOCOL_CLAIMS: Final[tuple[Field, ...]] = (
    Field("session_id", "header", "x-claude-code-session-id"),
    Field("session_id", "header", "x-opencode-session"),
    # Of the connection to a server of tools, which may serve several conversations.
    Field("session_id", "header", "mcp-session-id"),
    # OpenAI's Responses API. The response before this one is another one in each turn, and no session.
    Field("session_id", "body", "conversation", "id", needs="input"),
    Field("metadata", "body", "previous_response_id", "entry"),
    # AG-UI: each run of an agent is a trace of its thread.
    Field("session_id", "body", "threadId", needs="runId"),
    Field("trace_id", "body", "runId", needs="threadId"),
    # A2A, as JSON-RPC and as plain HTTP.
    Field("session_id", "body", "params.message.contextId", needs="jsonrpc"),
    Field("session_id", "body", "message.contextId"),
    # The chat of Vercel's AI SDK.
    Field("session_id", "body", "id", needs="messages"),
    # OpenAI's: a hash as a rule, so that any other name of the user tells more.
    Field("user_id", "body", "safety_identifier"),
)

CLAIM_NAMES: Final[tuple[Field, ...]] = (*BYLINE_CLAIMS, *GATEWAY_FIELDS, *AGENT_PROTOCOL_CLAIMS)

#: Keys of the ``trace`` object; every further key is metadata.
TRACE_KEYS: Final = {
    "trace_id": "trace_id",
    "trace_name": "trace_name",
    "span_name": "span_name",
    "generation_name": "generation_name",
    "parent_span_id": "parent_span_id",
    "environment": "environment",
    "release": "release",
    "version": "version",
    "tags": "tags",
    "langfuse.trace.tags": "tags",
}

#: Keys of LiteLLM's ``metadata`` object, of which the first for a field counts; every further key is metadata.
CONTROL_KEYS: Final = {
    "session_id": "session_id",
    "existing_trace_id": "trace_id",
    "trace_id": "trace_id",
    "trace_name": "trace_name",
    "trace_user_id": "user_id",
    # Anthropic's; it may have a session in it.
    "user_id": "user_id",
    "generation_name": "generation_name",
    "parent_observation_id": "parent_span_id",
    "trace_environment": "environment",
    "trace_release": "release",
    "trace_version": "version",
    "version": "version",
    "tags": "tags",
    "trace_metadata": "metadata",
    # Portkey's spellings.
    "_user": "user_id",
    "_environment": "environment",
    "_organisation": "organization_id",
}

#: Switches of LiteLLM's ``metadata`` object that say nothing about the request.
IGNORED_CONTROLS: Final = frozenset({"update_trace_keys", "debug_langfuse", "prompt"})

#: Keys of any metadata that Langfuse takes for more than that, so that nobody may say by them what he may not say.
LANGFUSE_KEYS: Final = {"langfuse_session_id": "session_id", "langfuse_user_id": "user_id", "langfuse_tags": "tags"}

#: Members of W3C baggage that are claims; all others are somebody else's.
BAGGAGE: Final = {
    "session.id": "session_id",
    "gen_ai.conversation.id": "session_id",
    "langfuse_session_id": "session_id",
    "user.id": "user_id",
    "langfuse_user_id": "user_id",
    "langfuse_trace_name": "trace_name",
    "langfuse_version": "version",
    "langfuse_environment": "environment",
    "langfuse_tags": "tags",
}
