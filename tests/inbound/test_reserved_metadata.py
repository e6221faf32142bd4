"""Callers cannot use metadata keys to which a destination or a gateway gives a meaning; the app can."""

from __future__ import annotations

import json

import pytest

import byline
from byline.attribution import Attribution, MetadataValue
from byline.gateways import Bifrost, Gateway, GatewayRequest, Helicone, OpenRouter, TensorZero
from tests.support import Door, Sent, accepted, both_doors, claim

KEYS = [
    "prompt_name",
    "prompt_version",
    "Prompt-Name",
    "vouched",
    "organization_id",
    "environment_id",
    "ORGANIZATION_ID",
    "organization-id",
    "caller_address",
    "caller_key_alias",
    "Caller-Address",
    "tensorzero::dryrun",
    "TensorZero::x",
    " caller_address",
]
#: name: the request that carries a metadata key
CARRIERS = {
    "metadata": lambda key: claim({"metadata": {key: "x", "k": "v"}}),
    "trace": lambda key: claim({"trace": {key: "x", "k": "v"}}),
    "LiteLLM's metadata": lambda key: claim({"litellm_metadata": {key: "x", "k": "v"}}),
    "trace_metadata": lambda key: claim({"metadata": {"trace_metadata": {key: "x", "k": "v"}}}),
    "TensorZero's tags": lambda key: claim({"tensorzero::tags": {key: "x", "k": "v"}}),
    "header": lambda key: claim(headers=[("langfuse_trace_metadata", json.dumps({key: "x", "k": "v"}))]),
    "encoded header": lambda key: claim(headers=[("langfuse-metadata", f"{key.replace(':', '%3A')}:x,k:v")]),
    "the app's own field": lambda key: claim({"extra": {key: "x", "k": "v"}}),
}


@both_doors
@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("key", KEYS)
def test_callers_cannot_use_a_reserved_key(door: Door, carrier: str, key: str) -> None:
    sent: Sent = CARRIERS[carrier](key)
    heard = accepted(door, sent, fields={"metadata": "body:extra"})
    assert heard.known() == {"metadata": {"k": "v"}}
    assert [entry.replace("metadata. ", "metadata.") for entry in heard.rejected] == [
        f"metadata.{key.strip()}: the name is reserved"
    ]


def test_the_app_can_use_a_reserved_key() -> None:
    metadata = {"prompt_name": "summary", "prompt_version": 4, "organization_id": "org"}
    with byline.bound(metadata=metadata):
        assert byline.current().metadata == metadata


@both_doors
def test_identity_can_use_a_reserved_key(door: Door) -> None:
    heard = accepted(door, claim(), identity=lambda _: {"metadata": {"prompt_name": "summary"}})
    assert heard.known() == {"metadata": {"prompt_name": "summary"}}


@pytest.mark.parametrize("spelling", ["user_id", "User_ID", "user-id", "USER-ID", " user_id"])
@pytest.mark.parametrize("kind", [Bifrost, OpenRouter, TensorZero])
def test_metadata_is_not_sent_under_the_name_of_an_id_in_any_spelling(kind: type[Gateway], spelling: str) -> None:
    """The id is not known, so that only metadata could be sent under the name."""
    attribution = Attribution(trace_name="t", metadata={spelling: "eve", "trace-Name": "eve", "k": "v"})
    request = GatewayRequest(attribution=attribution, headers={}, body=b"{}", path="/v1/chat/completions")
    kind("http://gateway.example").inject(request)
    if kind is not OpenRouter:
        assert "eve" not in str(request.headers).lower() + str(request.body)
    assert b"trace-Name" not in (request.body or b"")


def test_no_property_of_helicone_is_overridden() -> None:
    request = GatewayRequest(attribution=Attribution(metadata={"Tags": "eve", "ENVIRONMENT": "eve"}), headers={})
    Helicone().inject(request)
    assert request.headers == {}


def test_no_tag_of_tensorzeros_own_is_sent() -> None:
    metadata: dict[str, MetadataValue] = {"tensorzero::api_key_public_id": "x", "TENSORZERO::dryrun": True, "k": "v"}
    request = GatewayRequest(
        attribution=Attribution(metadata=metadata), headers={}, body=b"{}", path="/v1/chat/completions"
    )
    TensorZero("http://gateway.example").inject(request)
    assert json.loads(request.body or b"") == {"tensorzero::tags": {"k": "v"}}
