"""Says of each span what it is to Langfuse, so that nothing is left to its guesses.

Langfuse's server reads the spellings of many instrumentations, each a little differently with each
release. Its own ``langfuse.observation.*`` attributes win over all of them.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from byline.export.content import holds_content
from byline.export.draft import Draft
from byline.export.mending import LEVEL, NAMES, STARTED, mend, short, to_json
from byline.export.usage import cost_of, stated_cost, stated_usage, usage_of
from byline.spans import attributes as names
from byline.spans import carriers

TYPE: Final = "langfuse.observation.type"
_MESSAGE: Final = "langfuse.observation.status_message"
_MODEL: Final = "langfuse.observation.model.name"
_PARAMETERS: Final = "langfuse.observation.model.parameters"
_USAGE: Final = "langfuse.observation.usage_details"
_COST: Final = "langfuse.observation.cost_details"
_METADATA: Final = "langfuse.observation.metadata."
_PROMPT: Final = "langfuse.observation.prompt."
_BYLINE: Final = "byline."

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
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
_MODELS: Final = (
    names.FACTS["response_model"],
    names.REQUEST_MODEL,
    "llm.response.model",
    "llm.model_name",
    "llm.request.model",
)
_FIRST_CHUNK: Final = (
    names.FACTS["time_to_first_chunk"],
    "gen_ai.client.operation.time_to_first_chunk",
    "gen_ai.server.time_to_first_token",
)
_ENVIRONMENTS: Final = ("langfuse.environment", "deployment.environment.name", "deployment.environment")
#: What Langfuse shows elsewhere.
_NOT_METADATA: Final = frozenset({names.ERROR_MESSAGE, names.GENERATION_NAME, names.STEP_NAME})
#: Of the tenant, and so worth finding traces by.
_OF_TRACE: Final = {names.ORGANIZATION_ID: "organization_id", names.ENVIRONMENT_ID: "environment_id"}


def observe(draft: Draft) -> None:
    """Write what a span is to Langfuse onto it."""
    attributes = draft.attributes
    mend(attributes)
    attributes[TYPE] = _type(draft, leaf=draft.is_leaf)
    if attributes[TYPE] in ("generation", "embedding"):
        _tell_call(draft)
    else:
        _tell_other(draft)
    draft.name = short(draft.name)
    _tell_error(draft)
    _tell_prompt(attributes)
    _tell_metadata(attributes)
    if names.ENVIRONMENT not in attributes and draft.resource is not None:
        found = next(
            (draft.resource.attributes[key] for key in _ENVIRONMENTS if key in draft.resource.attributes), None
        )
        if found:
            attributes[names.ENVIRONMENT] = str(found)


def _type(draft: Draft, *, leaf: bool) -> str:
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


def _tell_call(draft: Draft) -> None:
    attributes = draft.attributes
    model = next((attributes[key] for key in _MODELS if attributes.get(key)), None)
    if model is not None:
        attributes.setdefault(_MODEL, str(model))
    parameters = {
        key[len(names.PARAMETERS) :]: value
        for key, value in attributes.items()
        if key.startswith(names.PARAMETERS)
        and key != names.REQUEST_MODEL
        and value != ""
        and not holds_content(key, value)
    }
    parameters = parameters or _invocation_parameters(attributes)
    if parameters:
        attributes.setdefault(_PARAMETERS, to_json(parameters))
    # Also where nothing is known: else whatever stands under gen_ai.usage.* is taken for tokens.
    attributes[_USAGE] = to_json(stated_usage(attributes.pop(_USAGE, None)) or usage_of(attributes))
    stated = stated_cost(attributes.pop(_COST, None))
    cost = cost_of(attributes) or stated
    if cost:
        attributes[_COST] = to_json(cost)
    if "total" in cost:
        attributes[names.COST] = cost["total"]
    else:
        attributes.pop(names.COST, None)
    started = _first_chunk(draft)
    if started is not None:
        attributes.setdefault(STARTED, started)
    if "gen_ai.tool.name" in attributes:
        # Of a tool that the model asked for; it would give its name to the generation.
        attributes[_METADATA + "tool_name"] = attributes.pop("gen_ai.tool.name")
    if draft.attribution.generation_name:
        for key in NAMES:
            if key != "ai.telemetry.functionId":
                attributes.pop(key, None)


def _invocation_parameters(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return OpenInference's, without the messages and tools that may stand among them."""
    try:
        stated = json.loads(attributes["llm.invocation_parameters"])
    except (KeyError, TypeError, ValueError):
        return {}
    if not isinstance(stated, dict):
        return {}
    return {
        key: value
        for key, value in stated.items()
        if key != "model"
        and (isinstance(value, bool | int | float) or (isinstance(value, str) and not holds_content(key, value)))
    }


def _tell_other(draft: Draft) -> None:
    attributes = carriers.without_usage(draft.attributes)
    if "model" in attributes:
        attributes.setdefault(_METADATA + "model", attributes.pop("model"))
    draft.attributes = attributes


def _tell_error(draft: Draft) -> None:
    attributes = draft.attributes
    if draft.is_error:
        attributes.setdefault(LEVEL, "ERROR")
    elif LEVEL not in attributes:
        return
    told = (attributes.get(names.ERROR_MESSAGE), draft.status.description, _exception(draft))
    message = next((text for text in (*told, attributes.get(names.ERROR_TYPE)) if text), None)
    if message and draft.is_error:
        attributes.setdefault(_MESSAGE, str(message))


def _exception(draft: Draft) -> Any:
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
            attributes.setdefault(_METADATA + key, str(value))


def _tell_metadata(attributes: dict[str, Any]) -> None:
    # Whatever stands on a span otherwise cannot be filtered by.
    told = {key: value for key, value in attributes.items() if key.startswith(_BYLINE) and key not in _NOT_METADATA}
    for key, value in told.items():
        attributes.setdefault(_METADATA + key[len(_BYLINE) :].replace(".", "_"), value)
    for key, name in _OF_TRACE.items():
        if key in attributes:
            attributes.setdefault(names.METADATA + name, attributes[key])


def _first_chunk(draft: Draft) -> str | None:
    seconds = next((draft.attributes[key] for key in _FIRST_CHUNK if key in draft.attributes), None)
    if not isinstance(seconds, int | float) or draft.start_time is None or not 0 <= seconds < 1e6:
        return None
    nanoseconds = draft.start_time + int(seconds * 1e9)
    if draft.end_time is not None:
        nanoseconds = min(nanoseconds, draft.end_time)
    moment = _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


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
