"""A span as Langfuse's observation: type, level, message, prompt, metadata, and the labels of the trace.

Langfuse's server guesses them from the spellings of many instrumentations, differently with each release. The
attributes ``langfuse.observation.*`` win over every guess. Because of one value in a wrong form the server drops
or misreads a whole observation, or all labels of a trace.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from opentelemetry.sdk.resources import Resource

from byline.export import chat_messages, conversation
from byline.export.langfuse_mapping.generation import (
    COMPLETION_START,
    METADATA,
    OBSERVATION_NAMES,
    map_generation,
    remove_usage,
    round_money,
)
from byline.export.span_copy import SpanCopy, find_error
from byline.genai import attributes as names
from byline.genai.attributes import json_dumps

TYPE: Final = "langfuse.observation.type"
_LEVEL: Final = "langfuse.observation.level"
_STATUS_MESSAGE: Final = "langfuse.observation.status_message"
_PROMPT: Final = "langfuse.observation.prompt."
_PROMPT_NAMES: Final = (f"{_PROMPT}name", "langfuse.prompt.name", "gen_ai.prompt.name")
_PROMPT_VERSIONS: Final = (f"{_PROMPT}version", "langfuse.prompt.version", "gen_ai.prompt.version")
_PROMPT_CLAIMS: Final = (names.METADATA + "prompt_name", names.METADATA + "prompt_version")
_PROMPTS: Final = (*_PROMPT_NAMES, *_PROMPT_VERSIONS, *_PROMPT_CLAIMS)
_BYLINE: Final = "byline."
_SDK_SCOPE: Final = "langfuse-sdk"

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
    "execute_event_loop_cycle": "chain",
    "execute_task": "chain",
    "plan": "chain",
    "retrieval": "retriever",
    "retriever": "retriever",
    "guardrail": "guardrail",
    "evaluator": "evaluator",
}
_KINDS: Final = (names.OPERATION_NAME, "openinference.span.kind", "traceloop.span.kind", "llm.request.type")
_LEVELS: Final = frozenset(
    {"DEBUG", "TRACE", "VERBOSE", "DEFAULT", "INFO", "LOG", "WARN", "WARNING", "ERROR", "FATAL", "CRITICAL"}
)
_ENVIRONMENTS: Final = ("langfuse.environment", "deployment.environment.name", "deployment.environment")
#: Attributes that make a span which is no root replace release and version of its trace in Langfuse, with blanks if
#: the span has none → attributes that Langfuse reads as well, and that do not.
_UNOBTRUSIVE: Final = {
    names.SESSION_ID: names.CONVERSATION_ID,
    "langfuse.session.id": names.CONVERSATION_ID,
    names.USER_ID: METADATA + "langfuse_user_id",
    "langfuse.user.id": METADATA + "langfuse_user_id",
    names.TAGS: METADATA + "langfuse_tags",
}
#: Attributes of a resource that Langfuse reads as release and version of the trace.
_RESOURCE_LABELS: Final = frozenset({"langfuse.release", "service.version"})
_ROOT_MARKS: Final = ("langfuse.internal.as_root", "langfuse.internal.is_app_root")

#: Names and labels that Langfuse reads as strings.
_STRINGS: Final = (
    names.SESSION_ID,
    names.CONVERSATION_ID,
    names.USER_ID,
    "langfuse.session.id",
    "langfuse.user.id",
    names.TRACE_NAME,
    names.RELEASE,
    names.VERSION,
    names.ENVIRONMENT,
)
#: Langfuse refuses an observation with a longer name, and the labels of the trace.
_MAX_NAME: Final = 1000
_NO_ENVIRONMENT: Final = re.compile(r"[^a-z0-9_-]+")
_TIME: Final = re.compile(
    r'"?(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:\.\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?)?"?', re.ASCII
)

#: Attributes without a column in Langfuse, and the metadata keys under which one can filter by them.
_FURTHER: Final = {
    names.FINISH_REASONS: "finish_reasons",
    "llm.finish_reason": "finish_reasons",
    names.RESPONSE_ID: "response_id",
    names.PROVIDER_NAME: "provider",
    names.CALL_RESULT["tool_definitions"]: "tool_definitions",
    names.ERROR_TYPE: "error_type",
}
#: Attributes that Langfuse shows in a column: status message, name, latency, cost.
_COLUMNS: Final = re.compile(r"byline\.(?:error\.message|generation\.name|step\.name|duration|cost\.(?!source$).+)")
#: Attributes that stand in metadata or columns as well, and so many that the caller's own would be hard to find.
_REPEATED: Final = tuple(
    f"byline.{group}" for group in ("cache.", "caller.", "cost.", "duration", "gateway.", "llm.", "ratelimit.")
)
#: The same of model calls, whose columns have tokens, cost, model and parameters in any spelling.
_REPEATED_OF_MODEL_CALLS: Final = (
    "embedding.invocation_parameters",
    "embedding.model_name",
    "gen_ai.usage.",
    names.PARAMETERS,
    "llm.cost.",
    "llm.finish_reason",
    "llm.invocation_parameters",
    "llm.model_name",
    "llm.provider",
    "llm.system",
    "llm.token_count.",
    "llm.usage.",
    "openinference.span.kind",
)
#: OpenInference's texts and vectors, and the request and the response in which they stand as well.
_EMBEDDINGS: Final = ("embedding.embeddings.", "input.", "output.")
_EMBEDDED_TEXT: Final = re.compile(r"embedding\.embeddings\.\d+\.embedding\.text")
#: The counts that every instrumentation states, for those who read the attributes in Langfuse's exports.
_KEPT: Final = frozenset(
    {names.COST, names.REQUEST_MODEL, names.CALL_RESULT["input_tokens"], names.CALL_RESULT["output_tokens"]}
)
_TOOLS: Final = names.CALL_RESULT["tool_definitions"]
_TENANT: Final = {names.ORGANIZATION_ID: "organization_id", names.ENVIRONMENT_ID: "environment_id"}
#: So much of a hash tells keys apart, and can be read.
_HASH_DIGITS: Final = 12
_HASH: Final = re.compile(r"[0-9a-f]{32,}")


def map_span(span: SpanCopy) -> None:
    """Write onto a span copy all that Langfuse would otherwise guess."""
    attributes = span.attributes
    _sanitize(attributes)
    if span.scope is not None and span.scope.name == _SDK_SCOPE:
        _unquote_metadata(attributes)
    attributes[TYPE] = _find_type(span)
    if attributes[TYPE] in ("generation", "embedding"):
        map_generation(span)
    else:
        if "model" in attributes:
            # Langfuse takes any attribute of this name for a model call's.
            attributes.setdefault(METADATA + "model", attributes.pop("model"))
        span.attributes = attributes = remove_usage(attributes)
    if len(span.name) > _MAX_NAME:
        span.name = shorten_name(span.name)
    _map_messages(span)
    if span.is_error:
        _map_error(span)
    elif names.STREAM_CUT in attributes:
        attributes.setdefault(_LEVEL, "WARNING")
        attributes.setdefault(_STATUS_MESSAGE, f"The stream was cut ({attributes[names.STREAM_CUT]}).")
    if not attributes.keys().isdisjoint(_PROMPTS):
        _map_prompt(attributes)
    _map_metadata(attributes)
    _map_trace_labels(span)
    if span.joins_trace:
        _leave_trace_unchanged(span)


def drop_mapped(span: SpanCopy) -> None:
    """Remove attributes that `map_span` has rewritten: Langfuse would show them once more, as metadata."""
    attributes = span.attributes
    repeated = [name for name in attributes if name.startswith(_REPEATED)]
    if attributes.get(TYPE) in ("generation", "embedding"):
        repeated += [name for name in attributes if name.startswith(_REPEATED_OF_MODEL_CALLS) and name not in _KEPT]
    repeated += [name for name, key in _FURTHER.items() if METADATA + key in attributes]
    given = attributes.get(conversation.INPUT)
    if isinstance(given, str) and given.startswith('{"messages":') and '"tools":' in given:
        # A quotation mark within a message is escaped.
        repeated += [_TOOLS, f"{METADATA}tool_definitions"]
    if attributes.get(TYPE) == "embedding" and conversation.INPUT in attributes:
        # Texts, and vectors of a thousand numbers.
        repeated += [name for name in attributes if name.startswith(_EMBEDDINGS)]
    if conversation.INPUT in attributes or conversation.OUTPUT in attributes:
        repeated += conversation.rendered_attributes(attributes, is_model_call=attributes.get(TYPE) == "generation")
    for name in repeated:
        attributes.pop(name, None)


def shorten_name(name: str, limit: int = _MAX_NAME) -> str:
    """Return a name of at most ``limit`` characters: Langfuse refuses longer ones."""
    return name if len(name) <= limit else name[: limit - 1] + "…"


def clean_environment_name(name: str) -> str:
    """Return an environment in the form that Langfuse accepts; any other is shown as ``default``.

    Example:
        >>> clean_environment_name("Prod EU")
        'prod-eu'
    """
    return _NO_ENVIRONMENT.sub("-", name.lower())[:40].strip("-") or "default"


def _sanitize(attributes: dict[str, Any]) -> None:
    """Bring values of apps and instrumentations into the form that Langfuse accepts, or remove them."""
    for name in _STRINGS:
        value = attributes.get(name)
        if value is not None and not isinstance(value, str):
            attributes[name] = json_dumps(value)
    for name, limit in OBSERVATION_NAMES.items():
        if name in attributes:
            attributes[name] = shorten_name(str(attributes[name]), limit)
    if len(attributes.get(names.TRACE_NAME, "")) > _MAX_NAME:
        attributes[names.TRACE_NAME] = shorten_name(attributes[names.TRACE_NAME])
    if names.ENVIRONMENT in attributes:
        attributes[names.ENVIRONMENT] = clean_environment_name(attributes[names.ENVIRONMENT])
    if _LEVEL in attributes:
        level = str(attributes.pop(_LEVEL)).upper()
        if level in _LEVELS:
            attributes[_LEVEL] = level
    if COMPLETION_START in attributes and not _is_time(attributes[COMPLETION_START]):
        del attributes[COMPLETION_START]


def _unquote_metadata(attributes: dict[str, Any]) -> None:
    """Decode metadata that Langfuse's SDK 5 has encoded as JSON: filters would have to name the quotes."""
    for name, value in attributes.items():
        if not name.startswith((names.METADATA, METADATA)) or not isinstance(value, str) or value[:1] != '"':
            continue
        try:
            decoded = json.loads(value)
        except ValueError:
            continue
        if isinstance(decoded, str):
            attributes[name] = decoded


def _find_type(span: SpanCopy) -> str:
    """Return the observation's type: as stated, else by the span's operation or kind."""
    attributes = span.attributes
    stated = str(attributes.get(TYPE, "")).lower()
    if stated in _TYPES:
        return stated
    if not span.is_llm:
        return "span"
    stated_kinds = [str(attributes[name]).lower() for name in _KINDS if name in attributes]
    kind = next(filter(None, map(_TYPE_OF.get, stated_kinds)), None)
    if span.is_model_call and not span.is_around_model_call:
        return "embedding" if kind == "embedding" else "generation"
    return kind or ("chain" if span.is_model_call else "span")


def _map_messages(span: SpanCopy) -> None:
    """Set input and output as OpenAI's messages; both, because Langfuse looks for neither if one is set."""
    attributes = span.attributes
    is_generation = attributes[TYPE] == "generation"
    if attributes[TYPE] == "embedding":
        embedded = [attributes[name] for name in attributes if _EMBEDDED_TEXT.fullmatch(name)]
        if embedded:
            attributes.setdefault(conversation.INPUT, str(embedded[0]) if len(embedded) == 1 else json_dumps(embedded))
    if not (is_generation or conversation.has_messages(attributes)):
        return
    if attributes.keys() & {conversation.INPUT, conversation.OUTPUT} and not conversation.has_messages(attributes):
        # Langfuse's SDK has set what its pages are to show.
        return
    events = span.events if is_generation else ()
    found = conversation.read_conversation(attributes, events, is_agent=attributes[TYPE] == "agent")
    if not (isinstance(found.input, list) or isinstance(found.output, list)):
        return
    texts = {
        conversation.INPUT: chat_messages.dump_input(found),
        conversation.OUTPUT: chat_messages.dump_output(found),
    }
    attributes.update({name: text for name, text in texts.items() if text is not None})


def _map_error(span: SpanCopy) -> None:
    """Set level and status message, and an output that states the error if there is none."""
    attributes = span.attributes
    attributes.setdefault(_LEVEL, "ERROR")
    error = find_error(span)
    if error.message or error.kind != "error":
        attributes.setdefault(_STATUS_MESSAGE, error.text)
    if not (attributes[TYPE] == "generation" or (span.is_root and not span.is_llm)):
        return
    found = conversation.read_conversation(attributes, span.events)
    if found.output is None:
        attributes[conversation.OUTPUT] = json_dumps({"error": error.stated})
        # An output that is set stops Langfuse's search for the input.
        text = chat_messages.dump_input(found)
        if text is not None:
            attributes[conversation.INPUT] = text


def _map_prompt(attributes: dict[str, Any]) -> None:
    """Link a generation to a prompt: Langfuse needs name and version, and refuses a version that is no integer."""
    claimed_name, claimed_version = map(attributes.get, _PROMPT_CLAIMS)
    name = _take_first(attributes, _PROMPT_NAMES) or claimed_name
    version = _take_first(attributes, _PROMPT_VERSIONS)
    version = claimed_version if version is None else version
    number = _to_integer(version)
    if name and number is not None:
        if attributes[TYPE] == "generation":
            attributes.update({f"{_PROMPT}name": str(name), f"{_PROMPT}version": number})
        return
    for key, value in (("prompt_name", name), ("prompt_version", version)):
        if value is not None:
            attributes.setdefault(METADATA + key, str(value))


def _map_metadata(attributes: dict[str, Any]) -> None:
    """Write attributes without a column as metadata of the observation: Langfuse filters by nothing else.

    The metadata of the trace holds the caller's keys alone.
    """
    for name, key in _TENANT.items():
        if name in attributes and names.METADATA + key in attributes:
            # The caller claims a tenant; the known one counts.
            attributes[names.METADATA + key] = attributes[name]
    metadata = {
        name[len(_BYLINE) :].replace(".", "_"): _to_metadata(name, attributes[name])
        for name in sorted(attributes)
        if name.startswith(_BYLINE) and not _COLUMNS.fullmatch(name)
    }
    for name, key in _FURTHER.items():
        if name in attributes:
            metadata.setdefault(key, attributes[name])
    if metadata.get("response_id") == metadata.get("gateway_request_id"):
        metadata.pop("response_id", None)
    for key, value in metadata.items():
        # Langfuse's direct write path merges the metadata of trace and observation.
        is_taken = attributes.get(names.METADATA + key, value) != value
        attributes.setdefault(f"{METADATA}byline_{key}" if is_taken else METADATA + key, value)


def _to_metadata(name: str, value: Any) -> Any:
    if isinstance(value, float):
        return round_money(value)
    if name.endswith(".hash") and isinstance(value, str) and _HASH.fullmatch(value):
        return value[:_HASH_DIGITS]
    return value


def _map_trace_labels(span: SpanCopy) -> None:
    """Set session and environment, and remove the marks of a root from spans that are none."""
    attributes = span.attributes
    if span.starts_trace:
        attributes.update(dict.fromkeys(_ROOT_MARKS, True))
    elif span.parent is not None and (span.joins_trace or not span.parent.is_remote):
        # Langfuse's SDK may mark a span below another one as root; Langfuse would then name the trace after that span.
        for name in _ROOT_MARKS:
            attributes.pop(name, None)
    if names.SESSION_ID not in attributes and attributes.get(names.CONVERSATION_ID):
        # Langfuse reads `gen_ai.conversation.id` on root spans only.
        attributes[names.SESSION_ID] = attributes[names.CONVERSATION_ID]
    if names.ENVIRONMENT not in attributes and span.resource is not None:
        resource = span.resource.attributes
        environment = next(filter(None, map(resource.get, _ENVIRONMENTS)), None)
        if environment:
            attributes[names.ENVIRONMENT] = clean_environment_name(str(environment))


def _leave_trace_unchanged(span: SpanCopy) -> None:
    """State session, user, tags and metadata so that Langfuse keeps the release and the version of the trace.

    If the caller names the trace, Langfuse merges all labels of the span into the trace in any case.
    """
    attributes = span.attributes
    if names.TRACE_NAME not in attributes:
        for name in [name for name in attributes if name in _UNOBTRUSIVE or name.startswith(names.METADATA)]:
            other = _UNOBTRUSIVE.get(name) or METADATA + name[len(names.METADATA) :]
            attributes[other] = attributes.pop(name)
    if span.resource is not None and not _RESOURCE_LABELS.isdisjoint(span.resource.attributes):
        resource = span.resource.attributes
        if "service.version" in resource:
            attributes.setdefault(METADATA + "service_version", resource["service.version"])
        kept = {name: value for name, value in resource.items() if name not in _RESOURCE_LABELS}
        span.resource = Resource(kept, span.resource.schema_url)


def _take_first(attributes: dict[str, Any], keys: Iterable[str]) -> Any:
    values = [attributes.pop(key) for key in keys if key in attributes]
    return values[0] if values else None


def _to_integer(value: Any) -> int | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number == number // 1 and abs(number) < 2**53 else None


def _is_time(value: Any) -> bool:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return False
    try:
        datetime.fromisoformat(f"{match[1]}T{match[2] or '00:00'}")
    except ValueError:
        return False
    return True
