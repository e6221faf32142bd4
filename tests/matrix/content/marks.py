"""Marks that the test searches in everything that leaves: texts, a vector, an image and two credentials."""

from __future__ import annotations

import base64
import struct
from typing import Any, Final

#: Letters and digits alone: escaping, quoting and changes of case leave it findable.
MARKER: Final = "c0ntent"
#: A picture of which every part looks like no other.
PICTURE: Final = b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", number * 2654435761 % 2**32) for number in range(400)
)
IMAGE: Final = base64.b64encode(PICTURE).decode()
#: An embedding tells about the text that it was made from.
VECTOR: Final = [0.123454321 + number for number in range(16)]
#: One that is known by its look, and one that is known by its name alone.
KEY: Final = "sk-proj-Zq7fJ2kLm9XzP4aBcDeF0123"
SECRET: Final = "Zq7fJ2kLm9XzP4aB9876"
#: Custom metadata, which stays.
PLAN: Final = "gold-plan-7"


def mark(place: str) -> str:
    """Return a text of content that names its place."""
    return f"{MARKER}-{place} is what nobody else may read"


def _spellings(text: str) -> tuple[bytes, ...]:
    data = text.encode()
    # Base64 of it, wherever it begins within the whole.
    coded = [base64.b64encode(b"\0" * shift + data)[(0, 2, 3)[shift] :] for shift in range(3)]
    return (data, *(code.rstrip(b"=")[:-1] for code in coded))


_CONTENT: Final = (*_spellings(MARKER), struct.pack("<d", VECTOR[5]), str(VECTOR[5]).encode())
#: In no destination at all: of the picture some piece of its middle, as base64, as a repr and raw.
_NEVER: Final = (
    IMAGE[900:960].encode(),
    PICTURE[700:720],
    *(spelling for secret in (KEY[8:], SECRET) for spelling in _spellings(secret)),
)


def content_in(raw: bytes) -> list[str]:
    """Return which content is in bytes that left."""
    folded = raw.lower()
    return [repr(text) for text in _CONTENT if text in raw or text.lower() in folded]


def forbidden_in(raw: bytes) -> list[str]:
    """Return the marks that may never leave and are in these bytes."""
    return [repr(text) for text in _NEVER if text in raw]


def places_of(span: dict[str, Any]) -> list[str]:
    """Return the places of a received span that contain content: names of attributes, and other members."""
    found = [name for name, value in span["attributes"].items() if content_in(f"{name} {value}".encode())]
    found += [f"resource {name}" for name, value in span["resource"].items() if content_in(str(value).encode())]
    found += [word for word in ("name", "status_message", "scope") if content_in(str(span[word]).encode())]
    for event in span["events"]:
        found += [
            f"event {event['name']} {name}"
            for name, value in event["attributes"].items()
            if content_in(f"{name} {value}".encode())
        ]
    return found
