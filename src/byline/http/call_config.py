"""The settings that `byline.instrument` made for LLM calls, for each tracer provider."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, Protocol

from opentelemetry import trace
from opentelemetry.sdk.trace import Span, SpanProcessor
from opentelemetry.trace import Tracer

from byline.fork import fork_safe_lock
from byline.gateways import GatewayRegistry
from byline.gateways.base import Gateway
from byline.genai.attribution_processor import AttributionSpanProcessor
from byline.genai.span_state import SpanState
from byline.genai.tracer_provider import SideTracer, parent_is_unsampled, unwrap_processors
from byline.media import MediaBudget

LLMSpans = Literal["auto"] | bool

_MAX_COUNTED: Final = 10_000
_lock: Final = fork_safe_lock()


class HostMatcher(Protocol):
    """A set of hosts."""

    def include(self, host: str, port: int) -> bool:
        """Return whether a host is one of them."""


class CallConfig:
    """Settings for the LLM calls of one tracer provider.

    Args:
        tracer_provider: The provider whose spans are attributed.
        tracer: Makes byline's own LLM spans.
        gateways: The gateways that the app named.
        llm_spans: Whether byline makes LLM spans: ``"auto"`` if no instrumentation makes one.
        capture_content: Whether prompts and completions are written onto LLM spans.
        media: Room for the bytes of their binary parts, ``None`` if no destination uploads them.
        side_tracer: Makes LLM spans for requests that the app's sampler dropped, ``None`` if no destination
            wants those.
        processor: byline's span processor of the provider.
        enabled: Whether byline sees the LLM calls of this provider.
        own_services: The hosts that get the attribution with each request, ``None`` for none.

    Attributes:
        on_first_call: Called at the first LLM call, ``None`` for nothing.
    """

    def __init__(
        self,
        *,
        tracer_provider: Any,
        tracer: Tracer,
        gateways: Sequence[Gateway],
        llm_spans: LLMSpans,
        capture_content: bool,
        media: MediaBudget | None = None,
        side_tracer: SideTracer | None = None,
        processor: SpanProcessor | None = None,
        enabled: bool = True,
        own_services: HostMatcher | None = None,
    ) -> None:
        self.own_services = own_services
        self.tracer_provider = tracer_provider
        self.tracer = tracer
        self.registry = GatewayRegistry(gateways)
        self.llm_spans: LLMSpans = llm_spans
        self.capture_content = capture_content
        self.media = media
        self.side_tracer = side_tracer
        self.enabled = enabled
        self.on_first_call: Callable[[], None] | None = None
        #: Whether a response is counted already; false for one that was created here and is not done.
        self._responses: OrderedDict[tuple[str, str | None, str], bool] = OrderedDict()
        self._processor = processor

    def expect_response(self, host: str, key_hash: str | None, response_id: str) -> None:
        """Note that a response was created, whose usage the provider will state when it is asked for."""
        self._note_response((host, key_hash, response_id), is_counted=False)

    def count_response(self, host: str, key_hash: str | None, response_id: str, *, only_expected: bool = False) -> bool:
        """Note that the usage of a response is counted. Returns whether it was not yet.

        By host and API key: other keys do not get the response, and may have one with the same id.

        Args:
            host: The provider's host.
            key_hash: The hash of the API key.
            response_id: The response.
            only_expected: Count nothing that was created elsewhere.
        """
        was_counted = self._note_response((host, key_hash, response_id), is_counted=True)
        return was_counted is False or (was_counted is None and not only_expected)

    def _note_response(self, key: tuple[str, str | None, str], *, is_counted: bool) -> bool | None:
        with _lock:
            was_counted = self._responses.get(key)
            self._responses[key] = is_counted or bool(was_counted)
            while len(self._responses) > _MAX_COUNTED:
                self._responses.popitem(last=False)
        return was_counted

    def watch(self, span: Span, state: SpanState) -> None:
        """Send a span whose call has ended abnormally, also if it never ends; see `AttributionSpanProcessor.watch`."""
        if isinstance(self._processor, AttributionSpanProcessor) and self.owns_span(span):
            self._processor.watch(span, state)

    def records_unsampled(self) -> bool:
        """Return whether a call made now gets a side span because the app's sampler dropped its request."""
        return self.side_tracer is not None and parent_is_unsampled()

    def owns_span(self, span: trace.Span) -> bool:
        """Return whether a span comes from this provider."""
        active = getattr(span, "_span_processor", None)
        if active is None:
            return False
        # A provider of a vendor's own class has no `_active_span_processor`; the SDK's provider inside has.
        return active is getattr(self.tracer_provider, "_active_span_processor", None) or (
            self._processor is not None and self._processor in unwrap_processors(active)
        )


class CallConfigs:
    """The settings of all providers that `byline.instrument` was called for, the first one first."""

    def __init__(self) -> None:
        self._configs: tuple[CallConfig, ...] = ()
        #: Whether any settings are in force. Client hooks look at this for every HTTP request of the app.
        self.active = False

    def add(self, config: CallConfig) -> None:
        """Put settings in force."""
        self._configs = (*self._configs, config)
        self.active = any(each.enabled for each in self._configs)

    def remove(self, config: CallConfig | None) -> None:
        """Put settings out of force, all of them for ``None``."""
        self._configs = tuple(each for each in self._configs if config is not None and each is not config)
        self.active = any(each.enabled for each in self._configs)

    def propagates(self, host: str, port: int) -> bool:
        """Return whether requests to a host get the attribution."""
        return any(
            config.own_services is not None and config.own_services.include(host, port) for config in self._configs
        )

    def current(self) -> CallConfig | None:
        """Return the settings for a call made now, ``None`` if byline does not see the call.

        With several providers these are the settings of the provider that made the current span.
        """
        found = None
        if len(self._configs) > 1:
            span = trace.get_current_span()
            found = next((config for config in self._configs if config.owns_span(span)), None)
        if found is None:
            return next((config for config in self._configs if config.enabled), None)
        return found if found.enabled else None


#: One HTTP client may serve the spans of several providers.
configs: Final = CallConfigs()
