"""Adding ids to the body of a call, beside a copy of the body and ten microseconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from byline.gateways.json_splice import insert_members, top_level_members
from tests.benchmarks.measure import Row, costs

#: The allowed cost above a copy of the body.
_ALLOWED: Final = 10.0
_IDS: Final[dict[str, Any]] = {
    "user": "user_12345",
    "trace": {
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "parent_span_id": "b7ad6b7169203331",
        "trace_name": "Document Processing Pipeline",
    },
}


def body_of(size: int) -> bytes:
    """Return a chat request of about so many bytes, encoded as the OpenAI SDK does it."""
    text = 'She said: "Der schnelle braune Fuchs – so flink, so übermütig."\n'
    messages = [{"role": "user", "content": text * max(1, size // 280)} for _ in range(4)]
    return json.dumps(
        {"model": "openai/gpt-4o", "messages": messages}, ensure_ascii=False, separators=(",", ":")
    ).encode()


def copying(body: bytes) -> Callable[[int], None]:
    def run(loops: int) -> None:
        for _ in range(loops):
            bytearray(body)

    return run


def splicing(body: bytes, *, known: bool) -> Callable[[int], None]:
    present = top_level_members(body) if known else None

    def run(loops: int) -> None:
        for _ in range(loops):
            insert_members(body, _IDS, present)

    return run


def rows() -> list[Row]:
    """Return the cost of a splice: with members that the call has decoded already, and without."""
    found: list[Row] = []
    for size, name, loops in ((1_000, "1 KB", 2000), (32_000, "32 KB", 1000), (1_000_000, "1 MB", 40)):
        body = body_of(size)
        variants = {
            "copy": copying(body),
            "known": splicing(body, known=True),
            "looked for": splicing(body, known=False),
        }
        taken = costs(variants, loops=loops)
        allowed = taken["copy"] + _ALLOWED
        found.append(Row(f"Splice into a body of {name}", "a copy of it plus 10 µs", allowed, taken["known"], 1.0))
        if size < 100_000:
            # Beyond some 40 KB looking for the members costs more: a call looks for them once anyway.
            label = f"Splice into {name}, members looked for"
            found.append(Row(label, "a copy of it plus 10 µs", allowed, taken["looked for"], 1.0))
    return found
