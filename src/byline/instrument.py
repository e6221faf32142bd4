"""``instrument()``: once, at start, for the whole process."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Sequence
from typing import Any, Final, Literal

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined, unused-ignore]
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from byline import deferred, errors, export, http, internal_metrics, provider, settings, shutdown
from byline.export.destination import Destination, split_deadline, start_all, unique_labels, validate_destinations
from byline.fork import fork_safe_lock
from byline.gateways import keys, parse_gateways, validate_gateways
from byline.gateways.base import Gateway
from byline.genai import unsampled
from byline.genai.attribution_processor import AttributionSpanProcessor, Stamp
from byline.settings import SettingError

_FAREWELL: Final = 5.0

_lock: Final = fork_safe_lock()
_active: list[AttributionSpanProcessor] = []
#: Whether it was the zero-code entry point that called, and nobody in the app.
_by_itself = False
_destinations: list[Destination] = []
#: The processors that feed, or once fed, a destination of byline's own.
_feeding: Final[weakref.WeakSet[SpanProcessor]] = weakref.WeakSet()


def instrument(
    *,
    tracer_provider: TracerProvider | None = None,
    destinations: Sequence[Destination] | None = None,
    gateways: Sequence[Gateway] = (),
    clients: Literal["auto"] | Collection[str] = "auto",
    llm_spans: Literal["auto"] | bool = "auto",
    stamp: Stamp = "llm",
    capture_content: bool | None = None,
) -> None:
    """Sign the LLM spans of this process. Call it once, at start; further calls change nothing.

    Where ``opentelemetry-instrument`` has switched byline on by itself, a call with arguments takes the
    place of that.

    Args:
        tracer_provider: The provider whose spans are signed. By default the global one, which is
            made and set where nobody has (resource and sampler from the OpenTelemetry environment).
        destinations: Where spans go. By default those of the environment: Langfuse where
            ``LANGFUSE_PUBLIC_KEY`` and ``LANGFUSE_SECRET_KEY`` are set, and the endpoint of
            ``OTEL_EXPORTER_OTLP_*`` where nothing else exports the provider's spans. ``[]``: none.
        gateways: The gateways that the app calls, e.g. ``[LiteLLM("http://llm.internal:4000")]``;
            those with hosts of their own are known already. ``BYLINE_GATEWAYS`` adds to them.
        clients: HTTP clients whose LLM calls are seen: ``"auto"`` for all that byline knows, names
            such as ``{"httpx", "requests"}``, or ``()`` for none.
        llm_spans: Whether byline makes LLM spans of its own: ``"auto"`` where no instrumentation
            makes one.
        stamp: ``"llm"`` signs LLM spans, ``"all"`` every span of a request.
        capture_content: Whether prompts and completions go onto the LLM spans; by default as
            ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` says, and not where that is unset.

    Raises:
        SettingError: A setting that cannot be used, e.g. ``byline.E041`` where only one of the two
            Langfuse keys is set, ``byline.E022`` where the tracer provider takes no processors.

    Example:
        >>> import byline
        >>> byline.instrument(destinations=[], clients=())
        >>> byline.uninstrument()
    """
    with _lock:
        if settings.find("disabled").value:
            return
        if _active:
            if not _replaces(tracer_provider, destinations, gateways, clients, llm_spans, stamp, capture_content):
                return
            _undo()
        # Whatever may be wrong is found before anything is changed.
        settings.find("debug")
        for variable, meant in settings.find_misspelt().items():
            errors.warn_once(variable, "byline.E002: %s is no setting; %s may be meant", variable, meant)
        processor = AttributionSpanProcessor(stamp)
        found = [*validate_gateways(gateways), *parse_gateways(settings.find("gateways").value)]
        content = settings.find("capture_content").value if capture_content is None else capture_content
        if not isinstance(content, bool):
            raise SettingError("byline.E023", f"capture_content={capture_content!r}", "pass True, False or None")
        if llm_spans not in ("auto", True, False):
            raise SettingError("byline.E024", f"llm_spans={llm_spans!r}", 'pass "auto", True or False')
        aliases = keys.parse_aliases(settings.find("key_aliases").value)
        wanted = http.validate_clients(clients)
        given = None if destinations is None else validate_destinations(destinations)
        found_provider = provider.find_tracer_provider(tracer_provider)
        if given is None:
            given = export.destinations_from_environment(provider.list_processors(found_provider, _feeding))
        targets = unique_labels(given)
        feeds = start_all(targets)
        processor = provider.get_or_add_attribution_processor(found_provider, processor)
        processor.switch_on(stamp)
        keys.set_aliases(aliases)
        _active.append(processor)
        for destination, feeding in zip(targets, feeds, strict=True):
            if feeding not in provider.list_processors(found_provider, ()):
                found_provider.add_span_processor(feeding)
            _feeding.add(feeding)
            _destinations.append(destination)
        if targets:
            export.metrics.register_otel_metrics()
            shutdown.register(pause=_pause, stop=_stop)
        recording = [each.processor() for each in targets if each.options.unsampled == "record"]
        if recording:
            # One for the signing of spans which no other provider sees.
            signing = AttributionSpanProcessor(stamp)
            unsampled.enable(found_provider, [signing, *recording])
        if wanted:
            http.install(
                tracer_provider=found_provider,
                gateways=found,
                clients=clients,
                llm_spans=llm_spans,
                capture_content=content,
            )


def uninstrument() -> None:
    """Undo `instrument`: no more stamps, client hooks or exports. Waiting spans are sent first.

    The tracer provider stays, for OpenTelemetry cannot replace it. May be called at any time, also twice.
    """
    with _lock:
        _undo()


def _undo() -> None:
    global _by_itself
    http.uninstall()
    unsampled.enable(None, ())
    for processor in _active:
        processor.switch_off()
    _active.clear()
    shutdown.clear()
    _stop()
    _destinations.clear()
    # What has just been sent was still looked up there.
    http.clear_results()
    _by_itself = False


def _replaces(*given: Any) -> bool:
    """Whether a further call takes the place of the first one: where nobody in the app has made that."""
    if all(value is None or value in ((), "auto", "llm") for value in given):
        return False
    if not _by_itself:
        errors.warn_once(
            "instrument.again",
            "byline.E026: byline.instrument() has been called already, and what is passed now is not in force; call it "
            "once, or byline.uninstrument() before",
        )
    return _by_itself


def _pause() -> None:
    """Send what waits while a server stops, which must not take long in all."""
    for destination, seconds in split_deadline(_destinations, _FAREWELL):
        destination.flush(seconds)


def _stop() -> None:
    for destination, seconds in split_deadline(_destinations, _FAREWELL):
        try:
            destination.set_deadline(seconds)
            destination.shutdown()
        except Exception:
            errors.report_internal_error("destination")


def flush(timeout: float = 10.0) -> bool:
    """Send what waits in all destinations. For scripts, tests and functions that are frozen.

    Called within a request, it leaves what waits for the end of that request: the caller's step, and
    spans that ended before the app has read the body.

    Args:
        timeout: Seconds that each destination may take.

    Returns:
        Whether everything was handed over in time.

    Example:
        >>> import byline
        >>> byline.flush(timeout=2.0)
        True
    """
    done = True
    deferred.run_deferred()
    for destination in _destinations:
        try:
            done = destination.flush(timeout) and done
        except Exception:
            done = False
            errors.report_internal_error("destination")
    return done


def stats() -> dict[str, int]:
    """Return what byline has counted about itself, by name: errors, calls, and of each destination its
    spans (``langfuse.spans.sent``, ``.spooled``, ``.left_out``, ``.dropped.<why>``), its submissions, and
    what waits (``langfuse.queue``, ``langfuse.spool.spans``).

    Example:
        >>> import byline
        >>> isinstance(byline.stats(), dict)
        True
    """
    deferred.run_deferred()
    return {**internal_metrics.counter_values(), **internal_metrics.gauge_values()}


class BylineInstrumentor(BaseInstrumentor):  # type: ignore[misc, unused-ignore]
    """Lets ``opentelemetry-instrument`` and declarative configuration call `instrument`."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """Byline signs whatever is there."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        global _by_itself
        known_names = instrument.__kwdefaults__ or {}
        was_active = bool(_active)
        try:
            instrument(**{name: value for name, value in kwargs.items() if name in known_names})
        except SettingError as error:
            # Raised here it would keep OpenTelemetry from loading all other instrumentations.
            errors.error_once("entry point", "%s", error)
            return
        _by_itself = not was_active

    def _uninstrument(self, **_: Any) -> None:
        uninstrument()
