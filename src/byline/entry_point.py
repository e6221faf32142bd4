"""The entry point for ``opentelemetry-instrument`` and declarative configuration."""

from __future__ import annotations

import importlib
import os
from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined, unused-ignore]

from byline import auto_middleware, errors
from byline.instrument import Arguments, instrument_checked, runtimes, uninstrument
from byline.settings import SettingError


class BylineInstrumentor(BaseInstrumentor):  # type: ignore[misc, unused-ignore]
    """Calls `byline.instrument` and `byline.uninstrument`."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return none, because byline works with any set of packages."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        given = Arguments(**{name: value for name, value in kwargs.items() if name in Arguments._fields})
        earlier = runtimes.find(None)
        try:
            instrument_checked(given, strict=False)
            auto_middleware.install()
        except SettingError as error:
            # If this raised, OpenTelemetry would load no further instrumentation.
            errors.error_once("entry point", "%s", error)
            return
        runtime = runtimes.find(None)
        if runtime is not None and earlier is None:
            runtime.is_from_entry_point = True

    def _uninstrument(self, **_: Any) -> None:
        auto_middleware.uninstall()
        uninstrument()


def run_in_process() -> None:
    """Do for this process what ``opentelemetry-instrument`` does: OpenTelemetry's configuration file, then byline."""
    path = os.environ.get("OTEL_CONFIG_FILE")
    if path:
        try:
            configuration = importlib.import_module("opentelemetry.configuration")
            configuration.configure_sdk(configuration.load_config_file(path))
        except ImportError:
            # `find_tracer_provider` says so.
            pass
        except Exception as error:
            errors.error_once("config file", "byline.E116: OTEL_CONFIG_FILE cannot be used (%s)", error)
    # The file may name byline among its instrumentations.
    if not BylineInstrumentor().is_instrumented_by_opentelemetry:
        BylineInstrumentor().instrument()
