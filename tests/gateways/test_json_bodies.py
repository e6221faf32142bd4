"""The body of a call stays valid JSON without repeated names, for any body of the app."""

from __future__ import annotations

import json
from typing import Any

import pytest

from byline.attribution import Attribution
from byline.gateways import ALL, Anthropic, Gateway, GatewayRequest, OpenAI, json_splice

BODIES = [
    b"{}",
    b"{ }",
    b" \n{\t\n} ",
    b'{"model":"m","messages":[]}',
    b'{"trace":{},"model":"m"}',
    b'{"trace":{ }}',
    b'{"trace":{"a":1},"metadata":{"x":{"trace":{"a":1}}},"messages":[{"trace":{"a":1}}]}',
    b'{"user":"app"}',
    b'{"us\\u0065r":"app","model":"m"}',
    b'{"trace":null}',
    b'{"trace":[1]}',
    b'{"providerOptions":{"gateway":{"user":"app"}}}',
    b'{"providerOptions":{}}',
    b'{"tensorzero::tags":{"user_id":"app"}}',
    b'{"metadata":{"user_id":"app"}}',
    b'{"metadata":{}}',
    b'{"x":"\\"trace\\": {}","trace": {}}',
    b'{"x":"{","model":"m"}',
    b'{"tr\\u0061ce":{"a":1}}',
]
KNOWN = Attribution(
    session_id="sitzung-日", user_id='"},"user":"root', trace_name="T", tags=("a", "b"), metadata={"k": "v", '"': "\\"}
)


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    assert len(members) == len(pairs), pairs
    return members


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_a_gateway_leaves_valid_json(kind: type[Gateway], body: bytes, path: str) -> None:
    if kind is OpenAI:
        gateway: Gateway = OpenAI(safety_identifier=True)
    else:
        gateway = Anthropic(user_id=True) if kind is Anthropic else kind("http://gateway.example")
    request = GatewayRequest(
        attribution=KNOWN, headers={}, body=body, path=path, trace_id="1" * 32, span_id="2" * 16, sampled=True
    )
    gateway.inject(request)
    before = json.loads(body, object_pairs_hook=unique_members)
    after = json.loads(request.body or b"", object_pairs_hook=unique_members)
    for name, value in before.items():
        if isinstance(value, dict):
            assert value.items() <= after[name].items()
        else:
            assert after[name] == value


@pytest.mark.parametrize(("megabytes", "most"), [(0, 64), (1, 5), (8, 2)])
def test_decoys_in_a_long_body_are_tried_a_few_times_only(
    megabytes: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try decodes the body, which takes 10 ms at 8 MB."""
    decoded = []
    decode = json_splice.top_level_members

    def count(body: bytes) -> Any:
        decoded.append(len(body))
        return decode(body)

    monkeypatch.setattr(json_splice, "top_level_members", count)
    decoys = b",".join([b'{"trace":{"a":1}}'] * 100)
    text = b"a" * (megabytes * 1_000_000)
    body = b'{"model":"m","text":"%s","x":[%s],"trace":{"a":1}}' % (text, decoys)
    extended = json_splice.insert_into_member(body, "trace", {"b": 2}, decode(body))
    assert sum(size > len(body) for size in decoded) <= most
    assert json.loads(extended)
