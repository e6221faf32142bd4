"""TLS, proxy and timeout of a destination's requests: its own settings, then those of the environment."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import ssl
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi

from byline.export.delivery import messages
from byline.urls import is_loopback, split_url

#: Seconds for one request, unless OpenTelemetry's variable says less.
_TIMEOUT: Final = 10.0


class Transport(NamedTuple):
    """TLS and proxy of one destination.

    Attributes:
        ca_file: File of the trusted certificate authorities, instead of the system's.
        client_cert: File of a client certificate.
        client_key: File of its key, ``None`` if the key is in the same file.
        proxy: URL of a proxy, ``""`` for none, ``None`` for that of the environment.
        more_authorities: File of authorities that are trusted besides the system's.
    """

    ca_file: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    proxy: str | None = None
    more_authorities: str | None = None

    def with_environment(self, *, is_named_there: bool) -> Transport:
        """Return the transport with the files that OpenTelemetry's variables name.

        Args:
            is_named_there: Whether the variables name the endpoint too. Other destinations get no client
                certificate, and keep the system's authorities beside those of the variable.
        """
        files: dict[str, str | None] = {}
        authorities, certificate = _otlp_setting("CERTIFICATE"), _otlp_setting("CLIENT_CERTIFICATE")
        if authorities is not None and self.ca_file is None:
            files["ca_file" if is_named_there else "more_authorities"] = authorities
        if certificate is not None and self.client_cert is None and is_named_there:
            files.update(client_cert=certificate, client_key=_otlp_setting("CLIENT_KEY"))
        return self._replace(**files)

    def tls_context(self) -> ssl.SSLContext:
        """Return the TLS context. Raises `CertificateFileError` for a file that cannot be read."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.ca_file is None:
                # On macOS Python may find no certificate authorities.
                context.load_verify_locations(certifi.where())
            if self.more_authorities is not None:
                context.load_verify_locations(self.more_authorities)
            if self.client_cert is not None:
                context.load_cert_chain(self.client_cert, self.client_key)
            context.set_alpn_protocols(["http/1.1"])
        except OSError as error:
            raise messages.CertificateFileError from error
        return context

    def proxy_for(self, url: SplitResult) -> SplitResult | None:
        """Return the proxy for a URL, ``None`` for a direct connection."""
        return find_proxy(url) if self.proxy is None else split_url(self.proxy)


DEFAULT_TRANSPORT: Final = Transport()


def read_timeout() -> float:
    """Return the seconds that one request may take, from OpenTelemetry's variables, at most ten."""
    try:
        seconds = float(_otlp_setting("TIMEOUT") or _TIMEOUT)
    except ValueError:
        return _TIMEOUT
    return min(seconds, _TIMEOUT) if seconds > 0 else _TIMEOUT


def find_proxy(url: SplitResult) -> SplitResult | None:
    """Return the proxy that the environment names for a URL, ``None`` for a direct connection.

    Spans for this machine never go to a proxy, which would see them in clear text. Raises `ProxyError` for a variable
    that has no URL.
    """
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    host = url.hostname or ""
    if (
        not proxy
        or is_loopback(host)
        or proxy_bypass(f"{host}:{url.port}" if url.port else host)
        or _is_in_no_proxy_network(host, proxies)
    ):
        return None
    try:
        return urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    except ValueError as error:
        # For the reason that names the variables.
        raise messages.ProxyError from error


def _is_in_no_proxy_network(host: str, proxies: Mapping[str, str]) -> bool:
    """Return whether an IP address is in a network of NO_PROXY, e.g. 10.0.0.0/8, which Python does not support."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        for entry in proxies.get("no", "").split(","):
            with contextlib.suppress(ValueError):
                if "/" in entry and address in ipaddress.ip_network(entry.strip(), strict=False):
                    return True
    return False


def _otlp_setting(name: str) -> str | None:
    prefix = "OTEL_EXPORTER_OTLP_"
    return os.environ.get(f"{prefix}TRACES_{name}") or os.environ.get(f"{prefix}{name}") or None
