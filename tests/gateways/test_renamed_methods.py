"""Gateways of users that define or call the earlier method names keep working, with a warning at definition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from byline.attribution import Attribution
from byline.call_result import CallResult
from byline.gateways import Gateway, GatewayRequest, GatewayResponse, LiteLLM
from byline.gateways.base import _RENAMED


def make_request() -> GatewayRequest:
    attribution = Attribution(session_id="s-1", user_id="ada", metadata={"k": "v"})
    return GatewayRequest(attribution=attribution, headers={}, body=b"{}")


def test_earlier_hooks_are_called_under_their_new_names() -> None:
    with pytest.warns(DeprecationWarning, match="House") as warned:

        class House(Gateway):
            name = "house"

            def write(self, call: GatewayRequest) -> None:
                self.put(call, "x-house-session", call.attribution.session_id)
                call.add({"user": call.attribution.user_id})
                call.add_into("meta", self.gather(call, {}))

            def read(self, reply: GatewayResponse, facts: CallResult) -> None:
                facts.request_id = reply.headers["x-house-id"]

            def answered(self, headers: Mapping[str, str]) -> bool:
                return "x-house-id" in headers

    assert [str(warning.message) for warning in warned] == [
        "House.write is deprecated: rename it to inject",
        "House.read is deprecated: rename it to extract",
        "House.answered is deprecated: rename it to matches_response",
    ]
    assert {warning.filename for warning in warned} == {__file__}
    request, result = make_request(), CallResult()
    House().inject(request)
    House().extract(GatewayResponse(status=200, headers={"x-house-id": "r-1"}), result)
    assert request.headers == {"x-house-session": "s-1"}
    assert request.body == b'{"meta":{"k":"v"},"user":"ada"}'
    assert result.request_id == "r-1"
    assert House().matches_response({"x-house-id": "r-1"})


def test_an_earlier_hook_can_call_the_one_that_it_overrides() -> None:
    with pytest.warns(DeprecationWarning, match=r"Team\.write"):

        class Team(LiteLLM):
            def write(self, call: GatewayRequest) -> None:
                super().write(call)
                call.headers["x-team"] = "blue"

    class Sub(Team):
        def inject(self, request: GatewayRequest) -> None:
            super().inject(request)
            request.headers["x-sub"] = "1"

    request = make_request()
    Sub().write(request)
    assert request.headers["x-litellm-session-id"] == "s-1"
    assert request.headers["x-team"] == "blue"
    assert request.headers["x-sub"] == "1"


def test_earlier_class_attributes_are_read_under_their_new_names() -> None:
    with pytest.warns(DeprecationWarning, match=r"Old\.(joins|longest)"):

        class Old(Gateway):
            joins = True
            longest = 7

    assert (Old.sends_traceparent, Old.max_header_value) == (True, 7)


@pytest.mark.parametrize(("old", "new"), _RENAMED.items())
def test_each_earlier_name_is_the_new_one_on_built_in_gateways(old: str, new: str) -> None:
    def named(kind: type[Gateway], name: str) -> Any:
        return getattr(kind, name)

    for kind in (Gateway, LiteLLM):
        assert named(kind, old) == named(kind, new)
