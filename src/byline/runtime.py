"""The runtime: everything that one call of `byline.instrument` sets up for one tracer provider."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from opentelemetry.sdk.trace import TracerProvider

from byline import errors, http, internal_metrics, local_queues, mcp_clients, mcp_servers, queues, shutdown, threads
from byline.export import set_variables, unused_settings
from byline.export.destination import Destination, split_deadline, start_all, unique_labels
from byline.export.processor import DestinationSpanProcessor
from byline.fork import fork_safe_lock
from byline.gateways.base import Gateway
from byline.genai.attribution_processor import AttributionSpanProcessor, Stamp
from byline.genai.span_state import SpanStateProcessor
from byline.genai.tracer_provider import SideTracer, get_or_add_processor, list_processors
from byline.http.call_config import LLMSpans
from byline.http.propagation import OwnServices

#: Seconds that the end of a process may take for all destinations together.
_SHUTDOWN_TIMEOUT: Final = 5.0
_PROCESSOR: Final = "_byline_processor"


class Runtime:
    """One tracer provider with its attribution processor, destinations and settings for LLM calls.

    Runtimes of different providers work side by side: each attributes and exports the spans of its own provider.

    Args:
        tracer_provider: The provider whose spans are attributed.
        destinations: The destinations of the spans.
        gateways: The gateways that the app named.
        clients: Names of the HTTP clients to hook, empty for none.
        llm_spans: Whether byline makes LLM spans.
        stamp: Which spans get the attribution.
        capture_content: Whether prompts and completions are written onto LLM spans.
        others: The destinations of other providers, whose labels are taken.
        own_services: The hosts that get the attribution with each HTTP request.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider,
        *,
        destinations: Sequence[Destination],
        gateways: Sequence[Gateway],
        clients: Literal["auto"] | Collection[str],
        llm_spans: LLMSpans,
        stamp: Stamp,
        capture_content: bool,
        others: Sequence[Destination] = (),
        own_services: OwnServices | None = None,
    ) -> None:
        self.tracer_provider = tracer_provider
        #: Whether `opentelemetry-instrument` made the runtime, and no call in the app.
        self.is_from_entry_point = False
        self.destinations = unique_labels(list(destinations), others)
        processors = start_all(self.destinations)
        self.processor = AttributionSpanProcessor(stamp)
        try:
            self.processor = get_or_add_processor(tracer_provider, _PROCESSOR, self.processor)
            # A destination whose processor the app has added to the provider itself receives the spans there.
            present = list_processors(tracer_provider)
            self.processor.switch_on(stamp, [each for each in processors if each not in present])
            recording = [each.processor() for each in self.destinations if each.options.unsampled == "record"]
            self.config = http.install(
                tracer_provider=tracer_provider,
                gateways=gateways,
                clients=clients,
                llm_spans=llm_spans,
                capture_content=capture_content,
                media=next((each.media for each in self.destinations if each.media is not None), None),
                side_tracer=self._side_tracer(stamp, recording) if recording and clients else None,
                processor=self.processor,
                own_services=own_services,
                exports_late=bool(processors)
                and all(isinstance(each, SpanStateProcessor) or each in processors for each in present),
            )
        except BaseException:
            self.processor.switch_off()
            self.stop_destinations()
            raise
        if self.destinations:
            internal_metrics.register_otel_metrics()

    def _side_tracer(self, stamp: Stamp, recording: Sequence[DestinationSpanProcessor]) -> SideTracer:
        processor = AttributionSpanProcessor(stamp)
        processor.switch_on(stamp, recording)
        return SideTracer(self.tracer_provider, [processor])

    def sending_destinations(self) -> list[Destination]:
        """Return the destinations without those whose spans the app itself sends to the backend."""
        return [each for each in self.destinations if not each.is_left_to_app()]

    @contextmanager
    def exporting_to(self, destinations: Sequence[Destination]) -> Iterator[None]:
        """Send the spans that end during the block to these destinations instead. For tests and checks."""
        earlier, listeners = self.destinations, self.processor.listeners
        self.processor.switch_on(self.processor.stamp, start_all(destinations))
        self.destinations = list(destinations)
        try:
            yield
        finally:
            self.stop_destinations()
            self.processor.switch_on(self.processor.stamp, listeners)
            self.destinations = earlier

    def log_destinations(self) -> None:
        """Log where the spans of this provider are sent."""
        if self.destinations:
            names = [f"{each.label} ({urlsplit(each.endpoint).hostname})" for each in self.destinations]
            errors.logger.info("byline: spans are sent to %s", " and ".join(names))
        elif any(not isinstance(each, SpanStateProcessor) for each in list_processors(self.tracer_provider)):
            errors.logger.info("byline: spans are sent by the app's own span processors only")
        else:
            errors.logger.info("byline: spans are sent to no destination")

    def expect_destination(self, variables: list[str]) -> None:
        """Warn at the first LLM call if the provider still has no exporter.

        Args:
            variables: The variables of destinations that are set already.
        """

        def warn() -> None:
            self.config.on_first_call = None
            if any(not isinstance(each, SpanStateProcessor) for each in list_processors(self.tracer_provider)):
                return
            late = [each for each in set_variables() if each not in variables]
            if late:
                errors.warn_once(
                    "destination.late",
                    "byline.E103: %s was set after byline.instrument() was called, and has no effect. Load the .env "
                    "file before",
                    late[0],
                )
                return
            reasons = [reason for reason, _ in unused_settings()]
            errors.warn_once(
                "destination.none",
                "byline.E103: LLM spans are sent nowhere, because %s. Set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY, "
                "or OTEL_EXPORTER_OTLP_ENDPOINT, or pass destinations to byline.instrument()",
                reasons[0] if reasons else "there is no destination",
            )

        self.config.on_first_call = warn

    def flush(self, timeout: float) -> bool:
        """Send all waiting spans. Returns whether every destination took them within ``timeout`` seconds."""
        done = True
        for destination in self.destinations:
            try:
                done = destination.flush(timeout) and done
            except Exception:
                done = False
                errors.report_internal_error("destination")
        return done

    def close(self, timeout: float = _SHUTDOWN_TIMEOUT) -> None:
        """Unhook the clients, switch the processor off, send the waiting spans and stop the destinations."""
        http.uninstall(self.config)
        self.processor.end_watched()
        self.processor.switch_off()
        self.stop_destinations(timeout)

    def stop_destinations(self, timeout: float = _SHUTDOWN_TIMEOUT) -> None:
        """Send the waiting spans and stop the destinations, each within its share of ``timeout`` seconds."""
        for destination, seconds in split_deadline(self.destinations, timeout):
            try:
                destination.set_deadline(seconds)
                destination.shutdown()
            except Exception:
                errors.report_internal_error("destination")


class Runtimes:
    """The runtimes of this process, the oldest first."""

    def __init__(self) -> None:
        self.lock = fork_safe_lock()
        self._active: tuple[Runtime, ...] = ()

    def find(self, tracer_provider: Any) -> Runtime | None:
        """Return the runtime of a provider; of any provider for ``None``."""
        if tracer_provider is None:
            return self._active[0] if self._active else None
        return next((each for each in self._active if each.tracer_provider is tracer_provider), None)

    def add(self, runtime: Runtime) -> None:
        """Start to flush and stop a runtime with the process."""
        self._active = (*self._active, runtime)
        if runtime.destinations and not shutdown.hooks.has_hooks():
            shutdown.hooks.register(on_server_stop=self._flush_on_server_stop, on_exit=self._stop_on_exit)

    def close(self, runtime: Runtime) -> None:
        """Close one runtime; those of other providers go on."""
        runtime.close()
        self._active = tuple(each for each in self._active if each is not runtime)
        if not self.destinations():
            shutdown.hooks.clear()

    def close_all(self) -> None:
        """Close every runtime. The results of LLM calls are dropped after the last export has used them."""
        shutdown.hooks.clear()
        for runtime in self._active:
            runtime.close()
        self._active = ()
        http.uninstall()
        http.clear_results()
        queues.uninstall()
        mcp_servers.uninstall()
        local_queues.uninstall()
        mcp_clients.uninstall()
        threads.uninstall()

    def flush(self, timeout: float) -> bool:
        """Send all waiting spans of all runtimes. Returns whether each destination took them in time."""
        taken = [runtime.flush(timeout) for runtime in self._active]
        return all(taken)

    def destinations(self) -> list[Destination]:
        """Return the destinations of all runtimes."""
        return [destination for runtime in self._active for destination in runtime.destinations]

    def _flush_on_server_stop(self) -> None:
        for destination, seconds in split_deadline(self.destinations(), _SHUTDOWN_TIMEOUT):
            destination.flush(seconds)

    def _stop_on_exit(self) -> None:
        for runtime in self._active:
            runtime.processor.end_watched()
            runtime.stop_destinations(_SHUTDOWN_TIMEOUT / len(self._active))
