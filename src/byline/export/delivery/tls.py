"""The certificates that OpenTelemetry's variables name for an OTLP endpoint."""

from __future__ import annotations

import os


def ca_file() -> str | bool:
    """Return the file of the authorities that are trusted, ``True`` for those that are by default."""
    return _file("CERTIFICATE") or True


def client_cert() -> str | tuple[str, str] | None:
    """Return the client's certificate, with its key where that is a file of its own."""
    certificate, key = _file("CLIENT_CERTIFICATE"), _file("CLIENT_KEY")
    return (certificate, key) if certificate and key else certificate


def _file(name: str) -> str | None:
    start = "OTEL_EXPORTER_OTLP_"
    return os.environ.get(f"{start}TRACES_{name}") or os.environ.get(f"{start}{name}") or None
