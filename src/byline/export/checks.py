"""Checks what destinations are told, before anything is made of it."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from byline.export.spool import Spool
from byline.settings import SettingError

_LABEL: Final = re.compile(r"[a-z0-9_-]{1,40}\Z")


def check_endpoint(endpoint: str, allow_http: Sequence[str]) -> None:
    """Raise `SettingError` ``byline.E040`` or ``byline.E042`` where an endpoint cannot be used."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingError("byline.E040", f"{endpoint!r} is no http(s) URL", "write it as https://host/path")
    if parts.scheme == "http" and not _is_loopback(parts.hostname) and parts.hostname not in allow_http:
        raise SettingError(
            "byline.E042",
            f"{parts.hostname} would get spans unencrypted",
            f"use https://, or pass allow_http=[{parts.hostname!r}]",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_label(label: Any) -> str | None:
    """Return a name for a destination. Raises `SettingError` ``byline.E055``."""
    if label is None or (isinstance(label, str) and _LABEL.match(label)):
        return label
    raise SettingError("byline.E055", f"label={label!r}", "pass up to 40 of a-z, 0-9, - and _")


def spool_folder(spool: str | Path, max_bytes: Any, *, label: str, identity: str) -> Path | None:
    """Return a destination's own folder in a spool. Raises `SettingError` ``byline.E049``.

    Args:
        spool: The folder of all destinations; empty for none.
        max_bytes: How much may wait.
        label: The destination's name.
        identity: What tells its account from others: batches of one must never be sent to another.
    """
    if not isinstance(max_bytes, int) or isinstance(max_bytes, bool) or max_bytes <= 0:
        raise SettingError("byline.E049", f"spool_bytes={max_bytes!r}", "pass a number of bytes")
    if not spool:
        return None
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    folder = Path(spool).expanduser() / f"{label}-{digest}"
    Spool(folder, name=label)
    return folder
