"""Every name under which a claim may be sent, in order of precedence: the one table of claim names."""

from __future__ import annotations

import re
from typing import Final

from byline.gateways import FIELDS as GATEWAY_FIELDS
from byline.gateways.base import Field

#: byline's own names and those of request bodies in OpenAI's form.
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

#: Names of agents and agent protocols. A name with other uses counts only next to a second name of its protocol.
AGENT_PROTOCOL_CLAIMS: Final[tuple[Field, ...]] = (
    Field("session_id", "header", "x-claude-code-session-id"),
    Field("session_id", "header", "x-opencode-session"),
    # The connection to an MCP server, which several conversations may share.
    Field("session_id", "header", "mcp-session-id"),
    # OpenAI's Responses API. previous_response_id differs in each turn and therefore is not a session.
    Field("session_id", "body", "conversation", "id", needs="input"),
    Field("metadata", "body", "previous_response_id", "entry"),
    # AG-UI: each run of an agent is a trace of the thread.
    Field("session_id", "body", "threadId", needs="runId"),
    Field("trace_id", "body", "runId", needs="threadId"),
    # A2A, as JSON-RPC and as plain HTTP.
    Field("session_id", "body", "params.message.contextId", needs="jsonrpc"),
    Field("session_id", "body", "message.contextId"),
    # The chat protocol of Vercel's AI SDK.
    Field("session_id", "body", "id", needs="messages"),
    # LangGraph Server, POST /runs: https://docs.langchain.com/langsmith/server-api-ref
    Field("session_id", "body", "config.configurable.thread_id"),
    # Google's Agent Development Kit, POST /run and /run_sse: https://google.github.io/adk-docs/runtime/api-server/
    Field("session_id", "body", "sessionId", needs="newMessage"),
    Field("user_id", "body", "userId", needs="newMessage"),
    # Dify, POST /chat-messages: https://docs.dify.ai/api-reference/chats/send-chat-message
    Field("session_id", "body", "conversation_id", needs="query"),
    # Open WebUI with ENABLE_FORWARD_USER_INFO_HEADERS: https://docs.openwebui.com/reference/env-configuration
    Field("session_id", "header", "x-openwebui-chat-id"),
    Field("user_id", "header", "x-openwebui-user-id"),
    # LibreChat's documented header for {{LIBRECHAT_BODY_CONVERSATIONID}}:
    # https://www.librechat.ai/docs/configuration/librechat_yaml/object_structure/shared_endpoint_settings
    Field("session_id", "header", "x-conversation-id"),
    # PostHog's browser SDK with tracing headers: https://posthog.com/docs/libraries/js/config
    Field("session_id", "header", "x-posthog-session-id"),
    Field("user_id", "header", "x-posthog-distinct-id"),
    # A sub-agent's parent, sent by coding agents such as OpenCode; the session of the sub-agent is its own.
    Field("metadata", "header", "x-parent-session-id", "entry"),
    # OpenAI's; usually a hash, so that any other name of the user says more.
    Field("user_id", "body", "safety_identifier"),
)

CLAIM_NAMES: Final[tuple[Field, ...]] = (*BYLINE_CLAIMS, *GATEWAY_FIELDS, *AGENT_PROTOCOL_CLAIMS)

#: Keys of the ``trace`` object; all other keys are metadata.
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

#: Keys of LiteLLM's ``metadata`` object; for each field the first one counts. All other keys are metadata.
CONTROL_KEYS: Final = {
    "session_id": "session_id",
    "existing_trace_id": "trace_id",
    "trace_id": "trace_id",
    "trace_name": "trace_name",
    "trace_user_id": "user_id",
    # Anthropic's; may contain a session too.
    "user_id": "user_id",
    "generation_name": "generation_name",
    "parent_observation_id": "parent_span_id",
    "trace_environment": "environment",
    "trace_release": "release",
    "trace_version": "version",
    "version": "version",
    "tags": "tags",
    "trace_metadata": "metadata",
    # Portkey's names.
    "_user": "user_id",
    "_environment": "environment",
    "_organisation": "organization_id",
}

#: Keys of LiteLLM's ``metadata`` object that control LiteLLM and do not describe the request.
IGNORED_CONTROLS: Final = frozenset({"update_trace_keys", "debug_langfuse", "prompt"})

#: Metadata keys to which Langfuse gives a meaning: they are read as claims, so that `trust` applies to them.
LANGFUSE_KEYS: Final = {"langfuse_session_id": "session_id", "langfuse_user_id": "user_id", "langfuse_tags": "tags"}

#: Metadata keys that only the app may set, because destinations give them a meaning: byline's own names of the caller
#: and the tenant, the list of vouched fields, Langfuse's link to a prompt, and TensorZero's own tags. Any spelling
#: matches, because gateways that make headers of keys fold case, dashes and underscores.
RESERVED_KEY: Final = re.compile(
    r"\s*(?:caller[_-]|tensorzero::|"
    r"(?:organization[_-]id|environment[_-]id|vouched|prompt[_-]name|prompt[_-]version)\s*\Z)",
    re.IGNORECASE,
)

#: Where the messages of MCP have the headers of their caller: ``traceparent`` and ``baggage``
#: (https://modelcontextprotocol.io/seps/414-request-meta), and byline's own.
MCP_META: Final = ("params", "_meta")
#: The member that shows that a body is such a message.
MCP_NEEDS: Final = "jsonrpc"

#: Members of W3C baggage that are claims; all others belong to the app.
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


def canonical_header_name(name: str) -> str:
    """Return a header name in lower case with dashes."""
    return name.lower().replace("_", "-")


def _rank_headers() -> dict[str, tuple[int, Field]]:
    headers: dict[str, tuple[int, Field]] = {}
    for rank, field in enumerate(CLAIM_NAMES):
        if field.where == "header":
            headers.setdefault(canonical_header_name(field.name), (rank, field))
    return headers


def _rank_body_paths() -> dict[str, list[tuple[int, Field, tuple[str, ...]]]]:
    members: dict[str, list[tuple[int, Field, tuple[str, ...]]]] = {}
    for rank, field in enumerate(CLAIM_NAMES):
        if field.where == "body":
            path = tuple(field.name.split("."))
            members.setdefault(path[0], []).append((rank, field, path))
    return members


#: Canonical header name → rank in the table, and the first field of that name.
HEADER_CLAIMS: Final = _rank_headers()
#: Top-level member of the body → rank, field and path of all claims in that member.
BODY_CLAIMS: Final = _rank_body_paths()
QUERY_CLAIMS: Final = tuple(field for field in CLAIM_NAMES if field.where == "query")
