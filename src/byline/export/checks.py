"""Checks what destinations are told, before anything is made of it."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from byline import settings
from byline.export.delivery.spool import Spool
from byline.export.redaction.secrets import scrub
from byline.settings import SettingError

_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_VALUE: Final = re.compile(r"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?\Z")
_SHORT: Final = 80
_LABEL: Final = re.compile(r"[a-z0-9_-]{1,40}\Z")


def validate_endpoint(endpoint: Any, allow_http: Any) -> None:
    """Raise `SettingError` ``byline.E040`` or ``byline.E042`` where an endpoint cannot be used."""
    if isinstance(allow_http, str) or not isinstance(allow_http, Collection):
        raise SettingError("byline.E042", f"allow_http is {type(allow_http).__name__}", "pass a list of hosts")
    advice = "write it as https://host/path, without a query"
    if not isinstance(endpoint, str):
        raise SettingError("byline.E040", f"an endpoint is {type(endpoint).__name__}", advice)
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise SettingError("byline.E040", f"{_shown(endpoint)!r} is no http(s) URL that can be posted to", advice)
    if port == 0 or any(char.isspace() or not char.isprintable() for char in endpoint):
        raise SettingError("byline.E040", f"the endpoint at {host} has something in it that no URL has", advice)
    allowed = {*allow_http, *settings.find("allow_http").value}
    if parts.scheme == "http" and not _is_loopback(host) and host not in allowed:
        raise SettingError(
            "byline.E042",
            f"{host} would get spans unencrypted",
            f"use https://, set BYLINE_ALLOW_HTTP={host}, or pass allow_http=[{host!r}] to the destination",
        )


def _shown(endpoint: str) -> str:
    """Return so much of a URL that it is recognised: it may have credentials in it, or be one."""
    shown = scrub(re.split(r"[?#]", endpoint.rpartition("@")[2])[0])
    return shown if len(shown) <= _SHORT else f"{shown[:_SHORT]}…"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def validate_headers(headers: Any) -> dict[str, str]:
    """Return the headers of each export. Raises `SettingError` ``byline.E066`` where HTTP cannot carry them."""
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise SettingError("byline.E066", f"headers is {type(headers).__name__}", "pass a mapping of texts")
    for name, value in headers.items():
        fits = isinstance(name, str) and isinstance(value, str) and _HEADER.match(name) and _VALUE.match(value)
        if not fits:
            raise SettingError(
                "byline.E066",
                f"the header {name if isinstance(name, str) and _HEADER.match(name) else '?'} has something in it "
                "that HTTP cannot carry",
                "pass texts without line breaks, as a key has where it was read from a file",
            )
    return dict(headers)


def validate_label(label: Any) -> str | None:
    """Return a name for a destination. Raises `SettingError` ``byline.E055``."""
    if label is None or (isinstance(label, str) and _LABEL.match(label)):
        return label
    raise SettingError("byline.E055", f"label={label!r}", "pass up to 40 of a-z, 0-9, - and _")


def spool_folder(spool: Any, max_bytes: Any, *, label: str, identity: str) -> Path | None:
    """Return a destination's own folder in a spool. Raises `SettingError` ``byline.E049``.

    Args:
        spool: The folder of all destinations; empty for none.
        max_bytes: How much may wait.
        label: The destination's name.
        identity: What tells its account from others: batches of one must never be sent to another.
    """
    if not isinstance(max_bytes, int) or isinstance(max_bytes, bool) or max_bytes <= 0:
        raise SettingError("byline.E049", f"spool_bytes={max_bytes!r}", "pass a number of bytes")
    if not isinstance(spool, str | Path) or "\0" in str(spool):
        raise SettingError("byline.E049", f"spool is {type(spool).__name__}", "pass the path of a folder")
    if not spool:
        return None
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    try:
        # A process may go elsewhere, as daemons do.
        folder = Path(spool).expanduser().absolute() / f"{label}-{digest}"
    except RuntimeError:
        raise SettingError("byline.E049", f"spool {spool} has no such home", "choose another folder") from None
    Spool(folder, name=label)
    return folder
