"""The encoder of spans, against OpenTelemetry's own: equal requests for all that OTLP can carry."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as encode_by_opentelemetry
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from byline.export.delivery import otlp_encoder
from byline.export.delivery.otlp_encoder import encode_spans

TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ["x" * length for length in (57, 58, 123, 124, 127, 128, 20_000)]
)
SCALARS = (
    TEXTS
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=200)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(TEXTS, inner), max_leaves=8
)
ATTRIBUTES = st.dictionaries(TEXTS, VALUES, max_size=6)
TIMES = st.none() | st.integers(0, (1 << 64) - 1)
CONTEXTS = st.builds(
    SpanContext,
    st.integers(1, (1 << 128) - 1),
    st.integers(1, (1 << 64) - 1),
    st.booleans(),
    st.just(TraceFlags(TraceFlags.SAMPLED)),
    st.sampled_from([None, TraceState(), TraceState([("a", "1"), ("vendor", "x=y")])]),
)
RESOURCES = st.sampled_from(
    [Resource({}), Resource({"service.name": "app"}), Resource({"k": ("a", 1)}, "https://schema")]
)
SCOPES = st.sampled_from(
    [
        None,
        InstrumentationScope("a"),
        InstrumentationScope("a", "1.0", "https://schema"),
        InstrumentationScope("a", attributes={"k": 1}),
    ]
)
SPANS = st.builds(
    ReadableSpan,
    name=TEXTS,
    context=CONTEXTS,
    parent=st.none() | CONTEXTS,
    resource=RESOURCES,
    attributes=ATTRIBUTES,
    events=st.lists(st.builds(Event, TEXTS, st.dictionaries(TEXTS, TEXTS), TIMES.filter(bool)), max_size=3),
    links=st.lists(st.builds(Link, CONTEXTS, st.dictionaries(TEXTS, TEXTS)), max_size=3),
    kind=st.sampled_from(SpanKind),
    status=st.sampled_from(
        [Status(), Status(StatusCode.OK), Status(StatusCode.ERROR), Status(StatusCode.ERROR, "429: Slow down")]
    ),
    start_time=TIMES,
    end_time=TIMES,
    instrumentation_scope=SCOPES,
)
CONTEXT = SpanContext(1, 2, is_remote=False)


def decode(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest.FromString(encode_spans(spans))


@given(st.lists(SPANS, max_size=4))
def test_requests_are_those_of_opentelemetry(spans: list[ReadableSpan]) -> None:
    assert decode(spans) == encode_by_opentelemetry(spans)


@pytest.mark.parametrize("number", [0, 1, -1, 127, 128, 1 << 62, (1 << 63) - 1, -(1 << 63)])
def test_integers_of_64_bits_arrive(number: int) -> None:
    (attribute,) = _encoded({"n": number})
    assert attribute.value.int_value == number


@pytest.mark.parametrize("value", [1 << 63, -(1 << 63) - 1, object(), [object()], "\ud800", {"\ud800": 1}])
def test_a_value_that_otlp_does_not_know_costs_no_other(value: Any) -> None:
    span = ReadableSpan("a", CONTEXT, attributes={"before": 1, "wrong": value, "after": 2})
    message = decode([span]).resource_spans[0].scope_spans[0].spans[0]
    assert [attribute.key for attribute in message.attributes] == ["before", "after"]
    assert message.dropped_attributes_count == 1


def test_a_value_that_contains_itself_is_left_out() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert len(_encoded({"endless": endless, "after": 2})) == 1


@pytest.mark.parametrize("part", [{"kind": None}, {"start_time": -1}, {"context": None}])
def test_a_span_that_otlp_does_not_know_is_an_error(part: dict[str, Any]) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - any error stands for a span that cannot be sent
        encode_spans([ReadableSpan(**{"name": "a", "context": CONTEXT, **part})])


def _encoded(attributes: dict[str, Any]) -> Any:
    return (
        decode([ReadableSpan("a", CONTEXT, attributes=attributes)]).resource_spans[0].scope_spans[0].spans[0].attributes
    )


@pytest.mark.parametrize("length", range(100, 140))
def test_lengths_around_one_byte(length: int) -> None:
    """An attribute has four lengths, of which each may take one byte or two."""
    attributes = {"k": "v" * length, "k" * length: "v", "n": "é" * (length // 2), "list": ("v" * (length - 10),)}
    span = ReadableSpan("a", CONTEXT, attributes=attributes)
    assert decode([span]) == encode_by_opentelemetry([span])


@pytest.mark.integration
def test_a_fork_waits_for_the_import_of_protobuf() -> None:
    """A child that inherits the locks of an import can never import the same module."""
    child = """
import importlib.abc, os, sys, threading
from byline.export.delivery.otlp_encoder import import_messages

begun, may_go_on = threading.Event(), threading.Event()

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.endswith("trace_service_pb2"):
            begun.set()
            may_go_on.wait(60)

sys.meta_path.insert(0, Slow())
threading.Thread(target=import_messages).start()
begun.wait(60)
os.register_at_fork(before=may_go_on.set)  # runs before the hook of byline, which waits for the import
process = os.fork()
if process == 0:
    import_messages()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", child], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.stdout, done.stderr) == ("7\n", "")


def test_no_long_name_of_an_attribute_is_kept() -> None:
    """An instrumentation may make names of the keys of a stranger's JSON."""
    span = ReadableSpan("a", CONTEXT, attributes={f"metadata.{'k' * 1000}.{number}": "v" for number in range(3)})
    kept = otlp_encoder._encode_name.cache_info().currsize
    assert decode([span]) == encode_by_opentelemetry([span])
    assert otlp_encoder._encode_name.cache_info().currsize == kept
