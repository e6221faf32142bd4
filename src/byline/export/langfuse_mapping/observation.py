"""Says of each span what it is to Langfuse, so that nothing is left to its guesses.

Langfuse's server reads the spellings of many instrumentations, each a little differently with each
release. Its own ``langfuse.observation.*`` attributes win over all of them.
"""

from __future__ import annotations

from typing import Any, Final

from byline.export.langfuse_mapping.generation import map_generation, map_non_generation
from byline.export.langfuse_mapping.sanitize import LEVEL, METADATA, clean_environment_name, sanitize, shorten_name
from byline.export.span_copy import SpanCopy
from byline.genai import attributes as names
from byline.genai.call_results import strip_usage

TYPE: Final = "langfuse.observation.type"
_MESSAGE: Final = "langfuse.observation.status_message"
_PROMPT: Final = "langfuse.observation.prompt."
_BYLINE: Final = "byline."

_TYPES: Final = frozenset(
    {"span", "generation", "event", "embedding", "agent", "tool", "chain", "retriever", "guardrail", "evaluator"}
)
#: By operation, OpenInference's kind or traceloop's kind, all in lower case.
_TYPE_OF: Final = {
    "embeddings": "embedding",
    "embedding": "embedding",
    "invoke_agent": "agent",
    "create_agent": "agent",
    "agent": "agent",
    "execute_tool": "tool",
    "tool": "tool",
    "invoke_workflow": "chain",
    "workflow": "chain",
    "chain": "chain",
    "plan": "chain",
    "retrieval": "retriever",
    "retriever": "retriever",
    "guardrail": "guardrail",
    "evaluator": "evaluator",
}
_KINDS: Final = (names.OPERATION_NAME, "openinference.span.kind", "traceloop.span.kind", "llm.request.type")
_ENVIRONMENTS: Final = ("langfuse.environment", "deployment.environment.name", "deployment.environment")
_ROOT_MARKS: Final = ("langfuse.internal.as_root", "langfuse.internal.is_app_root")
#: What Langfuse has no place for, and what it is called where it can be filtered by.
_FURTHER: Final = {
    names.CALL_RESULT["finish_reasons"]: "finish_reasons",
    "llm.finish_reason": "finish_reasons",
    names.RESPONSE_ID: "response_id",
    names.PROVIDER_NAME: "provider",
    names.CALL_RESULT["tool_definitions"]: "tool_definitions",
    names.ERROR_TYPE: "error_type",
}
#: What Langfuse shows elsewhere.
_NOT_METADATA: Final = frozenset({names.ERROR_MESSAGE, names.GENERATION_NAME, names.STEP_NAME})
#: Of the tenant, and so worth finding traces by.
_OF_TRACE: Final = {names.ORGANIZATION_ID: "organization_id", names.ENVIRONMENT_ID: "environment_id"}


def map_span(draft: SpanCopy) -> None:
    """Write what a span is to Langfuse onto it."""
    sanitize(draft.attributes)
    draft.attributes[TYPE] = _type(draft, leaf=draft.is_leaf)
    if draft.attributes[TYPE] in ("generation", "embedding"):
        map_generation(draft)
    else:
        _tell_other(draft)
    draft.name = shorten_name(draft.name)
    _tell_error(draft)
    _tell_prompt(draft.attributes)
    _tell_metadata(draft.attributes)
    _tell_trace(draft)


def _type(draft: SpanCopy, *, leaf: bool) -> str:
    attributes = draft.attributes
    stated = str(attributes.get(TYPE, "")).lower()
    if stated in _TYPES:
        return stated
    if not draft.is_llm:
        return "span"
    kinds = [str(attributes[key]).lower() for key in _KINDS if key in attributes]
    found = next((_TYPE_OF[kind] for kind in kinds if kind in _TYPE_OF), None)
    if leaf:
        return "embedding" if found == "embedding" else "generation"
    return found or "span"


def _tell_other(draft: SpanCopy) -> None:
    attributes = strip_usage(draft.attributes)
    if "model" in attributes:
        attributes.setdefault(METADATA + "model", attributes.pop("model"))
    map_non_generation(attributes)
    draft.attributes = attributes


def _tell_error(draft: SpanCopy) -> None:
    attributes = draft.attributes
    if not draft.is_error:
        return
    attributes.setdefault(LEVEL, "ERROR")
    told = (attributes.get(names.ERROR_MESSAGE), draft.status.description, _exception(draft))
    message = next((text for text in (*told, attributes.get(names.ERROR_TYPE)) if text), None)
    if message:
        attributes.setdefault(_MESSAGE, str(message))


def _exception(draft: SpanCopy) -> Any:
    for event in reversed(draft.events):
        if event.name == "exception" and event.attributes:
            return event.attributes.get("exception.message") or event.attributes.get("exception.type")
    return None


def _tell_prompt(attributes: dict[str, Any]) -> None:
    # Both are needed, and a version that is no whole number makes Langfuse refuse the generation.
    name = _take(attributes, f"{_PROMPT}name", "langfuse.prompt.name", "gen_ai.prompt.name")
    version = _take(attributes, f"{_PROMPT}version", "langfuse.prompt.version", "gen_ai.prompt.version")
    name = name or attributes.get(names.METADATA + "prompt_name")
    version = attributes.get(names.METADATA + "prompt_version") if version is None else version
    number = _whole(version)
    if name and number is not None:
        if attributes[TYPE] == "generation":
            attributes.update({f"{_PROMPT}name": str(name), f"{_PROMPT}version": number})
        return
    for key, value in (("prompt_name", name), ("prompt_version", version)):
        if value is not None:
            attributes.setdefault(METADATA + key, str(value))


def _tell_metadata(attributes: dict[str, Any]) -> None:
    # Whatever stands on a span otherwise cannot be filtered by.
    for key, name in _OF_TRACE.items():
        if key in attributes:
            # Whatever the metadata claims: that may come from anybody.
            attributes[names.METADATA + name] = attributes[key]
    told = {
        key[len(_BYLINE) :].replace(".", "_"): value
        for key, value in attributes.items()
        if key.startswith(_BYLINE) and key not in _NOT_METADATA
    }
    for key, name in _FURTHER.items():
        if key in attributes:
            told.setdefault(name, attributes[key])
    for name, value in told.items():
        # One write path has one room for the metadata of both.
        taken = attributes.get(names.METADATA + name, value) != value
        attributes.setdefault(f"{METADATA}byline_{name}" if taken else METADATA + name, value)


def _tell_trace(draft: SpanCopy) -> None:
    attributes = draft.attributes
    if draft.parent is not None and not draft.parent.is_remote:
        # Marked by who does not know what else is sent, it would name the trace.
        for key in _ROOT_MARKS:
            attributes.pop(key, None)
    if names.SESSION_ID not in attributes and attributes.get(names.CONVERSATION_ID):
        # Below a root a conversation alone does not reach the trace.
        attributes[names.SESSION_ID] = attributes[names.CONVERSATION_ID]
    if names.ENVIRONMENT not in attributes and draft.resource is not None:
        around = draft.resource.attributes
        found = next((around[key] for key in _ENVIRONMENTS if key in around), None)
        if found:
            attributes[names.ENVIRONMENT] = clean_environment_name(str(found))


def _take(attributes: dict[str, Any], *keys: str) -> Any:
    found = [attributes.pop(key) for key in keys if key in attributes]
    return found[0] if found else None


def _whole(value: Any) -> int | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number == number // 1 and abs(number) < 2**53 else None
