"""The attribution of a request: session, user, trace, step and labels, and the limits of their values."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import msgspec

MAX_ID: Final = 200
MAX_TAGS: Final = 50
MAX_METADATA: Final = 50
MAX_METADATA_KEY: Final = 64
MAX_METADATA_VALUE: Final = 500

# Bounds the time for a claim with a million invalid members.
_MAX_INSPECTED: Final = 1000

# Langfuse lowercases environments, and replaces all that do not match this with "default".
_ENVIRONMENT: Final = re.compile(r"(?!langfuse)[a-z0-9_-]{1,40}\Z")
_OTLP_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}\Z")
#: Characters without a shape that Python counts as printable: fillers, blanks and variation selectors.
_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_OTLP_SPAN_ID: Final = re.compile(r"[0-9a-f]{16}\Z")

MetadataValue = str | int | float | bool

#: Keys of the metadata with which a caller asks that inputs, or outputs, of its models are not exported.
MASKS: Final = ("mask_input", "mask_output")
_SWITCHED_OFF: Final = frozenset({"", "0", "false", "no", "none", "null", "off"})


class Attribution(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The accepted attribution of one request; every field is optional.

    Also a mapping of the fields that are set, so that ``byline.bound(**byline.current())`` repeats an attribution.

    Ids and names are printable strings of at most 200 characters, exactly as they were sent. A longer
    id is dropped and not truncated, because a truncated id would identify something else.

    Attributes:
        session_id: The conversation. byline neither generates it nor derives it from a trace id.
        user_id: The end user of the app, not the owner of the API key.
        trace_id: The caller's id of the trace, in any format.
        trace_name: The name of the trace, e.g. ``Document Processing Pipeline``.
        span_name: The name of the step that this request belongs to, e.g. ``Summarization Step``.
        generation_name: The name of the model call, e.g. ``Generate Summary``.
        parent_span_id: The caller's span that is the parent of this request.
        environment: Deployment environment: ``[a-z0-9_-]``, at most 40 characters.
        release: The release of the calling application.
        version: The version of the calling component.
        tags: At most 50 labels.
        metadata: At most 50 further keys of at most 64 characters; values are primitives, anything
            else is JSON text of at most 500 characters.
        organization_id: The tenant that the user belongs to.
        environment_id: The tenant's environment, for gateways that have environments.

    Example:
        >>> Attribution(session_id="s-1", user_id="ada").session_id
        's-1'
        >>> dict(Attribution(session_id="s-1", user_id="ada"))
        {'session_id': 's-1', 'user_id': 'ada'}
    """

    session_id: str | None = None
    user_id: str | None = None
    trace_id: str | None = None
    trace_name: str | None = None
    span_name: str | None = None
    generation_name: str | None = None
    parent_span_id: str | None = None
    environment: str | None = None
    release: str | None = None
    version: str | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, MetadataValue] = {}
    organization_id: str | None = None
    environment_id: str | None = None

    def __bool__(self) -> bool:
        """Return whether any field is set."""
        return self != EMPTY

    def __getitem__(self, field: str) -> Any:
        """Return the value of a field that is set. Raises `KeyError` for any other."""
        value = getattr(self, field, None) if field in FIELDS else None
        if not value:
            raise KeyError(field)
        return value

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the fields that are set."""
        return iter(self.keys())

    def __len__(self) -> int:
        """Return how many fields are set."""
        return len(self.keys())

    def __contains__(self, field: object) -> bool:
        """Return whether a field is set."""
        return field in self.keys()

    def keys(self) -> list[str]:
        """Return the names of the fields that are set."""
        return [field for field in self.__struct_fields__ if getattr(self, field)]

    def values(self) -> list[Any]:
        """Return the values of the fields that are set."""
        return [getattr(self, field) for field in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        """Return the names and values of the fields that are set."""
        return [(field, getattr(self, field)) for field in self.keys()]

    def get(self, field: str, default: Any = None) -> Any:
        """Return the value of a field, or the default if the field is not set."""
        return getattr(self, field) if field in self.keys() else default


Mapping.register(Attribution)
EMPTY: Final = Attribution()
SCALARS: Final = tuple(f for f in Attribution.__struct_fields__ if f not in ("tags", "metadata"))
FIELDS: Final = frozenset(Attribution.__struct_fields__)

_encode = msgspec.json.Encoder().encode


class Undecoded:
    """Stands for a JSON value that has not been decoded, with the reason."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"<{self.reason}>"


INVALID_JSON: Final = Undecoded("not JSON")
TOO_LONG: Final = Undecoded("too long")
TOO_MANY: Final = Undecoded("too many")
#: The key of `TOO_MANY` in an object of which only some keys have been decoded.
ALL_OTHER_KEYS: Final = "*"


class Rejected(Exception):  # noqa: N818 - a result, not an error
    """Raised if a value is dropped, with the reason and never the value."""


def clean_text(value: object) -> str | None:
    """Return a valid id or name, ``None`` if the value is empty. Raises `Rejected` with the reason.

    Integers and UUIDs are converted to text, because user ids often have these types.
    """
    if type(value) is str:
        text = value.strip(" ")
    elif isinstance(value, str):
        # Not str(): an enumeration would return its member's name.
        text = str.__str__(value).strip(" ")
    elif value is None:
        return None
    elif isinstance(value, int) and not isinstance(value, bool):
        # Python refuses to convert integers of more than 4,300 digits; 200 is the limit here.
        if value.bit_length() > 640:
            raise Rejected("too long")
        text = int.__repr__(value)
    elif isinstance(value, UUID):
        text = str(value)
    else:
        raise Rejected("too long" if value is TOO_LONG else "not text")
    if not text:
        return None
    if len(text) > MAX_ID:
        raise Rejected("too long")
    if not text.isprintable() and not is_printable(text):
        raise Rejected("not printable")
    return text


def is_visible(text: str) -> bool:
    """Return whether each character of a text can be seen, the ASCII space included."""
    return text.isprintable() and (text.isascii() or _INVISIBLE.search(text) is None)


def clean_id(value: object) -> str | None:
    r"""Return a valid id: as `clean_text`, but without characters that cannot be seen.

    Two ids that look alike would be two users, or one user who passes for another in the backend.

    Example:
        >>> clean_id("ada"), clean_id(7)
        ('ada', '7')
        >>> clean_id("a\u200dda")
        Traceback (most recent call last):
        byline.attribution.Rejected: not printable
    """
    text = clean_text(value)
    if text is not None and not text.isascii() and not is_visible(text):
        raise Rejected("not printable")
    return text


def clean_value(text: str) -> str:
    r"""Return a text of the metadata without control characters, bidirectional marks and other invisible characters.

    A line break or another kind of space becomes a space.

    Example:
        >>> clean_value("a\r\nX: y\x1b[31m\u202eevil\x00")
        'a X: y[31mevil'
    """
    if is_visible(text):
        return text
    kept = [_visible(char) for char in text.replace("\r\n", "\n")]
    return "".join(kept)


def _visible(char: str) -> str:
    if char.isspace():
        return " "
    return char if char.isprintable() and not _INVISIBLE.match(char) else ""


def is_printable(text: str) -> bool:
    """Return whether a text has no control characters, line breaks or other invisible characters.

    Unlike ``str.isprintable``, this allows the spaces of other scripts and the two joiners, which
    Persian, Hindi and many emoji need.
    """
    return text.isprintable() or all(
        char.isprintable() or char in "\u200c\u200d" or unicodedata.category(char) == "Zs" for char in text
    )


def clean_environment(value: object) -> str | None:
    """Return an environment in lower case that Langfuse accepts unchanged."""
    text = clean_text(value)
    if text is None:
        return None
    text = text.lower()
    if not _ENVIRONMENT.match(text):
        raise Rejected("not an environment name")
    return text


def clean_tags(value: object) -> tuple[tuple[str, ...], list[str]]:
    """Return the valid tags without repetitions, and the reasons for the dropped ones."""
    if value is None:
        return (), []
    if isinstance(value, str):
        value = value.split(",")
    elif not isinstance(value, list | tuple | set | frozenset):
        raise Rejected("too long" if value is TOO_LONG else "not a list")
    kept: dict[str, None] = {}
    reasons: list[str] = []
    for seen, item in enumerate(value):
        if seen >= _MAX_INSPECTED:
            reasons.append("too many")
            break
        try:
            tag = clean_text(item)
        except Rejected as rejected:
            reasons.append(str(rejected))
        else:
            if tag is None or tag in kept:
                continue
            if len(kept) >= MAX_TAGS:
                reasons.append("too many")
                break
            kept[tag] = None
    return tuple(kept), reasons


def clean_metadata_value(value: object) -> MetadataValue | None:
    """Return a metadata value: primitives unchanged, all else as JSON text."""
    if value is None:
        return None
    if isinstance(value, bool | float):
        return value
    if isinstance(value, Undecoded):
        raise Rejected(value.reason)
    if isinstance(value, int):
        # OTLP has 64-bit integers.
        if not -(2**63) <= value < 2**63:
            raise Rejected("number out of range")
        return value
    if isinstance(value, str):
        text = str.__str__(value)
    else:
        try:
            text = str(value) if isinstance(value, UUID) else _encode(value).decode()
        except (TypeError, ValueError, RecursionError, OverflowError):
            raise Rejected("not JSON") from None
    if len(text) > MAX_METADATA_VALUE:
        raise Rejected("too long")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Rejected("not printable") from None
    return clean_value(text)


def clean_metadata(value: object) -> tuple[dict[str, MetadataValue], list[tuple[str, str]]]:
    """Return the valid metadata, and ``(key, reason)`` of each dropped entry."""
    if value is None:
        return {}, []
    if not isinstance(value, Mapping):
        raise Rejected("not an object")
    kept: dict[str, MetadataValue] = {}
    reasons: list[tuple[str, str]] = []
    for seen, (key, item) in enumerate(value.items()):
        if len(kept) >= MAX_METADATA or seen >= _MAX_INSPECTED:
            reasons.append(("*", "too many"))
            break
        if not isinstance(key, str) or not 0 < len(key) <= MAX_METADATA_KEY or clean_value(key) != key:
            reasons.append(("*", "bad key"))
            continue
        try:
            cleaned = clean_metadata_value(item)
        except Rejected as rejected:
            reasons.append((key, str(rejected)))
        else:
            if cleaned is not None:
                kept[key] = cleaned
    return kept, reasons


def is_switched_on(value: object) -> bool:
    """Return whether a switch in the metadata is on, which is any value but a clear no.

    Example:
        >>> is_switched_on(True), is_switched_on("true"), is_switched_on("0"), is_switched_on(None)
        (True, True, False, False)
    """
    return str(value).strip().lower() not in _SWITCHED_OFF


def merge(layers: Collection[Mapping[str, Any] | Attribution]) -> Attribution:
    """Merge cleaned layers, the strongest first.

    The first value of an id, a name or a metadata key wins; tags are joined in order.
    """
    if len(layers) == 1:
        (only,) = layers
        if "tags" not in only and "metadata" not in only:
            return Attribution(**only) if only else EMPTY
    merged: dict[str, Any] = {}
    tags: dict[str, None] = {}
    metadata: dict[str, MetadataValue] = {}
    for layer in layers:
        for field, value in layer.items():
            if field == "tags":
                tags.update(dict.fromkeys(value))
            elif field == "metadata":
                for key, item in value.items():
                    if key in metadata or len(metadata) < MAX_METADATA:
                        metadata.setdefault(key, item)
            elif field not in merged:
                merged[field] = value
    if tags:
        merged["tags"] = tuple(tags)[:MAX_TAGS]
    if metadata:
        merged["metadata"] = metadata
    return Attribution(**merged) if merged else EMPTY


@lru_cache(maxsize=1024)
def to_trace_id(name: str) -> int:
    """Return the OTLP trace id for a caller's own trace id.

    32 hex digits, with or without the dashes of a UUID, are used as they are; any other id by its
    SHA-256. Langfuse's SDKs (``create_trace_id(seed=…)``) and LiteLLM have the same rule, so that
    their spans are in the same trace.

    Example:
        >>> f"{to_trace_id('workflow_12345'):032x}"
        '7af15d27557f4b0547b66811c67d365d'
        >>> f"{to_trace_id('7AF15D27-557F-4B05-47B6-6811C67D365D'):032x}"
        '7af15d27557f4b0547b66811c67d365d'
    """
    return _to_otlp_id(name, name.lower().replace("-", ""), _OTLP_TRACE_ID, 16)


def to_span_id(name: str) -> int:
    """Return the OTLP span id for a caller's own span id: 16 hex digits as they are, any other by its SHA-256.

    Example:
        >>> f"{to_span_id('00F067AA0BA902B7'):016x}"
        '00f067aa0ba902b7'
    """
    return _to_otlp_id(name, name.lower(), _OTLP_SPAN_ID, 8)


def _to_otlp_id(name: str, digits: str, form: re.Pattern[str], size: int) -> int:
    if form.match(digits) and int(digits, 16):
        return int(digits, 16)
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:size], "big") or 1
