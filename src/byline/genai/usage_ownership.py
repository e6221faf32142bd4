"""One cost for one call: which of several spans of the same call carries its usage.

Two instrumentations may each make a span of one call, beside or within each other, and each note the
tokens on it. The span that got the facts carries them; in what is exported the others do not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.sdk.trace import Span

from byline.fork import fork_safe_lock
from byline.genai import classify, span_correlation
from byline.genai.fast_attributes import peek_attributes

_MAX: Final = 4096
_MAX_SPANS: Final = 32

#: Tokens and cost in the spellings of all instrumentations.
_USAGE: Final = (
    "gen_ai.usage.",
    "gen_ai.cost.",
    "llm.token_count.",
    "llm.usage.",
    "llm.cost.",
    "litellm.cost.",
    "byline.cost.",
    "byline.cache.savings",
    "langfuse.observation.usage_details",
    "langfuse.observation.cost_details",
)

_CALL: Final = (
    "gen_ai.request.",
    "gen_ai.response.",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.definitions",
    "gen_ai.prompt",
    "gen_ai.completion",
    "llm.",
)

_lock: Final = fork_safe_lock()
#: Response id → the spans that carry its facts. A reply from a cache has the id of the first one.
_carriers: Final[OrderedDict[str, set[int]]] = OrderedDict()
#: LLM spans around one that carries facts.
_around: Final[OrderedDict[int, None]] = OrderedDict()
#: Response ids whose usage a gateway tells the destination itself.
_elsewhere: Final[OrderedDict[str, None]] = OrderedDict()


def assign(span: Span, response_id: str | None) -> None:
    """Note that this span carries the facts of the reply with this id."""
    own = span.get_span_context().span_id
    with _lock:
        if response_id is not None:
            spans = _carriers.setdefault(response_id, set())
            if len(spans) < _MAX_SPANS:
                spans.add(own)
            _bound(_carriers)
        for outer in span_correlation.llm_ancestors(span):
            if classify.is_model_call(outer.name, peek_attributes(outer)):
                _around[outer.get_span_context().span_id] = None
        _bound(_around)


def assign_to_gateway(span: Span | None, response_id: str | None) -> None:
    """Note that no span of this process carries the usage of this call: a gateway sends one that does."""
    with _lock:
        if response_id is not None:
            _elsewhere[response_id] = None
            _bound(_elsewhere)
        for each in () if span is None else (span, *span_correlation.llm_ancestors(span)):
            if classify.is_model_call(each.name, peek_attributes(each)):
                _around[each.get_span_context().span_id] = None
        _bound(_around)


def try_claim(response_id: str, span_id: int) -> bool:
    """Let a span that was made late carry the facts of a reply; whether no other one does already."""
    with _lock:
        carriers = _carriers.setdefault(response_id, {span_id})
        _bound(_carriers)
        return span_id in carriers


def is_duplicate(span_id: int, response_id: object) -> bool:
    """Whether another span carries usage and cost of the call that this finished one stands for."""
    if span_id in _around or (isinstance(response_id, str) and response_id in _elsewhere):
        return True
    carriers = _carriers.get(response_id) if isinstance(response_id, str) else None
    return carriers is not None and span_id not in carriers


def strip_usage(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes without tokens and cost, however they are spelt."""
    return {key: value for key, value in attributes.items() if not key.startswith(_USAGE)}


def strip_call(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of an app span without what a library wrote on it of a call."""
    return {
        key: value
        for key, value in strip_usage(attributes).items()
        if key not in classify.KEYS and not key.startswith(_CALL)
    }


def clear() -> None:
    """Forget all of it."""
    with _lock:
        _carriers.clear()
        _around.clear()
        _elsewhere.clear()


def _bound(kept: OrderedDict[Any, Any]) -> None:
    while len(kept) > _MAX:
        kept.popitem(last=False)
