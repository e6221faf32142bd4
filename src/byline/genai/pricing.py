"""Estimates the cost of a call from the tokens, with the library ``genai-prices``."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import threading
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, NamedTuple

from byline import errors
from byline.call_result import CallResult
from byline.fork import after_fork_in_child, before_fork, fork_safe_lock
from byline.genai.price_library import import_price_library

#: Names of token counts, which `CallResult` and the library share.
_TOKEN_COUNTS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "input_image_tokens",
    "output_image_tokens",
)
#: The usage of calls whose response states no tokens.
_OTHER_COUNTS: Final = ("audio_seconds", "input_characters")
#: The counts of usual calls, whose price is a sum of rates.
_PLAIN_COUNTS: Final = frozenset({"input_tokens", "output_tokens", "cache_read_tokens"})
#: Prices with tiers or a price of each request show with one of these.
_PROBES: Final[tuple[dict[str, int], ...]] = (
    {"input_tokens": 3, "output_tokens": 5, "cache_read_tokens": 2},
    {"input_tokens": 7_000_003, "output_tokens": 5_000_001},
    {"input_tokens": 7_000_003, "output_tokens": 11, "cache_read_tokens": 6_000_001},
)
#: GenAI provider name → provider id of the library.
_PROVIDERS: Final = {
    "openai": "openai",
    "anthropic": "anthropic",
    "gcp.gemini": "google",
    "gcp.vertex_ai": "google",
    "azure.ai.openai": "azure",
    "aws.bedrock": "aws",
    "mistral_ai": "mistral",
    "groq": "groq",
    "deepseek": "deepseek",
    "x_ai": "x-ai",
    "cohere": "cohere",
    "perplexity": "perplexity",
    "moonshot_ai": "moonshotai",
    "together": "together",
    "fireworks": "fireworks",
    "cerebras": "cerebras",
}
#: Provider as gateways name it → provider id of the library. Source: the providers of Portkey's gateway 1.15.
_GATEWAY_PROVIDERS: Final = {
    **{name: name for name in ("anthropic", "openai", "google", "groq", "deepseek", "x-ai", "cohere")},
    "vertex-ai": "google",
    "azure-openai": "azure",
    "bedrock": "aws",
    "mistral-ai": "mistral",
    "perplexity-ai": "perplexity",
    "together-ai": "together",
    "fireworks-ai": "fireworks",
}
#: For hosts of no known provider: OpenAI's models have the same price behind a gateway, but a model that somebody
#: serves at a host of their own has no price at all.
_DEFAULT_PROVIDER: Final = "openai"
#: Seconds for which a fork waits for the thread that loads the list: a lock of an import that the child inherits
#: would never be released.
_FORK_TIMEOUT: Final = 5.0


class PriceList:
    """The library ``genai-prices`` with its list, which takes 0.1 s to load.

    A thread loads the list with the first LLM request, while the request is under way. The app's threads do not wait
    for the list: an estimate that needs the list before it is there is made later, and destinations wait for it.

    Attributes:
        is_loaded: Whether estimates can be made at once.
        library: The library, ``None`` if the extra ``byline[prices]`` is not installed.
    """

    def __init__(self) -> None:
        self.is_loaded = False
        self.library: Any = None
        self._snapshot: Any = None
        self._load_lock = fork_safe_lock()
        self._lock = fork_safe_lock()
        self._thread: threading.Thread | None = None
        self._waiting: deque[Callable[[], None]] = deque()
        before_fork(self._wait_for_thread)
        after_fork_in_child(self._forget_thread)

    def load(self) -> None:
        """Load the list now, unless that has been done."""
        with self._load_lock:
            if not self.is_loaded:
                self.library = import_price_library()
                if self.library is not None:
                    # The first search reads the list.
                    _find_price(self.library, "gpt-4o", _DEFAULT_PROVIDER)
                self.is_loaded = True

    def load_in_thread(self) -> None:
        """Let a thread load the list, unless that has been done."""
        if self.is_loaded or self._thread is not None:
            return
        self._thread = thread = threading.Thread(target=self._run, name="byline-prices", daemon=True)
        try:
            # Without the context of the request that happens to start the thread.
            contextvars.Context().run(thread.start)
        except RuntimeError:
            # The interpreter is about to exit.
            self._thread = None

    def when_loaded(self, estimate: Callable[[], None]) -> None:
        """Make an estimate once the list is there."""
        self._waiting.append(estimate)
        if self.is_loaded:
            self.complete()

    def complete(self) -> None:
        """Make the estimates that wait for the list. Waits for the list; for threads of destinations."""
        if not self._waiting:
            return
        self.load()
        with self._lock:
            while self._waiting:
                try:
                    self._waiting[0]()
                except Exception:
                    errors.report_internal_error("prices")
                finally:
                    # Only now, so that a destination does not overtake an estimate of another thread.
                    self._waiting.popleft()

    def forget_replaced(self) -> None:
        """Forget what is known of models if the app has replaced or updated the list of the library."""
        snapshot = None if self.library is None else self.library.data_snapshot.get_snapshot()
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            _has_price.cache_clear()
            _token_rates.cache_clear()

    def _run(self) -> None:
        try:
            self.load()
            self.complete()
        finally:
            self._thread = None

    def _wait_for_thread(self) -> None:
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            # RuntimeError: the thread has not begun to run.
            with contextlib.suppress(RuntimeError):
                thread.join(_FORK_TIMEOUT)

    def _forget_thread(self) -> None:
        """In a child process: the parent makes its estimates itself."""
        self._thread = None
        self._waiting.clear()


prices: Final = PriceList()


def needs_estimate(result: CallResult) -> bool:
    """Return whether a result has tokens and states no cost, or is a cached response without stated savings."""
    if result.error_type is not None and result.stream_cut is None:
        return False
    if result.input_tokens is None and not any(getattr(result, count) for count in _OTHER_COUNTS):
        return False
    return result.cost is None or bool(result.cache_hit and result.cache_savings is None)


def estimate_cost(result: CallResult) -> None:
    """Set cost, cost details and ``cost_source="estimate"`` if the response states no cost.

    A response from a gateway's cache costs nothing; the estimate becomes the cache's savings. Nothing is estimated
    for an unknown model, an error, or a call without tokens. A stream that was cut has the cost of the tokens
    that arrived, because providers charge for them.
    """
    if not needs_estimate(result):
        return
    if not prices.is_loaded:
        prices.load()
    counts = _TOKEN_COUNTS if result.input_tokens is not None else _OTHER_COUNTS
    price = _calculate_price(result, counts)
    if price is None:
        return
    total = float(price.total_price)
    if not total and counts is _OTHER_COUNTS:
        # The model has another price than by the second or the character.
        return
    if result.cache_hit:
        result.cost, result.cache_savings = 0.0, total
    else:
        result.cost = total
        if counts is _TOKEN_COUNTS:
            # Of other counts the library does not say to which part the price belongs.
            result.cost_details = {"input": float(price.input_price), "output": float(price.output_price)}
    if result.cost_source is None:
        result.cost_source = "estimate"


def _calculate_price(result: CallResult, counts: tuple[str, ...]) -> Any:
    prices.forget_replaced()
    library = prices.library
    provider = _PROVIDERS.get(result.provider, _DEFAULT_PROVIDER) if result.provider else None
    if result.gateway_provider in _GATEWAY_PROVIDERS:
        # The host is the gateway's, which speaks OpenAI's API for all providers.
        provider = _GATEWAY_PROVIDERS[result.gateway_provider]
    for model in (result.response_model, result.request_model):
        if library is None or model is None:
            continue
        # Gateways write "provider/model".
        is_prefixed, name = "/" in model, model.rpartition("/")[2]
        provider_id = None if is_prefixed else provider
        if not _has_price(name, provider_id):
            continue
        usage = {count: getattr(result, count) for count in counts if getattr(result, count)}
        rates = _token_rates(name, provider_id)
        if rates is not None and usage.keys() <= _PLAIN_COUNTS:
            price = rates.price(**usage)
            if price is not None:
                return price
        # Inconsistent counts, e.g. more cached tokens than input tokens, raise.
        with contextlib.suppress(Exception):
            return library.calc_price(library.Usage(**usage), name, provider_id=provider_id)
    return None


class _Price(NamedTuple):
    input_price: Decimal
    output_price: Decimal

    @property
    def total_price(self) -> Decimal:
        return self.input_price + self.output_price


class _TokenRates(NamedTuple):
    """The prices of one token in USD, the same for any number of tokens at any time."""

    input: Decimal
    cached: Decimal
    output: Decimal

    def price(self, input_tokens: int = 0, output_tokens: int = 0, cache_read_tokens: int = 0) -> _Price | None:
        if not 0 <= cache_read_tokens <= input_tokens or output_tokens < 0:
            return None
        input_price = self.input * (input_tokens - cache_read_tokens) + self.cached * cache_read_tokens
        return _Price(input_price, self.output * output_tokens)


@functools.lru_cache(maxsize=1000)
def _token_rates(model: str, provider_id: str | None) -> _TokenRates | None:
    """Return the prices of a model, ``None`` if they depend on the number of tokens or on the time.

    The library checks a whole price table for each call, which takes twenty times as long.
    """

    def calculate(**usage: int) -> Any:
        return prices.library.calc_price(prices.library.Usage(**usage), model, provider_id=provider_id)

    with contextlib.suppress(Exception):
        one_input, one_output = calculate(input_tokens=1), calculate(output_tokens=1)
        one_cached = calculate(input_tokens=1, cache_read_tokens=1)
        rates = _TokenRates(one_input.input_price, one_cached.input_price, one_output.output_price)
        if isinstance(one_input.model.prices, list):
            # Each with the dates or the hours of its validity.
            return None
        for usage in _PROBES:
            expected, price = calculate(**usage), rates.price(**usage)
            if price is None or (*price, price.total_price) != (
                expected.input_price,
                expected.output_price,
                expected.total_price,
            ):
                return None
        return rates
    return None


@functools.lru_cache(maxsize=1000)
def _has_price(model: str, provider_id: str | None) -> bool:
    """Return whether the library knows a model. Cached, because a search without a match takes longest."""
    return _find_price(prices.library, model, provider_id) is not None


def _find_price(library: Any, model: str, provider_id: str | None) -> Any:
    with contextlib.suppress(Exception):
        return library.calc_price(library.Usage(input_tokens=1), model, provider_id=provider_id)
    return None
