"""The one parser that decides which host a URL leads to, for checks and for the requests themselves."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

from byline.secrets import scrub

#: The part of a URL with an IPv6 address and perhaps a port.
_IPV6: Final = re.compile(r"\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\](?::\d*)?\Z", re.ASCII)
#: Characters that no URL has.
AMBIGUOUS: Final = re.compile(r"[\\\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")


def split_url(url: object) -> SplitResult | None:
    r"""Return the parts of an http(s) URL, ``None`` if its host may be read in more than one way.

    Parsers differ over backslashes, control characters and spaces: for ``http://evil.example\@localhost`` one
    connects to evil.example, another to localhost. No URL has these characters, or a name beside an IPv6 address in
    brackets.

    Example:
        >>> split_url("https://api.example:8443/v1").port
        8443
        >>> split_url("http://evil.example\\@localhost") is None
        True
    """
    if not isinstance(url, str) or AMBIGUOUS.search(url) is not None:
        return None
    try:
        parts = urlsplit(url)
        # Both raise for values that no URL has.
        host, _ = parts.hostname, parts.port
        if host and not host.isascii():
            # No name in DNS, e.g. with a label of more than 63 characters.
            host.encode("idna")
        authority = parts.netloc.rpartition("@")[2]
        if ("[" in authority or "]" in authority) and _IPV6.match(authority) is None:
            # urlsplit ignores what stands beside the brackets.
            return None
    except ValueError:
        return None
    # Some parsers decode a percent sign in a host; an IPv6 address may have one.
    if not host or parts.scheme not in ("http", "https") or ("%" in host and ":" not in host):
        return None
    return parts


def without_credentials(url: str) -> str:
    """Return a URL for messages: without user, password and anything that looks like a key.

    Example:
        >>> without_credentials("https://svc:hunter2pass@collector.example/v1/traces")
        'https://collector.example/v1/traces'
    """
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return scrub(f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}")


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine.

    Example:
        >>> is_loopback("localhost"), is_loopback("127.9.9.9"), is_loopback("::1"), is_loopback("localhost.example")
        (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
