"""Reads the claims of a usual request in one pass: a few headers, and one typed decoding of a short JSON body.

Most requests send short texts under few names, whose limits are checked while the body is decoded. A request with
anything else is not read here: another name, another type, a value outside the limits, an unusual spelling. The
`ClaimReader` then reads that request from the start, and knows the reason for each claim that is dropped. A property
test compares the results of both ways.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, MutableMapping
from operator import itemgetter
from typing import Annotated, Any, Final, NamedTuple, TypedDict

import msgspec

from byline import carrier
from byline.attribution import MASKS, MAX_ID, MAX_METADATA, MAX_METADATA_KEY, is_visible
from byline.inbound.body import SMALL, BodyBuffer, is_json
from byline.inbound.claim_names import BODY_CLAIMS, HEADER_CLAIMS, LANGFUSE_KEYS, RESERVED_KEY, TRACE_KEYS
from byline.inbound.request import MAX_HEADERS, plain_positions

_Text = Annotated[str, msgspec.Meta(max_length=MAX_ID)]
_Key = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_METADATA_KEY)]

#: Members that are texts → attribution field.
_TEXTS: Final = {"session_id": "session_id", "user": "user_id", "end_user": "user_id"}
#: Members that are claims only if they are objects.
_OBJECTS: Final = {name for name, claims in BODY_CLAIMS.items() if all(len(path) > 1 for _, _, path in claims)}
_OBJECT_BEGINS: Final = ord("{")
_make_typed_dict: Any = TypedDict
_Members: Any = _make_typed_dict(
    "_Members",
    {
        **dict.fromkeys(BODY_CLAIMS, msgspec.Raw),
        **dict.fromkeys(_TEXTS, _Text | None),
        "trace": dict[_Key, _Text] | None,
    },
    total=False,
)
_decode: Final[Callable[[bytes], dict[str, Any]]] = msgspec.json.Decoder(_Members).decode
#: Digits of the longest Content-Length that is read here.
_MAX_LENGTH_DIGITS: Final = 5

#: Header → its rank, and the attribution field, which is empty for headers that are not read here.
_HEADERS: Final[dict[str, tuple[int, str]]] = {
    **{
        name: (rank, field.field if field.kind == "text" and not field.encoded and field.field != "environment" else "")
        for name, (rank, field) in HEADER_CLAIMS.items()
    },
    **dict.fromkeys((carrier.HEADER, "baggage", "content-encoding"), (-1, "")),
}
_name: Final = itemgetter(0)
_field_of: Final = _TEXTS.__getitem__
#: The space is the only blank that is printable.
_strip: Final = str.strip
_ASGI_HEADERS: Final = {name.encode(): header for name, header in _HEADERS.items()}
_WSGI_HEADERS: Final = {f"HTTP_{name.upper().replace('-', '_')}": header for name, header in _HEADERS.items()}


def read_in_one_pass(raw: MutableMapping[str, Any], body: BodyBuffer | None) -> dict[str, Any] | None:
    """Return the attribution fields that a request claims, ``None`` if the request is not usual.

    For middlewares that accept every claim and have neither ``identity`` nor ``fields``.

    Args:
        raw: The ASGI scope or the WSGI environ.
        body: The body, ``None`` if there is none or if the app has not read it yet.
    """
    claims = _read_environ(raw) if "REQUEST_METHOD" in raw else _read_scope(raw, body)
    if claims is None or body is None:
        return claims
    members = body.decode_in_one_pass(_read_body)
    if members is None or not claims:
        return members
    return members | claims


def _read_scope(scope: MutableMapping[str, Any], body: BodyBuffer | None) -> dict[str, Any] | None:
    headers = scope.get("headers")
    if scope["type"] != "http" or type(headers) is not list or len(headers) > MAX_HEADERS:
        return None
    layout = _layout(tuple(map(_name, headers)))
    if layout is None:
        return None
    if body is not None:
        position, length = layout.content_type, layout.content_length
        if position < 0 or not _is_json(headers[position][1]):
            return None
        # A body of more than 64 KiB has been compared with its Content-Length already.
        if length >= 0 and len(headers[length][1]) > _MAX_LENGTH_DIGITS and body.size <= SMALL:
            return None
    claims: dict[str, Any] = {}
    try:
        for field, position in layout.claims:
            text = headers[position][1].decode().strip(" ")
            if len(text) > MAX_ID or "," in text or not ((text.isascii() and text.isprintable()) or is_visible(text)):
                return None
            if text and field not in claims:
                claims[field] = text
    except UnicodeDecodeError:
        return None
    return claims


def _read_environ(environ: MutableMapping[str, Any]) -> dict[str, Any] | None:
    claims: dict[str, Any] = {}
    for name in sorted(_WSGI_HEADERS.keys() & environ.keys(), key=_WSGI_HEADERS.__getitem__):
        field = _WSGI_HEADERS[name][1]
        try:
            # PEP 3333: each character is one byte of the header.
            text = environ[name].encode("latin-1").decode().strip(" ")
        except UnicodeError:
            return None
        if not field or len(text) > MAX_ID or "," in text or not is_visible(text):
            return None
        if text and field not in claims:
            claims[field] = text
    return claims


class _Layout(NamedTuple):
    """Where the headers of a request are.

    Attributes:
        claims: Attribution field and position of each header with a claim, in order of precedence.
        content_type: The position of the Content-Type, -1 if there is none.
        content_length: The same of the Content-Length.
    """

    claims: list[tuple[str, int]]
    content_type: int
    content_length: int


# Clients send the same headers in the same order with every request.
@functools.lru_cache(maxsize=64)
def _layout(names: tuple[bytes, ...]) -> _Layout | None:
    """Return where the headers of these names are, ``None`` if one of them is not usual."""
    positions = plain_positions(names)
    if positions is None:
        return None
    present = sorted(_ASGI_HEADERS.keys() & positions.keys(), key=_ASGI_HEADERS.__getitem__)
    if not all(_ASGI_HEADERS[name][1] for name in present):
        return None
    return _Layout(
        [(_ASGI_HEADERS[name][1], positions[name]) for name in present],
        positions.get(b"content-type", -1),
        positions.get(b"content-length", -1),
    )


@functools.lru_cache(maxsize=64)
def _is_json(content_type: bytes) -> bool:
    return is_json(content_type.decode("latin-1"))


def _read_body(data: bytes) -> dict[str, Any] | None:
    """Return the claims in a JSON body, ``None`` if one of them is not usual."""
    members = _decode(data)
    trace = members.pop("trace", None)
    if not members.keys() <= _TEXTS.keys() and not _drop_non_objects(members):
        return None
    texts = list(members.values())
    if None in texts:
        members = {name: text for name, text in members.items() if text is not None}
        texts = list(members.values())
    if "end_user" in members:
        # Another name of the user.
        end_user = members.pop("end_user")
        if not members.get("user", "").strip():
            members["user"] = end_user
    # Loops in Python would take longer than the decoding.
    claims: dict[str, Any] = dict(zip(map(_field_of, members), map(_strip, members.values()), strict=True))
    if not all(claims.values()):
        claims = {field: text for field, text in claims.items() if text}
    if trace:
        layout = _trace_layout(tuple(trace)) if len(trace) <= MAX_METADATA else None
        if layout is None:
            return None
        texts += trace.values()
        for key, field in layout:
            if text := trace.pop(key).strip():
                claims[field] = text
        if trace:
            claims["metadata"] = trace
    joined = "".join(texts)
    return claims if (joined.isascii() and joined.isprintable()) or is_visible(joined) else None


def _drop_non_objects(members: dict[str, Any]) -> bool:
    """Remove members that are no claims because they are no objects. Returns ``False`` if others are left."""
    for name in members.keys() - _TEXTS.keys():
        if name not in _OBJECTS or memoryview(members.pop(name))[0] == _OBJECT_BEGINS:
            return False
    return True


# Clients send the same keys with every request.
@functools.lru_cache(maxsize=64)
def _trace_layout(keys: tuple[str, ...]) -> list[tuple[str, str]] | None:
    """Return the keys of a ``trace`` object that are attribution fields, ``None`` if one of the keys is not usual.

    All others are keys of the metadata.
    """
    fields = [(key, field) for key in keys if (field := TRACE_KEYS.get(key)) is not None]
    if any(field in ("tags", "environment") for _, field in fields):
        return None
    return fields if all(key in TRACE_KEYS or _is_plain_key(key) for key in keys) else None


def _is_plain_key(key: str) -> bool:
    """Return whether a metadata key has no meaning of its own."""
    return is_visible(key) and key not in LANGFUSE_KEYS and key not in MASKS and RESERVED_KEY.match(key) is None
