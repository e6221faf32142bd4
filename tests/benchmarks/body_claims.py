"""Reading the claims of a large body, beside the app's own decoding of it."""

from __future__ import annotations

import json
import tracemalloc
from typing import Final

from byline.inbound.body import BodyBuffer
from byline.inbound.reader import ClaimReader
from byline.inbound.request import AsgiRequest
from tests.benchmarks.measure import Row, costs

#: Prose as people paste it: line breaks, quotation marks and letters beyond ASCII.
_TEXT: Final = 'She said: "Der schnelle braune Fuchs – so flink, so übermütig."\n\t- and left.\n' * 28
LARGE: Final = json.dumps(
    {
        "model": "openai/gpt-4o",
        "messages": [{"role": "user", "content": _TEXT} for _ in range(420)],
        "session_id": "session_abc",
        "user": "user_12345",
        "trace": {"trace_id": "workflow_12345"},
    },
    # As the OpenAI SDK encodes its bodies.
    ensure_ascii=False,
).encode()
_CHUNKS: Final = [LARGE[start : start + 65536] for start in range(0, len(LARGE), 65536)]
_SCOPE: Final = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}


def read(reader: ClaimReader) -> None:
    body = BodyBuffer(1 << 24, len(LARGE))
    for chunk in _CHUNKS:
        body.append(chunk, last=chunk is _CHUNKS[-1])
    claimed, *_ = reader.read(AsgiRequest(dict(_SCOPE)), dict(_SCOPE), body)
    assert claimed.session_id == "session_abc"


def rows() -> list[Row]:
    """Return the time and the peak of memory that reading 1 MB takes."""
    reader = ClaimReader()

    def ours(loops: int) -> None:
        for _ in range(loops):
            read(reader)

    def theirs(loops: int) -> None:
        for _ in range(loops):
            json.loads(LARGE)

    taken = costs({"ours": ours, "theirs": theirs}, loops=20, rounds=11)
    tracemalloc.start()
    read(reader)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return [
        Row("claims at the end of a 1 MB body", "json.loads of it", taken["theirs"], taken["ours"], 0.25),
        Row("peak memory of that (bytes)", "size of the body", float(len(LARGE)), float(peak), 1.0),
    ]
