"""JSON bodies that are built to cost much: only a bounded part is decoded, and the ids next to it are still read."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from byline.attribution import Attribution
from byline.inbound.body import BodyBuffer
from byline.inbound.reader import ClaimReader
from byline.inbound.request import AsgiRequest

LISTS = b"[" + b"[]," * 1_000_000 + b"[]]"
KEYS = json.dumps({f"key{number}": number for number in range(200_000)}).encode()[1:-1]
VALUES = b",".join(b'"v%d": [%s[]]' % (number, b"[]," * 2000) for number in range(500))
#: Twice the longest body. Decoding any of them whole takes 50 MiB and more.
MAX_BYTES = 16 * 1024 * 1024

#: name: body, fields setting, accepted attribution, dropped claims
BODIES: dict[str, tuple[bytes, dict[str, str], dict[str, Any], list[str]]] = {
    "empty lists in the trace": (
        b'{"user": "u", "trace": {"trace_id": "w", "z": %s}}' % LISTS,
        {},
        {"user_id": "u", "trace_id": "w"},
        ["metadata.z: too long"],
    ),
    "empty lists in the metadata": (
        b'{"metadata": {"session_id": "s", "k": 1, "z": %s}}' % LISTS,
        {},
        {"session_id": "s", "metadata": {"k": 1}},
        ["metadata.z: too long"],
    ),
    "empty lists for an id": (
        b'{"session_id": %s, "user": "u"}' % LISTS,
        {},
        {"user_id": "u"},
        ["session_id: too long"],
    ),
    "empty lists for the tags": (
        b'{"model": "m", "user": "u", "tags": %s}' % LISTS,
        {},
        {"user_id": "u"},
        ["tags: too long"],
    ),
    "empty lists for the metadata": (
        b'{"user": "u", "metadata": %s}' % LISTS,
        {},
        {"user_id": "u"},
        ["metadata: too long"],
    ),
    "empty lists for the trace": (b'{"user": "u", "trace": %s}' % LISTS, {}, {"user_id": "u"}, ["trace: too long"]),
    "empty lists for a control": (
        b'{"user": "u", "metadata": {"tags": %s, "session_id": "s"}}' % LISTS,
        {},
        {"user_id": "u", "session_id": "s"},
        ["tags: too long"],
    ),
    "200,000 keys of metadata": (
        b'{"metadata": {%s, "session_id": "s"}}' % KEYS,
        {},
        {"session_id": "s"},
        ["metadata: too many"],
    ),
    "200,000 keys of the trace": (
        b'{"trace": {%s, "trace_id": "w"}}' % KEYS,
        {},
        {"trace_id": "w"},
        ["metadata: too many"],
    ),
    "200,000 keys beside a nested id": (
        b'{"jsonrpc": "2.0", "params": {%s, "message": {"contextId": "c", "z": %s}}}' % (KEYS, LISTS),
        {},
        {"session_id": "c"},
        [],
    ),
    "the app's own field among 200,000 keys": (
        b'{"conversation": {%s, "id": "c"}}' % KEYS,
        {"session_id": "body:conversation.id"},
        {"session_id": "c"},
        [],
    ),
    "500 values of 6 KB": (
        b'{"metadata": {"session_id": "s", %s}}' % VALUES,
        {},
        {"session_id": "s"},
        [f"metadata.v{number}: too long" for number in range(50)],
    ),
    "NaN before empty lists": (
        b'{"temperature": NaN, "user": "u", "trace": {"z": %s}}' % LISTS,
        {},
        {},
        ["body: cannot be decoded"],
    ),
    "a byte order mark before empty lists": (
        b'\xef\xbb\xbf{"user": "u", "trace": {"z": %s}}' % LISTS,
        {},
        {"user_id": "u"},
        ["metadata.z: too long"],
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_bounded_part_of_a_body_is_decoded(name: str) -> None:
    data, fields, expected, rejected = BODIES[name]
    scope = {"type": "http", "headers": []}
    body = BodyBuffer(1 << 24, len(data))
    body.append(data, last=True)
    reader = ClaimReader(fields=fields)
    tracemalloc.start()
    try:
        attribution, reasons, *_ = reader.read(AsgiRequest(scope), scope, body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert attribution == Attribution(**expected)
    assert reasons == rejected
    assert peak < MAX_BYTES


def test_long_metadata_values_cost_no_other_value() -> None:
    """Long texts are ordinary: a document beside the ids."""
    data = json.dumps({"metadata": {"doc": "a: b, " * 15_000, "k": "v", "trace_name": "T"}}).encode()
    scope = {"type": "http", "headers": []}
    body = BodyBuffer(1 << 24, len(data))
    body.append(data, last=True)
    attribution, reasons, *_ = ClaimReader().read(AsgiRequest(scope), scope, body)
    assert attribution == Attribution(trace_name="T", metadata={"k": "v"})
    assert reasons == ["metadata.doc: too long"]
