"""Bytes that reach deep into the readers: JSON of the names that they know, streams of events, and noise."""

from __future__ import annotations

import gzip
import json
from typing import Any

from hypothesis import strategies as st

_NAMES = (
    "session_id", "user", "trace", "metadata", "trace_id", "tags", "model", "messages", "input", "choices", "message",
    "content", "delta", "usage", "prompt_tokens", "completion_tokens", "cost", "error", "type", "code", "id", "stop",
    "tools", "role", "text", "parts", "candidates", "usageMetadata", "output", "response", "mask_input", "caller_x",
    "conversation", "threadId", "runId", "providerOptions", "gateway", "tensorzero::tags", "a", "b",
)  # fmt: skip
_TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["ada", "gpt-4o", "1e999", "-1", "0x1", "2001:db8::1", "203.0.113.7", "\ud800", "\u202e", "\u3164", "a,b;c=d",
         "sk-proj-0a1b2c3d4e5f6g7h", "http://u:p@h\\@x/", "%00%ff", "{\"a\":1}", "[[[[", "data: [DONE]", "9" * 400]
    ),
)  # fmt: skip
_SCALARS: Any = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=True),
    _TEXTS,
    st.sampled_from([2**63, -(2**70), 1e308]),
)
_VALUES: Any = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(st.sampled_from(_NAMES), _TEXTS), inner, max_size=6)
    ),
    max_leaves=20,
)
_OBJECTS: Any = st.dictionaries(st.sampled_from(_NAMES), _VALUES, max_size=8)


def _encode(value: Any) -> bytes:
    return json.dumps(value).encode()


def _event(value: Any) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"


def _damage(data: bytes, start: int, noise: bytes) -> bytes:
    return data[: start % (len(data) + 1)] + noise + data[start % (len(data) + 1) :]


_JSON = st.one_of(_OBJECTS.map(_encode), _VALUES.map(_encode))
_STREAMS = st.lists(_OBJECTS.map(_event), max_size=5).map(b"".join)
_CLEAN = st.one_of(
    _JSON, _STREAMS, _TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=200)
)
INPUTS = st.one_of(
    _CLEAN,
    st.builds(_damage, _CLEAN, st.integers(0, 500), st.binary(max_size=6)),
    _CLEAN.map(lambda data: gzip.compress(data, 1)),
    st.integers(1, 3000).map(lambda depth: b'{"trace":' * depth + b"1" + b"}" * depth),
    st.integers(1, 3000).map(lambda depth: b"[" * depth),
)

#: Texts that the readers know, from which a coverage-guided engine starts.
SEEDS = (
    b'{"session_id":"s","user":"ada","trace":{"trace_id":"t","tags":["a"]},"metadata":{"k":"v","tags":["b"]}}',
    (
        b'{"id":"r","model":"m","choices":[{"index":0,"message":{"content":"a","tool_calls":[{"id":"1","function":'
        b'{"name":"f","arguments":"{}"}}]},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
    ),
    b'data: {"id":"r","choices":[{"delta":{}}]}\n\ndata: {"usage":{"prompt_tokens":1}}\n\ndata:[DONE]\n\n',
    (
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","usage":{"input_tokens":1}}}'
        b'\n\nevent: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"text":"a"}}\n\n'
    ),
    b'data: {"type":"response.completed","response":{"id":"r","output":[],"usage":{"input_tokens":1}}}\n\n',
    b'{"candidates":[{"content":{"parts":[{"text":"a"}],"role":"model"}}],"usageMetadata":{"promptTokenCount":1}}',
    b'{"output":{"message":{"role":"assistant","content":[{"text":"a"}]}},"usage":{"inputTokens":1},"stopReason":"x"}',
    b'{"model":"m","message":{"role":"assistant","content":"a"},"done":true,"prompt_eval_count":1}\n',
    b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"session.id=s,user.id=ada,langfuse_tags=a%2Cb;prop=1",
    b"1.eyJzIjoicy0xIiwidSI6ImFkYSIsImMiOlsicyJdfQ.c2lnbmF0dXJl",
    b'[tool.byline]\nprivacy = true\nsampling = 0.5\nfields = {session_id = ["body:a.b", "query:s"]}\n',
    b"http://user:pw@proxy.example:3128",
    b"https://[2001:db8::1%25eth0]:443/v1/traces?x=1#y",
    b'{"error":{"type":"rate_limit","message":"Bearer sk-proj-0a1b2c3d4e5f6g7h","code":429}}',
    gzip.compress(b"\x0a\x04\x12\x02\x12\x00", 1),
)
