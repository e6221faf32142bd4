"""``byline check app:app``: sends one request through the app and says where session, user or cost is lost."""

from __future__ import annotations

import contextlib
import json
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.sampling import Decision

import byline
from byline import errors, request_context
from byline.cli.app_runner import (
    AppError,
    LLMRedirect,
    LoadedApp,
    TestRequest,
    TestResponse,
    find_routes,
    load_app,
    run_request,
)
from byline.cli.findings import Finding, find_problems, setting_finding
from byline.export.otlp import OTLP
from byline.gateways import GatewayRegistry
from byline.genai import attributes as names
from byline.genai.classify import is_llm_span, is_model_call
from byline.genai.tracer_provider import has_tracer_provider
from byline.instrument import find_runtime
from byline.request_context import RequestContext
from byline.runtime import Runtime
from byline.settings import SettingError
from byline.testing import Gateway, ReceivedSpan, Receiver

USER: Final = "byline-check-user"
#: A body that most chat APIs accept; unknown members are ignored by most of them.
DEFAULT_BODY: Final = {
    "model": "openai/gpt-4o",
    "messages": [{"role": "user", "content": "Hello"}],
    **dict.fromkeys(("message", "question", "prompt", "input", "query", "text", "content"), "Hello"),
}


class Layer(NamedTuple):
    """What was seen of one part of the way of the request; ``ok`` is ``None`` if it was not reached."""

    name: str
    ok: bool | None
    detail: str


class Report(NamedTuple):
    """The result of a check of an app."""

    verdict: str
    layers: list[Layer]
    findings: list[Finding]

    @property
    def exit_code(self) -> int:
        """0 if all arrives, 1 if something is lost, 2 if the check could not be completed."""
        severities = {finding.severity for finding in self.findings}
        return 2 if "failed" in severities else int("error" in severities)


class StartedSpan(NamedTuple):
    """A span that started: with a request's context or not, before the middleware had the request or later."""

    span: ReadableSpan
    has_context: bool
    is_after_middleware: bool


class _Probe(SpanProcessor):
    """Records the LLM spans of one provider, and in which context each was started."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence

    def on_start(self, span: Any, parent_context: Any = None) -> None:  # noqa: ARG002 - OpenTelemetry's signature
        context = request_context.attached()
        started = StartedSpan(span, context is not None, bool(self._evidence.contexts))
        self._evidence.started.append(started)


class Evidence:
    """What was observed while the request passed through the app."""

    def __init__(self) -> None:
        self.session = f"byline-check-{uuid.uuid4().hex[:8]}"
        self.response: TestResponse | None = None
        self.failure = ""
        #: The error of a middleware that refuses its settings or its app.
        self.refusal: SettingError | None = None
        #: The warnings and errors that byline has logged.
        self.warnings: list[str] = []
        #: The request contexts that the middleware made.
        self.contexts: list[RequestContext] = []
        self.started: list[StartedSpan] = []
        self.received: list[ReceivedSpan] = []
        self.calls = 0
        self.hosts: list[str] = []
        self.runtime: Runtime | None = None
        self.was_instrumented = False
        self.provider: Any = None
        self.sampler_drops = ""

    def model_calls(self) -> list[ReadableSpan]:
        """Return the model-call spans of the app's provider, those of other instrumentations included."""
        return [
            each.span
            for each in self.started
            if is_llm_span(each.span) and is_model_call(each.span.name, each.span.attributes or {})
        ]

    def generations(self) -> list[ReceivedSpan]:
        """Return the model-call spans as a backend receives them."""
        return [
            span
            for span in self.received
            if names.OPERATION_NAME in span.attributes and is_model_call(span.name, span.attributes)
        ]


def check_app(
    target: str, *, factory: bool, path: str | None, headers: Mapping[str, str], body: bytes | None
) -> tuple[Report, Evidence]:
    """Send one marked request through an app and return what is lost on its way.

    Args:
        target: ``module:attribute``.
        factory: Whether the attribute returns the app.
        path: The path that makes an LLM call; by default the only one that takes POST.
        headers: Further headers of the request, e.g. for authentication.
        body: The body of the request, by default one that most chat APIs accept.
    """
    evidence = Evidence()
    handler = _WarningCollector(evidence.warnings)
    errors.logger.addHandler(handler)
    try:
        return _check(evidence, target, factory, path, headers, body), evidence
    finally:
        errors.logger.removeHandler(handler)


class _WarningCollector(logging.Handler):
    """Collects the warnings and errors of byline's logger."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())


def _check(
    evidence: Evidence, target: str, factory: bool, path: str | None, headers: Mapping[str, str], body: bytes | None
) -> Report:
    try:
        loaded = load_app(target, factory=factory)
    except AppError as error:
        cause = error.__cause__
        if isinstance(cause, SettingError):
            finding = setting_finding(cause, "instrument")
        else:
            finding = Finding("byline.D01", "app", "failed", str(error), error.advice)
        return Report("The app cannot be checked.", [Layer("app", False, target)], [finding])
    if path is None:
        routes = find_routes(loaded.app)
        if len(routes) != 1:
            known = f"; POST is taken by {', '.join(routes)}" if routes else ""
            finding = Finding(
                "byline.D03",
                "request",
                "failed",
                f"which path makes an LLM call is not known{known}",
                "add --path /chat",
            )
            layers = [Layer("app", True, loaded.protocol.upper()), Layer("request", False, "")]
            return Report("The app cannot be checked.", layers, [finding])
        path = routes[0]
    _observe(loaded, _make_request(evidence, path, headers, body), evidence)
    findings = list(find_problems(evidence))
    return Report(_verdict(evidence, findings), list(_layers(evidence, loaded, path, findings)), findings)


def _make_request(evidence: Evidence, path: str, headers: Mapping[str, str], body: bytes | None) -> TestRequest:
    marks = {"x-session-id": evidence.session, "baggage": f"user.id={USER}"}
    return TestRequest("POST", path, {**marks, **headers}, json.dumps(DEFAULT_BODY).encode() if body is None else body)


def _observe(loaded: LoadedApp, request: TestRequest, evidence: Evidence) -> None:
    attach = request_context.attach

    def record_context(context: Any) -> Any:
        if getattr(context, "scope_or_environ", None) is not None:
            evidence.contexts.append(context)
        return attach(context)

    with Gateway() as gateway, Receiver() as receiver, contextlib.ExitStack() as stack:
        redirect = LLMRedirect(gateway.url, lambda host, port, path: _find_gateway(evidence, host, port, path))
        destinations = [OTLP(receiver.url, spans="all", label="byline-check")]

        def prepare() -> None:
            evidence.runtime = find_runtime()
            evidence.was_instrumented = evidence.runtime is not None
            stack.enter_context(redirect.installed())
            _watch(evidence)
            if evidence.runtime is not None:
                # The spans of the marked request are sent to the receiver only.
                stack.enter_context(evidence.runtime.exporting_to(destinations))

        request_context.attach = record_context
        stack.callback(setattr, request_context, "attach", attach)
        try:
            evidence.response = run_request(loaded, request, prepare)
        except AppError as error:
            evidence.failure = str(error)
            evidence.refusal = error.__cause__ if isinstance(error.__cause__, SettingError) else None
        evidence.calls = len(gateway.requests)
        evidence.hosts = redirect.hosts
        evidence.runtime = find_runtime()
        byline.flush(5)
        evidence.received = receiver.spans


def _find_gateway(evidence: Evidence, host: str, port: int | None, path: str) -> bool:
    config = None if evidence.runtime is None else evidence.runtime.config
    registry = GatewayRegistry() if config is None else config.registry
    found = registry.find(host, port, path)
    return found is not None and not found.is_provider


def _watch(evidence: Evidence) -> None:
    """Record the spans of the app's provider from now on."""
    if has_tracer_provider():
        evidence.provider = trace.get_tracer_provider()
        evidence.sampler_drops = _dropping_sampler(evidence.provider)
        with contextlib.suppress(Exception):
            evidence.provider.add_span_processor(_Probe(evidence))


def _dropping_sampler(provider: Any) -> str:
    """Return the description of a sampler that drops some requests, else an empty text."""
    sampler = getattr(provider, "sampler", None)
    if sampler is None:
        return ""
    # Ratio samplers compare the low 64 bits of the trace id with a bound.
    result = sampler.should_sample(None, (1 << 128) - 1, "byline check")
    return "" if result.decision is Decision.RECORD_AND_SAMPLE else str(sampler.get_description())


#: What a report is about, and the attribute that shows it.
_WANTED: Final[Mapping[str, str]] = {"session": names.SESSION_ID, "user": names.USER_ID, "cost": names.COST}


def _lost(evidence: Evidence) -> list[str]:
    """Return what is missing: on one of several spans of a call, but for the cost, which is on one of them only."""
    spans = evidence.generations()
    return [
        label
        for label, name in _WANTED.items()
        if not spans or (all if name == names.COST else any)(name not in span.attributes for span in spans)
    ]


def _verdict(evidence: Evidence, findings: Sequence[Finding]) -> str:
    if any(finding.severity == "failed" for finding in findings):
        return "The app cannot be checked."
    lost = _lost(evidence)
    errors = [finding for finding in findings if finding.severity == "error"]
    nowhere = " There is no destination." if any(finding.id == "byline.D20" for finding in errors) else ""
    if not errors and lost in ([], ["cost"]):
        calls = f"the LLM call{'s' * (len(evidence.generations()) > 1)} of the request"
        return (
            f"Session, user and cost arrive with {calls}."
            if not lost
            else (f"Session and user arrive with {calls}, but no cost.")
        )
    if not lost:
        return f"Session, user and cost are on the span, but: {errors[0].problem}."
    if nowhere and len(errors) == 1 and lost == ["cost"]:
        return f"Session and user are on the span, but no cost.{nowhere}"
    text = f"{lost[0]} is" if len(lost) == 1 else f"{', '.join(lost[:-1])} and {lost[-1]} are"
    where = f", in the layer {errors[0].layer}" if errors else ""
    return f"{text[0].upper()}{text[1:]} lost{where}.{nowhere}"


def _layers(evidence: Evidence, loaded: LoadedApp, path: str, findings: Sequence[Finding]) -> Iterator[Layer]:
    bad = {finding.layer for finding in findings if finding.severity != "warning"}
    answered = f"answer {evidence.response.status}" if evidence.response else "no answer"

    def layer(name: str, detail: str, *, reached: bool = True) -> Layer:
        return Layer(name, name not in bad if reached or name in bad else None, detail)

    yield layer("app", f"{loaded.protocol.upper()}, {type(loaded.app).__name__}")
    yield layer("request", f"POST {path}, {answered}")
    yield layer("instrument", "byline.instrument() was called" if evidence.was_instrumented else "")
    attribution = evidence.contexts[0].attribution() if evidence.contexts else None
    read = attribution and f"session {attribution.session_id or '-'}, user {attribution.user_id or '-'}"
    yield layer("middleware", read or "", reached=bool(evidence.contexts))
    hosts = ", ".join(sorted(set(evidence.hosts)))
    yield layer("LLM call", f"{evidence.calls} to {hosts}" if hosts else "", reached=bool(evidence.calls))
    spans = evidence.generations()
    yield layer("LLM span", "; ".join(map(_describe_span, spans)), reached=bool(spans))
    labels = [each.label for each in evidence.runtime.sending_destinations()] if evidence.runtime else []
    yield layer("destination", ", ".join(labels) or "none of byline's own", reached=bool(spans))


def _describe_span(span: ReceivedSpan) -> str:
    values = (f"{what} {span.attributes.get(name, '-')}" for what, name in _WANTED.items())
    return f"{span.name} by {span.scope}: {', '.join(values)}"
