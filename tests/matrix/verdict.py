"""Verdicts on a cell's spans: attributed, with results, of the right request, and counted once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from byline.genai import classify
from byline.testing import ReceivedSpan
from tests.matrix import langfuse
from tests.matrix.app import TRACE_NAME
from tests.matrix.scenarios import SCENARIOS, Scenario

#: Attributes of tokens and cost, of instrumentations and of byline.
USAGE: Final = (
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.prompt_tokens",
    "llm.token_count.prompt",
    "langfuse.observation.usage_details",
)
COST: Final = ("gen_ai.usage.cost", "operation.cost", "llm.cost.total", "langfuse.observation.cost_details")


class Verdict(NamedTuple):
    """One scenario of one cell. What is as it should be is ``yes``, or ``0`` duplicates.

    Attributes:
        byline: Whether every LLM span carries session, user and trace name of its own request.
        facts: Whether each call's model, tokens, cost and status, or its error, are on one span.
        once: Whether no call's tokens or cost are told by two spans.
        own: Whether the span is byline's own.
        duplicates: How many model-call spans there are beside one a call; negative where some lack.
        app: Whether the app span has the totals of its request, and none of a call's facts.
        others: Whether byline and facts are there for an exporter of the app's own too, to which
            nothing can be added once a span has ended.
        langfuse: Whether tokens and cost of the traces, as Langfuse sums them, are what the provider has stated;
            ``None`` if the response was not read to its end.
        tree: Whether the spans that Langfuse gets hang together as those of the app do; ``None`` if no agent runs,
            as for the next two.
        types: Whether Langfuse shows calls as generations and tools as tools, and nothing else as such.
        io: Whether Langfuse shows the first question and the last answer as input and output of the trace.
    """

    byline: str
    facts: str
    once: str
    own: str
    duplicates: int
    app: str
    others: str
    langfuse: str | None = None
    tree: str | None = None
    types: str | None = None
    io: str | None = None


def judge(found: Mapping[str, Any], *, is_agent: bool) -> dict[str, Verdict]:
    """Return a verdict a scenario."""
    verdicts: dict[str, Verdict] = {}
    for scenario in SCENARIOS:
        done = found["scenarios"].get(scenario.name)
        if done is None:
            continue
        shown = shown_in_langfuse(scenario.name, found)
        verdict = _judge(scenario, done, found["spans"], found["others"])
        if scenario.whole:
            verdict = verdict._replace(langfuse=langfuse.difference(shown, done["provider"]))
        if is_agent and scenario.whole and scenario.status is None and "embeddings" not in scenario.method:
            verdict = verdict._replace(
                tree=langfuse.tree(shown, found["spans"]),
                types=langfuse.types(shown, done["calls"]),
                io=langfuse.first_and_last(shown),
            )
        verdicts[scenario.name] = verdict
    return verdicts


def shown_in_langfuse(scenario: str, found: Mapping[str, Any]) -> list[ReceivedSpan]:
    """Return the spans of a scenario that Langfuse got."""
    requests = found["scenarios"][scenario]["requests"]
    return [ReceivedSpan(**span) for span in found["langfuse"] if _belongs(span, requests)]


def _judge(
    scenario: Scenario, done: Mapping[str, Any], exported: list[dict[str, Any]], others: list[dict[str, Any]]
) -> Verdict:
    requests: list[dict[str, Any]] = done["requests"]
    # A span without its parent is in a trace of its own; the response id shows its request.
    sessions = {key: request["session"] for request in requests for key in (request["trace"], *request["ids"])}
    ids = [reply for request in requests for reply in request["ids"]]
    calls: int = done["calls"]
    mine, signed, leaves, told = _sort(scenario, done, exported)
    named = sum(_is_signed(span, sessions, conversation=False) for span in signed)
    doubles = [
        word
        for word, keys in (("tokens", USAGE), ("cost", COST))
        if sum(not keys_of(span).isdisjoint(keys) for span in mine if span["kind"] != "SERVER") > calls
    ]
    return Verdict(
        byline=_byline(sum(_is_signed(span, sessions) for span in signed), named, len(signed)),
        facts=_share(sum(_has_id(span, ids) for span in told), calls),
        once="yes" if not doubles else f"{' and '.join(doubles)} twice",
        own=_share(sum(span["scope"] == classify.OWN_SCOPE for span in leaves), max(calls, 1)),
        duplicates=len(leaves) - calls,
        app=_app([span for span in mine if span["kind"] == "SERVER"], requests, calls),
        others=_others(scenario, done, others, sessions),
    )


def _sort(
    scenario: Scenario, done: Mapping[str, Any], spans: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the scenario's spans, the LLM spans, the model calls, and the spans with results."""
    mine = [span for span in spans if _belongs(span, done["requests"])]
    of_llm = [span for span in mine if is_llm(span)]
    leaves = [span for span in of_llm if classify.is_model_call(span["name"], span["attributes"])]
    return mine, of_llm, leaves, [span for span in leaves if _tells(span, scenario, done["unsaid"])]


def _others(
    scenario: Scenario, done: Mapping[str, Any], spans: list[dict[str, Any]], sessions: Mapping[str, str]
) -> str:
    _, of_llm, _, told = _sort(scenario, done, spans)
    if not of_llm:
        return "no span"
    if not all(_is_signed(span, sessions, conversation=False) for span in of_llm):
        return "no"
    return "yes" if len(told) >= done["calls"] else "byline alone"


def is_llm(span: Mapping[str, Any]) -> bool:
    """Whether a received span is an LLM span."""
    if span["kind"] == "SERVER":
        # litellm writes its values on the server span.
        return False
    return classify.is_llm_scope(span["scope"]) or not classify.KEYS.isdisjoint(span["attributes"])


def keys_of(span: Mapping[str, Any]) -> set[str]:
    """Return the names of a span's attributes."""
    return set(span["attributes"])


def _belongs(span: Mapping[str, Any], requests: Iterable[Mapping[str, Any]]) -> bool:
    # A span that is made without its parent has a trace of its own, but may know reply or session.
    attributes = span["attributes"]
    return any(
        span["trace_id"] == request["trace"]
        or attributes.get("session.id") == request["session"]
        or {attributes.get(name) for name in ("gen_ai.response.id", "langfuse.observation.metadata.response_id")}
        & {*request["ids"]}
        for request in requests
    )


def _byline(right: int, named: int, whole: int) -> str:
    if not whole:
        return "no span"
    # Some instrumentations make up a conversation id of their own.
    return "all but gen_ai.conversation.id" if named == whole != right else _share(right, whole)


def _is_signed(span: Mapping[str, Any], sessions: Mapping[str, str], *, conversation: bool = True) -> bool:
    attributes = span["attributes"]
    session = sessions.get(span["trace_id"]) or sessions.get(attributes.get("gen_ai.response.id", ""))
    return (
        session is not None
        and attributes.get("session.id") == session
        and (not conversation or attributes.get("gen_ai.conversation.id") == session)
        and attributes.get("user.id") == f"user-of-{session}"
        and attributes.get("langfuse.trace.name") == TRACE_NAME
    )


def _tells(span: Mapping[str, Any], scenario: Scenario, unsaid: list[str]) -> bool:
    attributes = span["attributes"]
    if scenario.status is not None:
        return (
            bool(attributes.get("error.type"))
            and attributes.get("http.response.status_code") == scenario.status
            and span["status"] == "ERROR"
        )
    wanted = ["gen_ai.response.model", "http.response.status_code", "byline.duration"]
    if scenario.whole:
        wanted += ["gen_ai.usage.input_tokens", "gen_ai.usage.cost"]
        wanted += [] if "embeddings" in scenario.method else ["gen_ai.usage.output_tokens"]
    return all(attributes.get(name) is not None for name in wanted if name not in unsaid)


def _has_id(span: Mapping[str, Any], ids: list[str]) -> bool:
    """Return whether a span has the id of a response that the app got, if the app got one."""
    return not ids or span["attributes"].get("gen_ai.response.id") in ids


def _app(spans: list[dict[str, Any]], requests: list[Any], calls: int) -> str:
    if len(spans) != len(requests):
        return f"{len(spans)} of {len(requests)} spans"
    if any(not keys_of(span).isdisjoint((*USAGE, *COST)) for span in spans):
        return "has tokens or cost of a call"
    if any("gen_ai.request.model" in span["attributes"] for span in spans):
        return "has names of a call"
    counted = sum(span["attributes"].get("byline.llm.calls", 0) for span in spans)
    return "yes" if counted == calls else f"{counted} of {calls} calls"


def _share(part: int, whole: int) -> str:
    if part == whole:
        return "yes"
    return f"{part} of {whole}" if part else "no"
