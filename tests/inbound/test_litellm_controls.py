"""LiteLLM's controls for Langfuse, in metadata and as headers, and the keys by which Langfuse reads metadata."""

from __future__ import annotations

from typing import Any

import pytest

from byline.inbound.trust import GROUPS
from tests.support import Door, Sent, accepted, both_doors, claim

#: control → the claim, and its effect
CONTROLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "generation_name": ("Welcome", {"generation_name": "Welcome"}),
    "parent_observation_id": ("p-1", {"parent_span_id": "p-1"}),
    "trace_user_id": ("ada", {"user_id": "ada"}),
    "session_id": ("s-1", {"session_id": "s-1"}),
    "tags": (["a", "b"], {"tags": ("a", "b")}),
    "trace_name": ("Onboarding", {"trace_name": "Onboarding"}),
    "trace_id": ("w-1", {"trace_id": "w-1"}),
    "existing_trace_id": ("w-1", {"trace_id": "w-1"}),
    "trace_metadata": ({"plan": "gold"}, {"metadata": {"plan": "gold"}}),
    "trace_release": ("r-1", {"release": "r-1"}),
    "trace_version": ("v-1", {"version": "v-1"}),
    "version": ("v-1", {"version": "v-1"}),
    "generation_id": ("g-1", {"metadata": {"generation_id": "g-1"}}),
    "mask_input": (True, {"metadata": {"mask_input": True}}),
    "mask_output": (True, {"metadata": {"mask_output": True}}),
    # Controls about changes of LiteLLM's own records have no effect here.
    "update_trace_keys": (["name"], {}),
    "debug_langfuse": (True, {}),
}
HEADERS = {
    "tags": ('["a", "b"]', {"tags": ("a", "b")}),
    "trace_metadata": ('{"plan": "gold"}', CONTROLS["trace_metadata"][1]),
    "mask_input": ("true", {"metadata": {"mask_input": "true"}}),
    "mask_output": ("true", {"metadata": {"mask_output": "true"}}),
    "update_trace_keys": ("name", {}),
    "debug_langfuse": ("true", {}),
}


@both_doors
@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_in_the_metadata(door: Door, control: str) -> None:
    value, known = CONTROLS[control]
    heard = accepted(door, claim({"metadata": {control: value}}), trust={*GROUPS, "masks"})
    assert heard.known() == known
    assert heard.rejected == []


@both_doors
@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_as_a_header(door: Door, control: str) -> None:
    """With its prefix; dashes are as good as underscores."""
    value, known = HEADERS.get(control, CONTROLS[control])
    for name in (f"langfuse_{control}", f"Langfuse-{control.replace('_', '-')}"):
        heard = accepted(door, Sent(headers=[(name, value)]), trust={*GROUPS, "masks"})
        assert heard.known() == known
        assert heard.rejected == []


@both_doors
@pytest.mark.parametrize("first", ["existing_trace_id", "trace_id"])
def test_a_trace_that_exists_goes_before_one_that_may_not(door: Door, first: str) -> None:
    """In whichever order they come."""
    names = dict.fromkeys((first, "existing_trace_id", "trace_id"))
    assert accepted(door, claim({"metadata": {name: name for name in names}})).known() == {
        "trace_id": "existing_trace_id"
    }
    headers = [(f"langfuse_{name}", name) for name in names]
    assert accepted(door, Sent(headers=headers)).known() == {"trace_id": "existing_trace_id"}


#: sources of metadata
PLACES = {
    "trace object": lambda metadata: claim({"trace": metadata}),
    "metadata": lambda metadata: claim({"metadata": metadata}),
    "metadata of the trace": lambda metadata: claim({"metadata": {"trace_metadata": metadata}}),
    "LiteLLM's own": lambda metadata: claim({"litellm_metadata": metadata}),
    "a header": lambda metadata: Sent(
        headers=[("langfuse-metadata", ",".join(f"{key}:{value}" for key, value in metadata.items()))]
    ),
}


@both_doors
@pytest.mark.parametrize("place", PLACES)
def test_langfuse_keys_of_metadata_are_the_fields_of_langfuse(door: Door, place: str) -> None:
    """Langfuse reads them if there is no other session or user, as its LangChain integration sends them."""
    said = {"langfuse_session_id": "s-1", "langfuse_user_id": "ada", "langfuse_tags": "a", "team": "blue"}
    heard = accepted(door, PLACES[place](said))
    assert heard.known() == {"session_id": "s-1", "user_id": "ada", "tags": ("a",), "metadata": {"team": "blue"}}


@both_doors
@pytest.mark.parametrize("place", PLACES)
def test_nobody_passes_for_another_user_by_way_of_metadata(door: Door, place: str) -> None:
    """If identity decides, or if users and sessions are not trusted."""
    said = {"langfuse_session_id": "s-1", "langfuse_user_id": "admin", "team": "blue"}
    anonymous = accepted(door, PLACES[place](said), identity=lambda _: None)
    assert anonymous.known() == {"session_id": "s-1", "metadata": {"team": "blue"}}
    assert anonymous.rejected == ["user_id: identity decides"]
    heard = accepted(door, PLACES[place](said), trust={"metadata"})
    assert heard.known() == {"metadata": {"team": "blue"}}


@both_doors
def test_tags_within_metadata_may_be_a_list(door: Door) -> None:
    for tags in (["a", "b"], '["a", "b"]', "a, b"):
        assert accepted(door, claim({"metadata": {"langfuse_tags": tags}})).known() == {"tags": ("a", "b")}


@both_doors
def test_many_metadata_keys_do_not_displace_controls(door: Door) -> None:
    """Only fifty keys are kept, these among them."""
    crowd = {f"k{number}": number for number in range(60)}
    masked = {"metadata": {**crowd, "mask_input": True, "mask_output": True}}
    heard = accepted(door, claim(masked), trust={*GROUPS, "masks"})
    kept = heard.attribution.metadata
    assert (len(kept), kept["mask_input"], kept["mask_output"]) == (50, True, True)
