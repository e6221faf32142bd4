"""The limits of docs/security.md: their numbers by the constants of the code, and functions that spend them."""

from __future__ import annotations

import gc
import gzip
import itertools
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from opentelemetry.sdk.trace import TracerProvider

from byline import attribution, carrier, errors, media, settings
from byline.carrier import Signing
from byline.export import decisions, made_spans, pipeline
from byline.export.decisions import ExportDecisions
from byline.export.delivery import http_client
from byline.export.delivery.http_client import HttpClient
from byline.export.pipeline import HoldBackBuffer, QueuedSpan
from byline.export.span_copy import SpanCopy
from byline.gateways import Gateway, GatewayRequest, base, values
from byline.genai import call_results
from byline.genai.call_results import CallResults
from byline.genai.span_state import SpanState
from byline.http import response_reader
from byline.http.response_reader import ResponseBuffer
from byline.inbound import body, claim_set, request
from byline.inbound.body import BodyBuffer
from byline.inbound.reader import ClaimReader
from byline.request_context import RequestContext
from tests.export.raw_server import RawServer, says

MIB = 1024 * 1024

Spend = Callable[[int, pytest.MonkeyPatch], None]


class Limit(NamedTuple):
    """One row of the table.

    Attributes:
        budget: What is limited.
        number: The limit.
        counter: The counter in `byline.stats`.
        spend: Takes this much more than the limit, which it may lower.
    """

    budget: str
    number: str
    counter: str
    spend: Spend


def read(
    sent: Any = None,
    *,
    raw: bytes | None = None,
    headers: Any = (),
    limit: int = 16 * MIB,
    query: bytes = b"",
    **options: Any,
) -> None:
    """Read the claims of one request."""
    data = json.dumps(sent or {}).encode() if raw is None else raw
    scope = {
        "type": "http", "method": "POST", "path": "/", "query_string": query,
        "headers": [(b"content-type", b"application/json"), *headers],
    }  # fmt: skip
    context = RequestContext(ClaimReader(body_limit=limit, **options), scope)
    context.body = BodyBuffer(limit, len(data))
    context.body.append(data, last=True)
    context.attribution()


def long_ids(more: int, _: Any) -> None:
    read({"session_id": "s" * (attribution.MAX_ID + more), "tags": ["t"] * 0})
    read({"trace": {"tags": [str(number) for number in range(attribution.MAX_TAGS + more)]}})


def much_metadata(more: int, _: Any) -> None:
    read({"metadata": {f"key{number}": "v" for number in range(attribution.MAX_METADATA + more)}})
    read({"metadata": {"k" * (attribution.MAX_METADATA_KEY + more): "v" * (attribution.MAX_METADATA_VALUE + more)}})


def many_reasons(more: int, _: Any) -> None:
    claims = claim_set.ClaimSet([])
    for number in range(claim_set.MAX_REASONS + more):
        claims.reject(str(number), "too long")
    # The same reason again is no further one.
    claims.reject("0", "too long")


def long_body(more: int, _: Any) -> None:
    read(raw=b"{}" + b" " * (98 + more), limit=100)


def unfinished_bodies(more: int, patch: pytest.MonkeyPatch) -> None:
    gc.collect()
    patch.setattr(body, "MAX_BUFFERED", 2 * MIB)
    bodies = [BodyBuffer(16 * MIB, 16 * MIB) for _ in range(1 + more)]
    for each in bodies:
        each.append(b" " * (2 * MIB - 100), last=False)


def decoded_bytes(more: int, _: Any) -> None:
    read(raw=b'{"user": "u", "session_id": [%s]}' % (b" " * (body.MAX_MEMBER * more)) if more else b'{"user": "u"}')


def query_fields(more: int, _: Any) -> None:
    query = "&".join(f"a{number}=b" for number in range(request.MAX_QUERY_FIELDS + more))
    read(query=query.encode(), fields={"session_id": "query:a1"})


def long_baggage(more: int, _: Any) -> None:
    start = b"session.id=s,k="
    read(headers=[(b"baggage", start + b"v" * (request.MAX_BAGGAGE - len(start) + more))])


def long_header(more: int, _: Any) -> None:
    start = "1.eyJzIjoicyJ9."
    carrier.decode(start + "a" * (carrier.MAX_VALUE - len(start) + more), Signing((), "byline"), 300.0)


def gateway_headers(more: int, _: Any) -> None:
    gateway = Gateway("http://gateway.example")
    outgoing = GatewayRequest(attribution=attribution.EMPTY, headers={})
    name = "x-" + "n" * 10
    while outgoing.header_budget > 512:
        gateway.set_header(outgoing, f"{name}{outgoing.header_budget}", "v" * 400)
    gateway.set_header(outgoing, name, "v" * (outgoing.header_budget - len(name) + more))


def long_response(more: int, _: Any) -> None:
    for data, encoding in ((b" " * (response_reader.MAX_BODY_BYTES + more), "identity"), (b"", "gzip")):
        buffer = ResponseBuffer(streamed=False, encoding=encoding)
        buffer.append(data or gzip.compress(b" " * (response_reader.MAX_BODY_BYTES + more), 1))


def events_after_the_end(more: int, patch: pytest.MonkeyPatch) -> None:
    """The parser reads the stream twice at most, however many events follow."""
    import httpx

    import byline
    from byline.apis import PARSERS
    from byline.testing import Gateway as Server

    parser = type(PARSERS["/responses"])
    reads: list[int] = []
    original = parser.parse_stream

    def parse_stream(*arguments: Any, **options: Any) -> Any:
        reads.append(1)
        return original(*arguments, **options)

    patch.setattr(parser, "parse_stream", parse_stream)
    last = b'data: {"type":"response.completed","response":{"id":"r","usage":{"input_tokens":1}}}\n\n'
    further = b'data: {"type":"response.output_text.delta","delta":"x"}\n\n'
    provider = TracerProvider()
    with Server() as server:
        byline.instrument(tracer_provider=provider, destinations=[], gateways=())
        try:
            server.answer([last, *[further] * (100 * more)], headers={"content-type": "text/event-stream"})
            asked = {"model": "m", "input": "x", "stream": True}
            with byline.bound(), httpx.stream("POST", f"{server.base_url}/responses", json=asked) as response:
                assert len(b"".join(response.iter_raw())) > 80
        finally:
            byline.uninstrument()
    assert 0 < len(reads) <= 2


def many_results(more: int, _: Any) -> None:
    table = CallResults()
    for number in range(call_results.MAX_ENTRIES + more):
        table.add(number, "r", {})
    large = CallResults()
    for number in range(7 + more):
        large.add(number, "r", {"gen_ai.input.messages": "x" * (2 * MIB)})


def old_results(more: int, patch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    patch.setattr(time, "monotonic", lambda: now)
    table = CallResults()
    table.add(1, "r", {})
    now += call_results.MAX_SECONDS + more
    table.add(2, "r", {})


def held_spans(more: int, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pipeline, "is_provisional", lambda state, flushing: True)
    span = TracerProvider().get_tracer("t").start_span("s")
    queued: list[QueuedSpan] = [
        QueuedSpan(SpanState(span, span.get_span_context(), None), True, None)  # type: ignore[arg-type]
        for _ in range(pipeline.MAX_HELD + more)
    ]
    assert len(list(HoldBackBuffer().exchange(queued))) == more


def open_parents(more: int, patch: pytest.MonkeyPatch) -> None:
    from byline.genai.span_state import state_of

    patch.setattr(decisions, "MAX_PARENTS", 3)
    import byline

    provider = TracerProvider()
    byline.instrument(tracer_provider=provider, destinations=[], clients=())
    try:
        made = ExportDecisions("all", unsampled=False, passes_filters=None)
        spans = [provider.get_tracer("t").start_span(str(number)) for number in range(3 + more)]
        for span in spans:
            state = state_of(span)
            assert state is not None
            state.destinations |= made.destination_id
            assert made.will_export(state)
    finally:
        byline.uninstrument()


def open_steps(more: int, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(made_spans, "MAX_STEPS", 3)
    steps = made_spans.Steps()
    tracer = TracerProvider().get_tracer("t")
    for number in range(3 + more):
        span: Any = tracer.start_span("chat")
        copy = SpanCopy.from_span(
            span, span.get_span_context(), None, attribution.Attribution(span_name=f"step {number}")
        )
        steps.place(copy, number + 1, None)
    assert len(steps.finish_overdue(0.0, everything=False)) == more


def backend_response(more: int, _: Any) -> None:
    length = http_client.MAX_BODY - 1 + more
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length
    with RawServer(says(answer + b"x" * length)) as server:
        client = HttpClient(server.url, {}, timeout=20.0)
        assert client.send_request("GET").status == 200
        client.close()


_causes = itertools.count()


def log_messages(more: int, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(errors, "MAX_MESSAGES", 3)
    once = errors.OnceLogger()
    for number in range(3 + more):
        once.log(10, str(number), "a message")
    if more:
        once.log(10, "0", "a message")


def is_not_counted(more: int, _: Any) -> None:
    """A cost that no call has is left out."""
    assert values.cost(values.MAX_COST) == values.MAX_COST
    assert values.cost(values.MAX_COST + 1) is None


def waiting_media(more: int, _: Any) -> None:
    budget = media.MediaBudget(limit=8)
    parts = [budget.take("image/png", "AAAA"), budget.take("image/png", "A" * (4 + more))]
    assert [part is not None for part in parts] == [True, not more]


LIMITS = (
    Limit(
        "ids, names, tags",
        f"{attribution.MAX_ID} characters; {attribution.MAX_TAGS} tags",
        "claims.rejected",
        long_ids,
    ),
    Limit(
        "metadata",
        f"{attribution.MAX_METADATA} keys of {attribution.MAX_METADATA_KEY} characters, "
        f"values of {attribution.MAX_METADATA_VALUE}",
        "claims.rejected",
        much_metadata,
    ),
    Limit("reasons of dropped claims on a span", str(claim_set.MAX_REASONS), "claims.reasons_omitted", many_reasons),
    Limit(
        "JSON body of a request",
        f"{settings.find('body_limit', {}).value // MIB} MiB (`body_limit`)",
        "claims.rejected",
        long_body,
    ),
    Limit(
        f"bodies of all unfinished requests beyond {body.SMALL >> 10} KiB each",
        f"{body.MAX_BUFFERED // MIB} MiB",
        "bodies.over_budget",
        unfinished_bodies,
    ),
    Limit(
        "bytes of a body that become Python objects",
        f"{body.MAX_DECODED >> 10} KiB; {body.MAX_MEMBER >> 10} KiB of one member",
        "claims.rejected",
        decoded_bytes,
    ),
    Limit("query parameters", f"{request.MAX_QUERY_FIELDS:,}", "queries.over_budget", query_fields),
    Limit("baggage", f"{request.MAX_BAGGAGE >> 10} KiB", "claims.rejected", long_baggage),
    Limit(f"the header `{carrier.HEADER}`", f"{carrier.MAX_VALUE:,} characters", "carry.dropped.too_long", long_header),
    Limit(
        "headers added to one call of a gateway",
        f"{base.HEADER_BUDGET >> 10} KiB",
        "calls.fields_omitted",
        gateway_headers,
    ),
    Limit(
        "response of a model that is read, decompressed",
        f"{response_reader.MAX_BODY_BYTES // MIB} MiB; of a stream {response_reader.HEAD_BYTES >> 10} KiB "
        f"of the start, {response_reader.TAIL_BYTES >> 10} KiB of the end",
        "replies.over_budget",
        long_response,
    ),
    Limit("events after the last event of a stream", "0", "replies.after_end", events_after_the_end),
    Limit("cost of a call as stated", f"{values.MAX_COST:,} USD", "", is_not_counted),
    Limit(
        "results of calls that wait for a span",
        f"{call_results.MAX_ENTRIES:,}, {call_results.MAX_BYTES // MIB} MiB",
        "results.over_budget",
        many_results,
    ),
    Limit("seconds that they wait", f"{call_results.MAX_SECONDS:.0f} s", "results.expired", old_results),
    Limit(
        "spans that wait for their request's body",
        f"{pipeline.MAX_HELD:,} for each destination",
        "held_spans.over_budget",
        held_spans,
    ),
    Limit(
        "unfinished parents that exported spans refer to",
        f"{decisions.MAX_PARENTS:,}",
        "parents.over_budget",
        open_parents,
    ),
    Limit("unfinished steps", f"{made_spans.MAX_STEPS:,}", "steps.over_budget", open_steps),
    Limit(
        "binary parts that wait for their upload",
        f"{media.MAX_BYTES // MIB} MiB of one, {media.MAX_TOTAL // MIB} MiB of all",
        "media.over_budget",
        waiting_media,
    ),
    Limit(
        "response of a backend that is read",
        f"{http_client.MAX_BODY >> 10} KiB",
        "backends.responses_cut",
        backend_response,
    ),
    Limit(
        "messages in the log", f"once for each cause, {errors.MAX_MESSAGES:,} causes", "log.suppressed", log_messages
    ),
)
