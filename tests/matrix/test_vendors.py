"""Vendors' own set-ups beside byline: each span arrives once and signed, or a message says what to do."""

from __future__ import annotations

from typing import Final

import pytest

from tests.matrix import running
from tests.matrix.cells import Cell
from tests.matrix.vendors import CALLBACKS, LITELLM, ORDERS, VENDORS

_ONE: Final = {"calls": 1, "signed": 1, "servers": 0, "twice": 0}
_WITH_SERVER: Final = {**_ONE, "servers": 1}
_NOTHING: Final = {"calls": 0, "signed": 0, "servers": 0, "twice": 0}

#: Vendor → what arrives at its own endpoint. By OTLP nothing does for Sentry and Datadog, which have protocols of their
#: own, nor for LangSmith, which hands its spans to the provider, unless the environment lets byline send there.
THEIRS: Final = {
    "phoenix": dict.fromkeys(ORDERS, _WITH_SERVER) | {"after": _NOTHING},
    "logfire-setup": dict.fromkeys(ORDERS, _WITH_SERVER) | {"after": _NOTHING},
    "traceloop": dict.fromkeys(ORDERS, _WITH_SERVER),
    # Its filter takes LLM spans alone.
    "langfuse-setup": dict.fromkeys(ORDERS, _ONE),
    "langsmith": dict.fromkeys(ORDERS, _NOTHING) | {"environment": _WITH_SERVER},
    "sentry": dict.fromkeys(ORDERS, _NOTHING) | {"environment": _WITH_SERVER},
    # The server span is Datadog's.
    "ddtrace": dict.fromkeys(ORDERS, _NOTHING) | {"environment": _ONE},
}
#: What arrives at byline's Langfuse, if it is not the one span of the call.
OURS: Final = {
    # Logfire's span of the call is not the global provider's.
    ("logfire-setup", "after"): _NOTHING,
    # Langfuse's SDK sends the span already.
    ("langfuse-setup", "environment"): _NOTHING,
}
#: The messages.
IDS: Final = {
    ("phoenix", "after"): ["E104"],
    ("logfire-setup", "after"): ["E104"],
    ("ddtrace", "before"): ["E105"],
    ("ddtrace", "after"): ["E104"],
    ("ddtrace", "environment"): ["E105"],
    ("langfuse-setup", "environment"): ["E027"],
}


@pytest.mark.matrix
def test_langfuses_sdk_sends_the_spans_when_its_client_is_created() -> None:
    """``@observe()`` creates the client with its first call."""
    cell = next(cell for cell in VENDORS if cell.name == "langfuse-setup")
    found = running.run(cell, "tests.matrix.vendors", "later")
    assert (found["status"], found["ids"]) == (200, ["E027"])
    # One request before, one after.
    assert (found["byline"], found["vendor"]) == (_ONE, _ONE)


@pytest.mark.matrix
@pytest.mark.parametrize("callback", CALLBACKS)
def test_litellms_callback_writes_onto_the_span_of_fastapis_endpoint(callback: str) -> None:
    """That span stands for no call: byline's own span has the tokens and the cost."""
    found = running.run(LITELLM, "tests.matrix.vendors", "after", callback)
    assert (found["status"], found["ids"]) == (200, ["E126"] if callback == "langfuse_otel" else [])
    assert found["costs"] == ["chat openai/gpt-4o"]
    assert found["byline"]["signed"] == 1


@pytest.mark.matrix
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("cell", VENDORS, ids=[cell.name for cell in VENDORS])
def test_vendors_setup_stays_whole(cell: Cell, order: str) -> None:
    found = running.run(cell, "tests.matrix.vendors", order)
    key = (cell.name, order)
    assert (found["status"], found["ids"]) == (200, IDS.get(key, []))
    assert found["byline"] == OURS.get(key, _ONE)
    assert found["vendor"] == THEIRS[cell.name][order]
