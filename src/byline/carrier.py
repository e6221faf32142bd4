"""The attribution in transit: one header, signed if a key is set.

The value is ``1.<form>`` or, with ``BYLINE_SIGNING_KEY``, ``1.<form>.<signature>``: the version, the fields as JSON in
base64url, and an HMAC-SHA-256 of both. The signed form also has the time, the audience and a random id, so that a
receiver can drop what is old, meant for others, or sent a second time, and the trace of the sender, so that nobody who
can write to a queue names another one in ``traceparent``. Instrumentations on the way change the id of the span, which
is not signed.

The header is not ``baggage``, although the value would be valid there: OpenTelemetry's propagators of the receiver
would send a member of the baggage on to every host.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from byline import errors, settings
from byline.attribution import Attribution, MetadataValue
from byline.fork import fork_safe_lock
from byline.internal_metrics import increment
from byline.settings import SettingError

#: Name of the header.
HEADER: Final = "x-byline"
_VERSION: Final = "1"
MAX_VALUE: Final = 4096
#: Seconds by which the clock of a sender may be ahead.
_CLOCK_SKEW: Final = 60.0
_MAX_REMEMBERED: Final = 65536
_PURPOSE: Final = b"byline carrier\n"


class _Form(msgspec.Struct, omit_defaults=True):
    """The fields under short names, because each hop sends them."""

    s: str | None = None
    u: str | None = None
    t: str | None = None
    n: str | None = None
    sn: str | None = None
    gn: str | None = None
    p: str | None = None
    e: str | None = None
    r: str | None = None
    v: str | None = None
    tg: tuple[str, ...] = ()
    m: dict[str, MetadataValue] = {}
    o: str | None = None
    oe: str | None = None
    at: int | None = None
    to: str | None = None
    id: str | None = None
    c: tuple[str, ...] = ()
    pb: bool = False
    # Receivers that do not know a member ignore it.
    w: str = ""


_NAMES: Final = dict(zip(Attribution.__struct_fields__, _Form.__struct_fields__, strict=False))
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Form).decode


class Carried(NamedTuple):
    """A value of the header as received.

    Attributes:
        fields: The attribution fields, not yet checked against byline's limits; ``None`` if the value was dropped.
        verified: Whether one of the receiver's own keys has signed the value.
        dropped: Why the value was dropped, e.g. ``forged``.
        claimed: Names of the fields that the sender's app has not stated, but its caller.
        public: Whether the sender read them at a public endpoint.
        trace: Trace id and flags of the sender's ``traceparent`` that the signature covers, e.g. ``<32 digits>-01``;
            empty if it covers none.
    """

    fields: Mapping[str, Any] | None
    verified: bool = False
    dropped: str = ""
    claimed: frozenset[str] = frozenset()
    public: bool = False
    trace: str = ""

    @property
    def stated(self) -> dict[str, Any]:
        """The fields that the sender's app has stated itself."""
        return {field: value for field, value in (self.fields or {}).items() if field not in self.claimed}


class Signing(NamedTuple):
    """The keys and the audience of this service, and the seconds for which it believes a signature."""

    keys: Sequence[bytes]
    audience: str
    http_max_age: float = 300.0
    queue_max_age: float = 7 * 86400.0

    @classmethod
    def from_settings(cls) -> Signing:
        """Return those of the environment, no keys if none are set. Raises `SettingError` ``byline.E001``."""
        keys = settings.find("signing_key").value
        names = ("audience", "http_max_age", "queue_max_age")
        return cls([key.encode() for key in keys], *(settings.find(name).value for name in names))


def find_signing(purpose: str = "") -> Signing | None:
    """Return the signing of the environment; ``None`` and one log message if its variables are wrong.

    Values that others can read have a purpose: signed for one purpose, they count for no other.
    """
    try:
        # The file may have the keys.
        settings.config_file.check()
        signing = Signing.from_settings()
        return signing._replace(audience=f"{signing.audience} {purpose}") if purpose else signing
    except SettingError as error:
        errors.error_once("signing", "%s Nothing is carried to other services and jobs until then", error)
        return None


def encode(
    attribution: Attribution,
    signing: Signing,
    vouched: Attribution | None = None,
    *,
    public: bool = False,
    traceparent: str = "",
) -> str | None:
    """Return the value of the header; ``None`` if there is nothing to carry, and if the ids alone are too long.

    With a key the trace of ``traceparent`` is carried too, also without an attribution.

    ``vouched`` is the part that the app has stated, see `RequestContext.vouched`, all of it by default; ``public`` says
    that the rest are claims at a public endpoint. If all fields are too long together, first the metadata is left out
    and then the tags, whole and never cut.
    """
    values: dict[str, Any] = {_NAMES[field]: value for field, value in attribution.items()}
    if not values and not (signing.keys and traceparent):
        return None
    if vouched is not None:
        claimed = [_NAMES[field] for field, value in attribution.items() if value != getattr(vouched, field)]
        values |= {"c": tuple(claimed), "pb": public} if claimed else {}
    if signing.keys:
        values |= {"at": int(time.time()), "to": signing.audience, "id": _to_base64(os.urandom(9))}
        if traceparent:
            _, trace_id, _, flags = traceparent.split("-")
            values["w"] = f"{trace_id}-{flags}"
    for left_out in ("", "m", "tg"):
        if left_out:
            increment("carry.left_out")
            values.pop(left_out, None)
        text = f"{_VERSION}.{_to_base64(_encode(_Form(**values)))}"
        if signing.keys:
            text = f"{text}.{_sign(text, signing.keys[0])}"
        if len(text) <= MAX_VALUE:
            return text
    return None


def decode(value: str, signing: Signing, max_age: float) -> Carried:
    """Return what a value carries. Counts and explains a value that is dropped.

    Args:
        value: The value of the header.
        signing: The keys of the receiver. Without keys nothing is verified; with keys, an unsigned value is dropped.
        max_age: Seconds after which a signed value is too old.
    """
    if len(value) > MAX_VALUE:
        return drop("too long")
    if not value.isascii():
        # A message as text may even have characters that cannot be encoded.
        return drop("malformed")
    version, dot, rest = value.partition(".")
    if not dot or version != _VERSION:
        return drop("version" if dot and version.isdigit() else "malformed")
    encoded, dot, signature = rest.partition(".")
    if signing.keys:
        if not dot:
            return drop("unsigned")
        text = f"{version}.{encoded}"
        if not any(hmac.compare_digest(_sign(text, key).encode(), signature.encode()) for key in signing.keys):
            return drop("forged")
    try:
        form = _decode(_from_base64(encoded))
    except (msgspec.DecodeError, ValueError, RecursionError):
        return drop("malformed")
    if form.to is not None and form.to != signing.audience:
        return drop("audience")
    if signing.keys and not -_CLOCK_SKEW <= time.time() - (form.at or 0) <= max_age:
        return drop("expired")
    fields = {field: value for field, name in _NAMES.items() if (value := getattr(form, name))}
    claimed = frozenset(field for field in fields if _NAMES[field] in form.c)
    trace = form.w if signing.keys else ""
    return Carried(fields, verified=bool(signing.keys), claimed=claimed, public=form.pb, trace=trace)


def drop(why: str) -> Carried:
    """Return a value that is dropped, and count it."""
    increment(f"carry.dropped.{why.replace(' ', '_')}")
    return Carried(None, dropped=why)


class SeenValues:
    """The signed values that this process has received over HTTP lately, so that none is accepted twice."""

    def __init__(self) -> None:
        self._lock = fork_safe_lock()
        self._seen: dict[str, float] = {}

    def is_first(self, value: str, max_age: float) -> bool:
        """Return whether a value is received for the first time, and remember the value until it is too old."""
        # The signature covers the random id.
        identifier, now = value.rpartition(".")[2], time.monotonic()
        with self._lock:
            if identifier in self._seen:
                return False
            while self._seen:
                oldest = next(iter(self._seen))
                if len(self._seen) < _MAX_REMEMBERED and self._seen[oldest] > now:
                    break
                del self._seen[oldest]
            self._seen[identifier] = now + max_age + _CLOCK_SKEW
            return True


seen: Final = SeenValues()


def _sign(text: str, key: bytes) -> str:
    return _to_base64(hmac.digest(key, _PURPOSE + text.encode(), hashlib.sha256))


def _to_base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("not base64url") from error
