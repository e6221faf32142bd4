"""The functions of the package that act on the whole process: `instrument`, `flush`, `stats`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeVar

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from byline import (
    deferred,
    errors,
    export,
    http,
    internal_metrics,
    local_queues,
    mcp_clients,
    mcp_servers,
    request_context,
    settings,
    shutdown,
)
from byline.export.destination import Destination, validate_destinations
from byline.gateways import keys, parse_gateways, validate_gateways
from byline.gateways.base import Gateway
from byline.genai.attribution_processor import AttributionSpanProcessor, Stamp
from byline.genai.span_state import SpanStateProcessor
from byline.genai.tracer_provider import find_tracer_provider, list_processors
from byline.http.call_config import LLMSpans
from byline.http.propagation import OwnServices
from byline.queues import install as install_queues
from byline.queues import validate_queues
from byline.runtime import Runtime, Runtimes
from byline.settings import SettingError
from byline.threads import install as install_threads

T = TypeVar("T")


class Arguments(NamedTuple):
    """The arguments of `instrument`, which describes them."""

    tracer_provider: TracerProvider | None = None
    destinations: Sequence[Destination] | None = None
    gateways: Sequence[Gateway] = ()
    clients: Literal["auto"] | Collection[str] = "auto"
    llm_spans: LLMSpans = "auto"
    stamp: Stamp = "llm"
    capture_content: bool | None = None
    propagate_to: Collection[str] | None = None
    queues: Literal["auto"] | Collection[str] | None = None
    threads: bool | None = None


runtimes: Final = Runtimes()


def instrument(
    *,
    tracer_provider: TracerProvider | None = None,
    destinations: Sequence[Destination] | None = None,
    gateways: Sequence[Gateway] = (),
    clients: Literal["auto"] | Collection[str] = "auto",
    llm_spans: Literal["auto"] | bool = "auto",
    stamp: Stamp = "llm",
    capture_content: bool | None = None,
    propagate_to: Collection[str] | None = None,
    queues: Literal["auto"] | Collection[str] | None = None,
    threads: bool | None = None,
) -> None:
    """Attribute the LLM spans of this process. Call this function once, at start; further calls change nothing.

    If ``opentelemetry-instrument`` has already called this function, a call with arguments replaces that one.

    Args:
        tracer_provider: The tracer provider of the app. By default the global one; if there is none,
            it is created with the resource and sampler of the OpenTelemetry environment.
        destinations: The backends that receive spans. By default those of the environment: Langfuse if
            ``LANGFUSE_PUBLIC_KEY`` and ``LANGFUSE_SECRET_KEY`` are set, and the endpoint of
            ``OTEL_EXPORTER_OTLP_*`` if nothing else exports the provider's spans. ``[]``: none.
        gateways: The gateways that the app calls, e.g. ``[LiteLLM("http://llm.internal:4000")]``.
            Gateways with public hosts need no entry. ``BYLINE_GATEWAYS`` adds more.
        clients: The HTTP clients to hook: ``"auto"`` for all that byline supports, names such as
            ``{"httpx", "requests"}``, or ``()`` for none.
        llm_spans: Whether byline creates LLM spans: ``"auto"`` if no instrumentation creates one.
        stamp: ``"llm"`` attributes LLM spans, ``"all"`` every span of a request.
        capture_content: Whether LLM spans get prompts and completions; by default the value of
            ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT``, or ``False`` if that is unset.
        propagate_to: Your own services, which get the attribution with every HTTP request of the hooked clients:
            ``["*.svc.internal", "rag:8000", "10.0.0.0/8"]``. By default the value of ``BYLINE_PROPAGATE_TO``. No other
            host gets it, and no redirect to another origin.
        queues: The task queues to hook, so that a task is attributed to the request that queued it: ``"auto"`` for
            all that byline supports, names such as ``{"celery", "rq"}``, or ``()`` for none. By default the value of
            ``BYLINE_QUEUES``, or all.
        threads: Whether threads and executors work for the request that starts them, if
            ``opentelemetry-instrumentation-threading`` is installed. By default the value of ``BYLINE_THREADS``, or
            ``True``.

    Raises:
        SettingError: An invalid setting, e.g. ``byline.E041`` if only one of the two Langfuse keys is
            set, ``byline.E022`` if the tracer provider accepts no span processors.

    Where spans are sent is logged once as ``INFO`` by the logger ``byline``.

    Example:
        >>> import byline
        >>> byline.instrument(destinations=[], clients=())
        >>> byline.uninstrument()
    """
    given = Arguments(
        tracer_provider=tracer_provider,
        destinations=destinations,
        gateways=gateways,
        clients=clients,
        llm_spans=llm_spans,
        stamp=stamp,
        capture_content=capture_content,
        propagate_to=propagate_to,
        queues=queues,
        threads=threads,
    )
    instrument_checked(given, strict=True)


def instrument_checked(given: Arguments, *, strict: bool) -> None:
    """Do the work of `instrument`; without ``strict``, a wrong setting is reported and switches off what it names."""
    check = _SettingCheck(strict=strict)
    with runtimes.lock:
        if check(lambda: settings.find("disabled").value, False):
            return
        earlier = runtimes.find(given.tracer_provider)
        if earlier is not None and not _replaces(earlier, given):
            return
        unknown: Mapping[str, str] = check(settings.config_file.load, {})
        for name, similar in unknown.items():
            advice = f"; did you mean {similar}?" if similar else ""
            file = settings.config_file.name
            errors.warn_once(f"{file} {name}", "byline.E139: %s in %s is not a setting%s", name, file, advice)
        queue_names: frozenset[str] = check(
            lambda: validate_queues(settings.resolve("queues", given.queues)), frozenset()
        )
        hooks_threads = check(lambda: settings.resolve("threads", given.threads), False)
        if not isinstance(hooks_threads, bool):
            raise SettingError("byline.E134", f"threads={given.threads!r}", "pass True or False")
        make_runtime = _check_runtime(given, check)
        if earlier is not None:
            runtimes.close(earlier)
        decides = runtimes.find(None) is None
        runtime = make_runtime()
        runtimes.add(runtime)
        runtime.log_destinations()
        if decides:
            # Queues and threads belong to the process: a further provider leaves them as they are.
            install_queues(queue_names)
            mcp_servers.install()
            local_queues.install()
            mcp_clients.install()
            install_threads(hooks_threads)
            if check(lambda: settings.find("flush_on_sigterm").value, False):
                shutdown.hooks.call_on_sigterm()


class _SettingCheck:
    """Evaluates settings. Without ``strict``, a wrong one is logged, and its default is used.

    Zero code must not take the app's other instrumentations, or byline's other settings, along.
    """

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict

    def __call__(self, evaluate: Callable[[], T], default: T) -> T:
        try:
            return evaluate()
        except SettingError as error:
            if self.strict:
                raise
            errors.error_once(str(error), "%s", error)
            return default


def _check_runtime(given: Arguments, check: _SettingCheck) -> Callable[[], Runtime]:
    """Check all settings, before any change. Returns a function that makes the runtime."""
    check(lambda: settings.find("debug").value, False)
    for variable, suggestion in settings.find_misspelt().items():
        errors.warn_once(
            variable,
            "byline.E002: %s is not a setting and has no effect; did you mean %s?",
            variable,
            suggestion,
        )
    AttributionSpanProcessor(given.stamp)
    named: list[Gateway] = check(
        lambda: parse_gateways(settings.find("gateways").value, settings.find("broadcasts").value), []
    )
    all_gateways = [*validate_gateways(given.gateways), *named]
    content = check(lambda: settings.resolve("capture_content", given.capture_content), False)
    if not isinstance(content, bool):
        raise SettingError("byline.E023", f"capture_content={given.capture_content!r}", "pass True, False or None")
    if given.llm_spans not in ("auto", True, False):
        raise SettingError("byline.E024", f"llm_spans={given.llm_spans!r}", 'pass "auto", True or False')
    aliases: dict[str, str] = check(lambda: keys.parse_aliases(settings.find("key_aliases").value), {})
    hashing = check(lambda: (settings.find("key_hash").value, settings.find("pseudonym_key").value), ("off", ""))
    http.validate_clients(given.clients)
    own_services = check(lambda: OwnServices(settings.resolve("propagate_to", given.propagate_to)), OwnServices(()))
    checked = None if given.destinations is None else validate_destinations(given.destinations)
    nowhere: list[str] | None = None
    provider = find_tracer_provider(given.tracer_provider)
    if checked is None:
        processors = [each for each in list_processors(provider) if not isinstance(each, SpanStateProcessor)]
        none: list[Destination] = []
        checked = check(lambda: export.destinations_from_environment(provider, leave_out=not check.strict), none)
        if not checked and not processors:
            nowhere = export.set_variables()
    accepted = checked

    def make_runtime() -> Runtime:
        runtime = Runtime(
            provider,
            destinations=accepted,
            gateways=all_gateways,
            clients=given.clients,
            llm_spans=given.llm_spans,
            stamp=given.stamp,
            capture_content=content,
            others=runtimes.destinations(),
            own_services=own_services,
        )
        if nowhere is not None:
            runtime.expect_destination(nowhere)
        keys.key_settings.configure(aliases, *hashing)
        return runtime

    return make_runtime


def uninstrument() -> None:
    """Undo `instrument`: no more attributes, client hooks or exports. Waiting spans are sent first.

    The tracer provider stays, because OpenTelemetry cannot replace it. May be called at any time, also twice.
    """
    with runtimes.lock:
        runtimes.close_all()


def _replaces(earlier: Runtime, given: Arguments) -> bool:
    """Return whether a further call replaces an earlier one: only if the zero-code entry point made that."""
    if given == Arguments():
        return False
    if not earlier.is_from_entry_point:
        errors.warn_once(
            "instrument.again",
            "byline.E026: byline.instrument() was called a second time, and its new arguments have no effect; call it "
            "once, or call byline.uninstrument() before the second call",
        )
    return earlier.is_from_entry_point


def flush(timeout: float = 10.0) -> bool:
    """Send all waiting spans to their destinations. For scripts, tests and serverless functions.

    A call within a request leaves the spans that wait for the end of that request: the caller's step, and
    spans that ended before the app has read the body.

    Args:
        timeout: Seconds for each destination.

    Returns:
        Whether the destinations accepted all spans in time.

    Example:
        >>> import byline
        >>> byline.flush(timeout=2.0)
        True
    """
    deferred.run_deferred()
    return runtimes.flush(timeout)


def find_runtime() -> Runtime | None:
    """Return what `instrument` set up first, ``None`` before it."""
    return runtimes.find(None)


def stats() -> dict[str, int]:
    """Return byline's own counters and gauges by name.

    They count internal errors, LLM calls (``calls``), those of them that found no request and so get no attribution
    (``calls.without_request``), and for each destination its spans (``langfuse.spans.sent``,
    ``.spooled``, ``.left_out``, ``.dropped.<why>``), its requests, and its waiting spans
    (``langfuse.queue``, ``langfuse.spool.spans``).

    Example:
        >>> import byline
        >>> isinstance(byline.stats(), dict)
        True
    """
    deferred.run_deferred()
    return {**internal_metrics.counter_values(), **internal_metrics.gauge_values()}


@dataclass(frozen=True)
class DestinationTrace:
    """The trace of a request at one destination.

    Attributes:
        trace_id: The trace id there, 32 hex digits.
        url: The page of the trace, ``None`` if the destination is not Langfuse.
    """

    trace_id: str
    url: str | None


@dataclass(frozen=True)
class TraceIds:
    """The traces of a request. False outside a request.

    A dataclass, which FastAPI and Flask turn into JSON.

    Attributes:
        app_trace_id: The OpenTelemetry trace id of the app, 32 hex digits; ``None`` without a span.
        destinations: The trace at each destination, by its label.
    """

    app_trace_id: str | None
    destinations: Mapping[str, DestinationTrace]

    def __bool__(self) -> bool:
        return self.app_trace_id is not None or bool(self.destinations)


def trace_ids() -> TraceIds:
    """Return the traces in which the LLM spans of this request are: in the app, and at each destination.

    They differ if the caller names its trace, or must not choose it. The ids are those that are known now: read the
    JSON body before, if the caller's trace is in it. A destination with ``traces="call"`` has a trace for each call,
    and is missing unless the caller names a trace. Filters and sampling may keep a trace away from a destination.

    Example:
        >>> import byline
        >>> byline.instrument(destinations=[byline.destinations.Langfuse("pk-lf-1", "sk-lf-1")], clients=())
        >>> with byline.bound(trace_id="workflow_12345"):
        ...     byline.trace_ids().destinations["langfuse"].url
        'https://cloud.langfuse.com/trace/7af15d27557f4b0547b66811c67d365d'
        >>> bool(byline.trace_ids())
        False
        >>> byline.uninstrument()
    """
    context = request_context.current_context()
    if context is None:
        return TraceIds(None, {})
    server_span = context.root().server_span
    span_context = (trace.get_current_span() if server_span is None else server_span).get_span_context()
    exported = context.exported_trace_id(span_context.trace_id)
    trace_id, is_named = f"{exported:032x}", bool(context.attribution().trace_id)
    destinations = {
        each.label: DestinationTrace(trace_id, each.trace_url(trace_id))
        for each in runtimes.destinations()
        if exported and not each.is_left_to_app() and (is_named or each.options.traces == "request")
    }
    return TraceIds(f"{span_context.trace_id:032x}" if span_context.is_valid else None, destinations)


def __getattr__(name: str) -> Any:
    # The entry point, whose base class takes longer to import than any module of byline.
    if name != "BylineInstrumentor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from byline.entry_point import BylineInstrumentor

    return BylineInstrumentor
