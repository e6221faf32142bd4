"""Threads and executors that work for the request that starts them, with ``opentelemetry-instrumentation-threading``.

The instrumentation hands the current span to threads, timers and thread pools. byline's hooks hand them the context of
the request too, so that `byline.current` and `byline.bind` work there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import thread as pools
from importlib.util import find_spec
from typing import Any, Final

from byline import errors, request_context
from byline.patching import Patches

_patches: Final = Patches("byline.E135: the threads of %s do not get the context of the request (%s); use byline.carry")
#: The threads of a pool outlive the request that starts them; each of their jobs has a context of its own.
_POOL_WORKER: Final = getattr(pools, "_worker", None)


def install(threads: bool = True) -> None:
    """Switch the instrumentation on, if it is installed; with ``threads=False`` switch off what byline switched on."""
    uninstall()
    try:
        if not threads or find_spec("opentelemetry.instrumentation.threading") is None:
            return
        from opentelemetry.instrumentation.threading import ThreadingInstrumentor

        instrumentor = ThreadingInstrumentor()
        if not instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.instrument()
            _patches.on_unwrap(instrumentor.uninstrument)
    except Exception:
        errors.report_internal_error("threads")
        return
    _patches.patch_when_imported("threading", "threading", _patch_threads)
    _patches.patch_when_imported("concurrent.futures", "concurrent.futures.thread", _patch_pools)


def uninstall() -> None:
    """Remove byline's hooks, and the instrumentation if byline switched it on."""
    _patches.unwrap_all()


def _patch_threads(patches: Patches, module: Any) -> None:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def start(self: threading.Thread, *args: Any, **kwargs: Any) -> Any:
            context = request_context.attached()
            if context is not None and getattr(self, "_target", None) is not _POOL_WORKER:
                _run_in(self, context)
            return original(self, *args, **kwargs)

        return start

    # OpenTelemetry's instrumentation gives timers a method of their own.
    for owner in (module.Thread, module.Timer):
        if "start" in vars(owner):
            patches.wrap_method(owner, "start", wrap)


def _run_in(thread: threading.Thread, context: request_context.RequestContext) -> None:
    """Attach the context when the thread runs, whichever method ``run`` its class has."""
    run = thread.run

    def run_attached() -> None:
        # Otherwise the thread would refer to itself.
        vars(thread).pop("run", None)
        request_context.attach(context)
        run()

    thread.run = run_attached  # type: ignore[method-assign]


def _patch_pools(patches: Patches, module: Any) -> None:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def submit(self: Any, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            context = request_context.attached()
            if context is None:
                return original(self, function, *args, **kwargs)

            def run_attached(*args: Any, **kwargs: Any) -> Any:
                token = request_context.attach(context)
                try:
                    return function(*args, **kwargs)
                finally:
                    request_context.detach(token)

            return original(self, run_attached, *args, **kwargs)

        return submit

    patches.wrap_method(module.ThreadPoolExecutor, "submit", wrap)
