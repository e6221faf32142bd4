"""The rules of ``byline check app:app``: each finding has an id, which docs/troubleshooting.md explains."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, NamedTuple

from byline.export.langfuse import Langfuse
from byline.genai import attributes as names
from byline.genai.classify import is_llm_span, is_model_call
from byline.runtime import Runtime
from byline.settings import SettingError, install_command
from byline.testing import ReceivedSpan

if TYPE_CHECKING:
    from byline.cli.doctor import Evidence, StartedSpan

#: The newest major version of each SDK with which byline is tested.
TESTED_VERSIONS: Final = {
    "anthropic": 2,
    "google-genai": 3,
    "groq": 1,
    "httpx": 0,
    "httpx2": 2,
    "litellm": 1,
    "mistralai": 3,
    "openai": 3,
}
#: LLM spans have up to this many attributes of byline and of GenAI instrumentations.
_NEEDED_ATTRIBUTES: Final = 64
#: The limit of ids and names.
_NEEDED_LENGTH: Final = 200


_ERROR_ID: Final = re.compile(r"byline\.E\d{3}")
#: Warnings that say the same as a finding: no request, no destination, instrument() missing.
_EXPLAINED: Final = frozenset({"byline.E019", "byline.E102", "byline.E103"})


class Finding(NamedTuple):
    """Something to change.

    Attributes:
        id: Stable, explained in docs/troubleshooting.md.
        layer: The part of the way of a request that the finding is about.
        severity: ``error`` if session, user, cost or spans are lost, else ``warning``; ``failed`` if the check could
            not be completed.
        problem: One sentence.
        advice: What to change.
    """

    id: str
    layer: str
    severity: str
    problem: str
    advice: str


def find_problems(evidence: Evidence) -> Iterator[Finding]:
    """Yield all findings, in the order of the way of a request."""
    if evidence.refusal is not None:
        yield setting_finding(evidence.refusal, "middleware")
        return
    if evidence.failure or (evidence.response is not None and evidence.response.status >= 400):
        status = evidence.failure
        if evidence.response is not None:
            status = f"the app answered with status {evidence.response.status}"
            status += f": {evidence.response.error}" if evidence.response.error else ""
        own = _ERROR_ID.search(status)
        advice = "pass a request that works: --path, --data and --header"
        yield Finding(
            "byline.D04", "request", "failed", status, advice if own is None else f"see docs/errors.md, {own[0]}"
        )
        return
    yield from _setup_findings(evidence)
    if not evidence.calls and not evidence.model_calls() and not evidence.generations():
        yield Finding(
            "byline.D05",
            "LLM call",
            "failed",
            "the request made no LLM call that could be followed",
            "pass a request that makes one: --path and --data; httpx, httpx2 and requests are followed",
        )
        return
    yield from _span_findings(evidence)
    yield from _destination_findings(evidence)
    yield from _version_findings()
    for message in evidence.warnings:
        own = _ERROR_ID.match(message)
        if own is not None and own[0] not in _EXPLAINED:
            yield Finding("byline.D24", "app", "warning", f"byline logs: {message}", f"see docs/errors.md, {own[0]}")


def setting_finding(error: SettingError, layer: str) -> Finding:
    """Return the finding about an error of `byline.instrument` or of a middleware."""
    return Finding(
        "byline.D02", layer, "failed", f"{error.id}: {error.problem}", f"{error.advice}; see docs/errors.md, {error.id}"
    )


def _setup_findings(evidence: Evidence) -> Iterator[Finding]:
    if evidence.runtime is None:
        yield Finding(
            "byline.D06",
            "instrument",
            "error",
            "byline.instrument() was not called, was undone by byline.uninstrument(), or byline is disabled",
            "call byline.instrument() where the process starts, before the app is created",
        )
    elif not evidence.was_instrumented:
        yield Finding(
            "byline.D07",
            "instrument",
            "error",
            "byline.instrument() was called during the first request",
            "call it where the process starts: earlier requests, and spans that had begun, are lost",
        )
    elif evidence.provider is not None and evidence.runtime.tracer_provider is not evidence.provider:
        yield Finding(
            "byline.D08",
            "instrument",
            "error",
            "the spans come from another tracer provider than the one that byline.instrument() was called for",
            "call byline.instrument() after the provider is set, or pass tracer_provider=",
        )
    if not evidence.contexts:
        yield Finding(
            "byline.D09",
            "middleware",
            "error",
            "no AttributionMiddleware has handled the request",
            "add byline.asgi.AttributionMiddleware (or byline.wsgi's) to this app, as the outermost middleware",
        )
        return
    reader = evidence.contexts[0].reader
    if reader is not None and reader.identity is None and reader.policy.accepts_all:
        yield Finding(
            "byline.D10",
            "middleware",
            "warning",
            "every caller may claim any user and session",
            "on a public endpoint pass public=True and identity=; behind your own services this is fine",
        )
    # An identity beats the claimed user on purpose.
    rejected = [each for each in evidence.contexts[0].rejected if not each.startswith("user_id: identity")]
    if len(rejected) < len(evidence.contexts[0].rejected) and evidence.contexts[0].attribution().user_id is None:
        yield Finding(
            "byline.D11",
            "middleware",
            "error",
            "the claimed user is ignored, because identity= decides, and it stated no user for this request",
            "send a request that is logged in: --header; or pass identity=None if callers may claim a user",
        )
    if rejected:
        yield Finding(
            "byline.D11",
            "middleware",
            "error" if any("session" in each for each in rejected) else "warning",
            f"claims were rejected: {', '.join(rejected)}",
            "widen trust=, or send what the limits allow",
        )


def _span_findings(evidence: Evidence) -> Iterator[Finding]:
    spans = evidence.generations()
    if evidence.sampler_drops:
        yield Finding(
            "byline.D12",
            "LLM span",
            "warning" if spans else "error",
            f"the app's sampler {evidence.sampler_drops} drops requests, and their spans with them",
            'sample in byline instead (sampling=), or pass unsampled="record" to the destination',
        )
    if not spans and evidence.runtime is not None and not evidence.sampler_drops:
        yield Finding(
            "byline.D13",
            "LLM span",
            "error",
            "the LLM call has no span",
            "instrument the SDK, or leave clients and llm_spans of byline.instrument() at their defaults",
        )
    unsigned = [each for each in evidence.started if _is_unsigned(each)]
    if unsigned and evidence.contexts:
        if any(not each.is_after_middleware for each in unsigned):
            yield Finding(
                "byline.D14",
                "middleware",
                "error",
                "an LLM call was made before the AttributionMiddleware ran, so its gateway gets no ids",
                "make AttributionMiddleware the outermost middleware: in Starlette and FastAPI, the last one added",
            )
        if any(each.is_after_middleware for each in unsigned):
            yield Finding(
                "byline.D15",
                "LLM span",
                "error",
                "an LLM call ran in a thread or task without the request's context",
                f"run: {install_command('threads')}, or wrap the function in byline.carry()",
            )
    scopes = sorted(
        {str(each.instrumentation_scope and each.instrumentation_scope.name) for each in evidence.model_calls()}
    )
    if len(scopes) > 1 and len(evidence.model_calls()) > max(evidence.calls, 1):
        yield Finding(
            "byline.D16",
            "LLM span",
            "warning",
            f"two instrumentations make a span of each call: {', '.join(scopes)}",
            "remove one: byline puts tokens and cost on one of the two, but other exporters get both",
        )
    has_tokens = any(names.CALL_RESULT["input_tokens"] in span.attributes for span in spans)
    if has_tokens and not any(names.COST in span.attributes for span in spans):
        advice = "the price of the model is not known: call it through a gateway that states costs"
        if find_spec("genai_prices") is None:
            advice = f"for estimates run: {install_command('prices')}"
        yield Finding("byline.D17", "LLM span", "warning", "the LLM span has tokens but no cost", advice)
    yield from _gateway_findings(evidence, spans)
    yield from _limit_findings(evidence)


def _is_unsigned(started: StartedSpan) -> bool:
    attributes = started.span.attributes or {}
    return (
        not started.has_context
        and is_llm_span(started.span)
        and is_model_call(started.span.name, attributes)
        and names.SESSION_ID not in attributes
    )


def _gateway_findings(evidence: Evidence, spans: Sequence[ReceivedSpan]) -> Iterator[Finding]:
    config = None if evidence.runtime is None else evidence.runtime.config
    if config is None:
        return
    seen = {span.attributes.get(names.CALL_RESULT["gateway"]) for span in spans}
    for gateway in config.registry.configured:
        if gateway.name not in seen:
            called = ", ".join(sorted(set(evidence.hosts))) or "no host"
            yield Finding(
                "byline.D18",
                "gateway",
                "warning",
                f"the gateway {gateway.name} is configured, but the request called {called}",
                'give the gateway the base URL that the SDK uses, e.g. LiteLLM("http://litellm:4000")',
            )


def _limit_findings(evidence: Evidence) -> Iterator[Finding]:
    limits = getattr(evidence.provider, "_span_limits", None)
    count = getattr(limits, "max_span_attributes", None)
    length = getattr(limits, "max_span_attribute_length", None)
    if count is not None and count < _NEEDED_ATTRIBUTES:
        yield Finding(
            "byline.D19",
            "LLM span",
            "warning",
            f"spans may have {count} attributes only; the SDK drops the oldest",
            "raise OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT to 128 or more",
        )
    if length is not None and length < _NEEDED_LENGTH:
        yield Finding(
            "byline.D19",
            "LLM span",
            "warning",
            f"attribute values are cut after {length} characters, ids as well",
            f"raise OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT to {_NEEDED_LENGTH} or more",
        )


def _destination_findings(evidence: Evidence) -> Iterator[Finding]:
    runtime = evidence.runtime
    if runtime is None:
        return
    destinations = runtime.sending_destinations()
    if not destinations and not _exports_elsewhere(runtime):
        yield Finding(
            "byline.D20",
            "destination",
            "error",
            "there is no destination, so the spans go nowhere",
            "set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY, or OTEL_EXPORTER_OTLP_ENDPOINT, or pass destinations=",
        )
    for destination in destinations:
        options = destination.options
        if options.sampling < 1:
            yield Finding(
                "byline.D21",
                "destination",
                "warning",
                f"{destination.label} gets {options.sampling:.0%} of the sessions",
                "raise sampling= if that is too few",
            )
    langfuse = [each for each in destinations if isinstance(each, Langfuse)]
    has_content = any(names.CALL_RESULT["input_messages"] in span.attributes for span in evidence.generations())
    if langfuse and (not has_content or any(each.options.privacy for each in langfuse)):
        yield Finding(
            "byline.D22",
            "destination",
            "warning",
            "input and output are empty in Langfuse: content is not captured",
            "if you want them: capture_content=True, or OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=true",
        )


def _exports_elsewhere(runtime: Runtime) -> bool:
    active = getattr(runtime.tracer_provider, "_active_span_processor", None)
    processors = getattr(active, "_span_processors", ())
    return any(type(each).__name__ not in ("_Probe", "AttributionSpanProcessor") for each in processors)


def _version_findings() -> Iterator[Finding]:
    imported = [name for name in TESTED_VERSIONS if name in sys.modules or name.replace("-", ".") in sys.modules]
    for name, installed in find_newer_versions(imported):
        yield Finding(
            "byline.D23",
            "LLM call",
            "warning",
            f"{name} {installed} is newer than byline is tested with",
            f"if spans lack values, use {name}<{TESTED_VERSIONS[name] + 1} or a newer byline",
        )


def find_newer_versions(packages: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield package and version of each package with a newer major version than byline is tested with."""
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError, ValueError):
            installed = metadata.version(name)
            if int(installed.split(".", 1)[0]) > TESTED_VERSIONS[name]:
                yield name, installed
