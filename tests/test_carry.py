"""``inject``, ``extract``, ``carried``, ``carry`` and the signed form: the right request or none."""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
import re
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

import byline
from byline import carrier, internal_metrics, queues, request_context
from byline.asgi import AttributionMiddleware as AsgiMiddleware
from byline.carry import inject_for
from byline.inbound.reader import ClaimReader
from byline.request_context import RequestContext
from tests.support import Door, Sent, accepted, both_doors

KEY = "k" * 32
NONE = byline.Attribution()
FULL = byline.Attribution(
    session_id="s-1",
    user_id="ada Łovelace",
    trace_id="t",
    trace_name="n",
    span_name="step",
    generation_name="g",
    parent_span_id="p",
    environment="prod",
    release="r",
    version="v",
    tags=("a", "b,c"),
    metadata={"k": 1, "l": "x", "f": 0.5, "b": True},
    organization_id="acme",
    environment_id="e",
)


@pytest.fixture(autouse=True)
def metrics() -> Iterator[None]:
    internal_metrics.clear()
    yield
    internal_metrics.clear()


@pytest.fixture
def signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYLINE_SIGNING_KEY", KEY)


def dropped() -> dict[str, int]:
    counts = internal_metrics.counter_values()
    return {name.removeprefix("carry.dropped."): count for name, count in counts.items() if name.startswith("carry.d")}


def message(**fields: Any) -> dict[str, str]:
    headers: dict[str, str] = {}
    with byline.bound(**fields):
        byline.inject(headers)
    return headers


def test_an_attribution_is_a_mapping_of_its_set_fields() -> None:
    attribution = byline.Attribution(session_id="s", tags=("a",))
    assert dict(attribution) == {"session_id": "s", "tags": ("a",)}
    assert (len(attribution), list(attribution), "user_id" in attribution) == (2, ["session_id", "tags"], False)
    assert (attribution.get("user_id"), attribution.get("session_id"), attribution["tags"]) == (None, "s", ("a",))
    assert attribution.values() == ["s", ("a",)]
    with pytest.raises(KeyError):
        attribution["user_id"]
    with byline.bound(**FULL):
        assert byline.current() == FULL


@pytest.mark.parametrize("key", ["", KEY])
def test_every_field_arrives_unchanged(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("BYLINE_SIGNING_KEY", key)
    assert byline.extract(message(**FULL)) == FULL


ids = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=200)


@given(
    session=ids,
    user=ids,
    tags=st.lists(ids, max_size=4),
    metadata=st.dictionaries(ids.filter(lambda t: len(t) < 64), ids),
)
def test_any_valid_text_arrives_unchanged_or_not_at_all(
    session: str, user: str, tags: list[str], metadata: dict[str, str]
) -> None:
    with byline.bound(session_id=session, user_id=user, tags=tags, metadata=metadata):
        sent, headers = byline.current(), dict[str, str]()
        byline.inject(headers)
    got = byline.extract(headers)
    assert got in (NONE, sent, byline.Attribution(session_id=sent.session_id, user_id=sent.user_id, tags=sent.tags))


def test_the_header_is_short_and_valid_in_any_transport() -> None:
    assert message(session_id="s") == {"x-byline": "1.eyJzIjoicyJ9"}
    assert re.fullmatch(r"[\w.-]+", message(**FULL)["x-byline"])


def test_without_an_attribution_nothing_is_carried_and_the_header_of_an_earlier_message_is_removed() -> None:
    headers: dict[str, str] = {}
    byline.inject(headers)
    assert headers == {}
    headers = {"X-Byline": "1.eyJzIjoicyJ9", "X": "1"}
    byline.inject(headers)
    assert headers == {"X": "1"}


def test_trace_context_goes_along_but_not_over_that_of_an_instrumentation() -> None:
    tracer = TracerProvider().get_tracer("t")
    with tracer.start_as_current_span("s") as span:
        headers: dict[str, str] = {}
        byline.inject(headers)
        assert headers["traceparent"].split("-")[1:3] == [
            f"{span.get_span_context().trace_id:032x}",
            f"{span.get_span_context().span_id:016x}",
        ]
        theirs = {"Traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}
        byline.inject(theirs)
    assert theirs == {"Traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}


def test_kafka_headers_are_a_list_of_text_and_bytes() -> None:
    headers: list[tuple[str, bytes]] = [("kind", b"\xff\x00"), ("X-Byline", b"1.old")]
    with byline.bound(session_id="s"):
        byline.inject(headers)
    assert headers == [("kind", b"\xff\x00"), ("x-byline", b"1.eyJzIjoicyJ9")]
    assert byline.extract(headers).session_id == "s"
    assert byline.extract([(b"X-BYLINE", "1.eyJzIjoicyJ9")]).session_id == "s"


def test_too_much_metadata_is_left_out_whole_then_tags() -> None:
    many = {f"k{n}": "x" * 400 for n in range(20)}
    assert byline.extract(message(session_id="s", tags=["a"], metadata=many)) == byline.Attribution(
        session_id="s", tags=("a",)
    )
    tags = [f"{n}" + "x" * 190 for n in range(30)]
    assert byline.extract(message(session_id="s", tags=tags)) == byline.Attribution(session_id="s")
    assert internal_metrics.counter_values()["carry.left_out"] == 3


def forge(why: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a value that a receiver with `KEY` drops for this reason."""
    if why == "unsigned":
        return "1.eyJzIjoicyJ9"
    if why == "forged":
        monkeypatch.setenv("BYLINE_SIGNING_KEY", "o" * 32)
    if why == "audience":
        monkeypatch.setenv("BYLINE_AUDIENCE", "staging")
    value = message(session_id="s", user_id="u")["x-byline"]
    if why == "version":
        return "2" + value[1:]
    if why == "malformed":
        signing = carrier.Signing([KEY.encode()], "byline")
        return f"1.%%%.{carrier._sign('1.%%%', signing.keys[0])}"
    if why == "too_long":
        return value + "a" * 4096
    return value


@pytest.mark.usefixtures("signed")
@pytest.mark.parametrize("why", ["unsigned", "forged", "audience", "version", "malformed", "too_long"])
def test_what_an_own_service_has_not_signed_is_dropped_and_counted(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = forge(why, monkeypatch)
    monkeypatch.setenv("BYLINE_SIGNING_KEY", KEY)
    monkeypatch.delenv("BYLINE_AUDIENCE", raising=False)
    assert byline.extract({"x-byline": value}) == NONE
    assert dropped() == {why: 1}


@pytest.mark.usefixtures("signed")
def test_every_truncated_or_changed_value_is_dropped() -> None:
    value = message(session_id="s", user_id="u")["x-byline"]
    for end in range(len(value)):
        assert byline.extract({"x-byline": value[:end]}) == NONE
        changed = value[:end] + ("A" if value[end] != "A" else "B") + value[end + 1 :]
        assert byline.extract({"x-byline": changed}) == NONE


@pytest.mark.parametrize("key", ["", KEY])
@pytest.mark.parametrize("value", ["1.\ud800.x", "1.e30.\ud800", "1.\u00e9.\u00e9", "\ud800"])
def test_text_that_cannot_be_encoded_is_dropped(value: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON messages can have such text; the job runs."""
    monkeypatch.setenv("BYLINE_SIGNING_KEY", key)
    with byline.carried({"x-byline": value}):
        assert byline.current() == NONE
    assert dropped() == {"malformed": 1}


def test_other_keys_of_a_carrier_may_have_any_type() -> None:
    """The metadata of a job is a mapping of the app."""
    carrier: Any = {1: "one", None: 2, b"x-byline": "old"}
    with byline.bound(session_id="s"):
        byline.inject(carrier)
    assert {1, None, "x-byline"} == carrier.keys()
    assert byline.extract(carrier).session_id == "s"


@pytest.mark.usefixtures("signed")
def test_an_old_or_a_future_value_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = message(session_id="s")
    assert byline.extract(headers, max_age=60).session_id == "s"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert byline.extract(headers, max_age=60) == NONE
    assert byline.extract(headers).session_id == "s"
    monkeypatch.setattr(time, "time", lambda: now - 120)
    assert byline.extract(headers) == NONE
    assert dropped() == {"expired": 2}


def test_keys_are_rotated_without_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = "o" * 32, "n" * 32
    monkeypatch.setenv("BYLINE_SIGNING_KEY", old)
    headers = message(session_id="s")
    monkeypatch.setenv("BYLINE_SIGNING_KEY", f"{new}, {old}")
    assert byline.extract(headers).session_id == "s"
    headers = message(session_id="t")
    monkeypatch.setenv("BYLINE_SIGNING_KEY", new)
    assert byline.extract(headers).session_id == "t"


def test_a_short_key_carries_nothing_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BYLINE_SIGNING_KEY", "short")
    assert message(session_id="s") == message(session_id="s") == {}
    (record,) = caplog.records
    assert record.getMessage().startswith("byline.E001: BYLINE_SIGNING_KEY has a key of less than 16 characters.")
    assert "short" not in record.getMessage()


# Requests


def send(door: Door, *headers: tuple[str, str], body: bytes = b"{}", **middleware: Any) -> byline.Attribution:
    return accepted(door, Sent(body, headers=headers), **middleware).attribution


@both_doors
def test_a_request_of_another_service_has_its_attribution(door: Door) -> None:
    assert send(door, ("x-byline", message(**FULL)["x-byline"])).session_id == "s-1"


@both_doors
def test_without_a_key_the_header_is_a_claim_like_others(door: Door) -> None:
    """It needs trust, is weaker than headers, and sets no reserved name."""
    header = ("x-byline", message(session_id="s", user_id="u", metadata={"caller_x": "1", "k": "1"})["x-byline"])
    assert send(door, header, ("x-session-id", "h")) == byline.Attribution(
        session_id="h", user_id="u", metadata={"k": "1"}
    )
    assert send(door, header, trust={"session"}) == byline.Attribution(session_id="s")
    assert send(door, header, identity=lambda raw: None, trust={"session", "user"}).user_id is None


@pytest.mark.usefixtures("signed")
@both_doors
def test_a_signed_header_needs_no_trust_and_beats_claims(door: Door) -> None:
    headers = ("x-session-id", "h"), ("x-byline", message(**FULL)["x-byline"]), ("baggage", "user.id=mallory")
    body = b'{"user": "mallory", "session_id": "m"}'
    assert send(door, *headers, body=body, trust=()) == FULL


@pytest.mark.usefixtures("signed")
@both_doors
def test_the_login_of_the_receiver_beats_a_signed_user_whole(door: Door) -> None:
    got = send(door, ("x-byline", message(**FULL)["x-byline"]), identity=lambda raw: {"user_id": "bob"}, trust=())
    assert (got.user_id, got.organization_id, got.session_id) == ("bob", None, "s-1")
    got = send(door, ("x-byline", message(**FULL)["x-byline"]), identity=lambda raw: None, trust=())
    assert (got.user_id, got.organization_id) == ("ada Łovelace", "acme")


@pytest.mark.usefixtures("signed")
@both_doors
@pytest.mark.parametrize("why", ["unsigned", "forged", "audience", "version", "malformed", "too_long"])
def test_a_request_with_a_bad_header_goes_on_without_it(door: Door, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = forge(why, monkeypatch)
    monkeypatch.setenv("BYLINE_SIGNING_KEY", KEY)
    monkeypatch.delenv("BYLINE_AUDIENCE", raising=False)
    assert send(door, ("x-byline", value), ("x-session-id", "h")) == byline.Attribution(session_id="h")
    assert dropped() == {why: 1}


@both_doors
@pytest.mark.parametrize("key", ["", KEY])
def test_a_browser_names_nobody_at_a_public_endpoint(door: Door, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither with a header of its own making nor, with a key, by one that a service has made without."""
    header = ("x-byline", message(**FULL)["x-byline"])
    monkeypatch.setenv("BYLINE_SIGNING_KEY", key)
    got = send(door, header, ("x-session-id", "s-2"), public=True, identity=lambda raw: {"user_id": "bob"})
    assert (got.user_id, got.organization_id, got.trace_id, got.metadata) == ("bob", None, None, {})
    assert got.session_id is not None
    assert got.session_id.endswith(":s-2")
    assert dropped() == {"unsigned": 1}


@pytest.mark.usefixtures("signed")
@both_doors
def test_a_replayed_request_is_not_believed(door: Door) -> None:
    headers = message(session_id="s", user_id="u")
    assert send(door, ("x-byline", headers["x-byline"]), trust=()).user_id == "u"
    assert send(door, ("x-byline", headers["x-byline"]), trust=()) == NONE
    assert dropped() == {"replayed": 1}


@pytest.mark.usefixtures("signed")
def test_the_table_of_seen_values_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier, "_MAX_REMEMBERED", 3)
    seen = carrier.SeenValues()
    assert [seen.is_first(f"1.x.{n}", 300.0) for n in (1, 2, 1, 3, 4)] == [True, True, False, True, True]
    assert len(seen._seen) == 3


def test_a_middleware_with_a_short_key_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYLINE_SIGNING_KEY", "short")
    with pytest.raises(byline.SettingError, match=r"byline\.E001"):
        AsgiMiddleware(lambda scope, receive, send: None)  # type: ignore[arg-type, return-value]


# Jobs


def test_a_job_is_signed_as_its_message_and_never_as_the_worker() -> None:
    alice, bob, nobody = message(user_id="alice", session_id="a"), message(user_id="bob"), dict[str, str]()
    with byline.bound(user_id="first", session_id="f"):
        got = []
        for each in (alice, bob, nobody):
            with byline.carried(each):
                got.append(dict(byline.current()))
        assert byline.current().user_id == "first"
    assert got == [{"user_id": "alice", "session_id": "a"}, {"user_id": "bob"}, {}]


@pytest.mark.usefixtures("signed")
@pytest.mark.parametrize("why", ["unsigned", "forged", "audience", "version", "malformed", "too_long", "expired"])
def test_a_task_that_a_stranger_has_queued_is_nobodys(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs; whoever can write to a queue names a user only by a value that an own service has signed lately."""
    if why == "expired":
        with monkeypatch.context() as past:
            past.setattr(time, "time", lambda: 1_000_000.0)
            value = message(user_id="u")["x-byline"]
    else:
        value = forge(why, monkeypatch)
    monkeypatch.setenv("BYLINE_SIGNING_KEY", KEY)
    monkeypatch.delenv("BYLINE_AUDIENCE", raising=False)
    with queues._enter({"x-byline": value, "_byline_block": "x", "traceparent": "00-0"}):
        assert byline.current() == NONE
    assert dropped() == {why: 1}


@pytest.mark.parametrize("headers", [None, "x-byline", 7, ["x-byline"], {"x-byline": {}}, {b"x-byline": None}])
def test_a_task_with_headers_of_another_form_runs(headers: Any) -> None:
    with queues._enter(headers):
        assert byline.current() == NONE


@pytest.mark.usefixtures("signed")
def test_a_value_that_clients_can_read_counts_for_its_purpose_alone() -> None:
    """LangGraph Server shows the configuration of runs to its clients."""
    headers: dict[str, str] = {}
    with byline.bound(user_id="ada"):
        inject_for("langgraph", headers)
    assert byline.extract(headers) == NONE
    assert dropped() == {"audience": 1}
    with queues._Run(headers):
        assert byline.current().user_id == "ada"
    with queues._Run(message(user_id="ada")):
        assert byline.current() == NONE


def test_a_job_continues_the_trace_of_its_message() -> None:
    tracer = TracerProvider().get_tracer("t")
    with tracer.start_as_current_span("request") as request:
        headers = message(session_id="s")
    with byline.carried(headers), tracer.start_as_current_span("job") as job:
        assert job.get_span_context().trace_id == request.get_span_context().trace_id
    # The worker was started within another request.
    with tracer.start_as_current_span("other"), byline.bound(user_id="other"):
        with byline.carried(headers), tracer.start_as_current_span("job") as job:
            assert job.get_span_context().trace_id == request.get_span_context().trace_id
        with byline.carried({}), tracer.start_as_current_span("job") as job:
            assert job.parent is None  # type: ignore[attr-defined]
    assert not trace.get_current_span().get_span_context().is_valid


def test_an_instrumentations_span_of_the_job_stays_current() -> None:
    tracer = TracerProvider().get_tracer("t")
    headers = message(session_id="s")
    with tracer.start_as_current_span("consume") as consume, byline.carried(headers):
        assert trace.get_current_span() is consume


def start_job(headers: Any, **carried: Any) -> tuple[byline.Attribution, trace.SpanContext, trace.SpanContext | None]:
    """Return the attribution of a job, its span, and the parent of that."""
    with byline.carried(headers, **carried), TracerProvider().get_tracer("t").start_as_current_span("job") as job:
        return byline.current(), job.get_span_context(), getattr(job, "parent", None)


def traced_message(**fields: Any) -> tuple[dict[str, str], int]:
    """Return a message of a request with a span, and its trace."""
    with TracerProvider().get_tracer("t").start_as_current_span("request") as span:
        return message(**fields), span.get_span_context().trace_id


OTHER_TRACE = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"


@pytest.mark.usefixtures("signed")
def test_a_signature_covers_the_trace_and_not_the_span() -> None:
    """Instrumentations of queues and proxies put their own span into ``traceparent``, in the same trace."""
    headers, trace_id = traced_message(user_id="ada")
    headers["traceparent"] = f"00-{trace_id:032x}-{'2' * 16}-01"
    attribution, job, parent = start_job(headers)
    assert (attribution.user_id, job.trace_id) == ("ada", trace_id)
    assert parent is not None
    assert f"{parent.span_id:016x}" == "2" * 16
    # Kafka's clients send the header of an instrumentation as a second one.
    pairs = [(name, text.encode()) for name, text in headers.items()]
    _, job, parent = start_job([*pairs, ("traceparent", f"00-{trace_id:032x}-{'3' * 16}-01".encode())])
    assert job.trace_id == trace_id
    assert parent is not None
    assert f"{parent.span_id:016x}" == "3" * 16


@pytest.mark.usefixtures("signed")
def test_a_message_without_an_attribution_has_its_trace_signed() -> None:
    headers, trace_id = traced_message()
    attribution, job, _ = start_job(headers)
    assert (attribution, job.trace_id) == (NONE, trace_id)


@pytest.mark.parametrize("key", ["", KEY])
@pytest.mark.parametrize("sampled", [True, False])
def test_an_unsampled_request_has_unsampled_jobs(sampled: bool, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYLINE_SIGNING_KEY", key)
    provider = TracerProvider(sampler=ALWAYS_ON if sampled else ALWAYS_OFF)
    with provider.get_tracer("t").start_as_current_span("request"):
        headers = message(user_id="ada")
    assert start_job(headers)[1].trace_flags.sampled == sampled


@pytest.mark.usefixtures("signed")
def test_who_can_write_to_a_queue_hides_no_job_by_an_unsampled_flag() -> None:
    headers, trace_id = traced_message(user_id="ada")
    headers["traceparent"] = headers["traceparent"][:-2] + "00"
    _, job, _ = start_job(headers)
    assert (job.trace_id, job.trace_flags.sampled) == (trace_id, True)


@pytest.mark.usefixtures("signed")
@pytest.mark.parametrize("why", ["", "no header", "unsigned", "forged", "audience", "expired", "malformed"])
def test_who_can_write_to_a_queue_names_no_trace(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job runs in a trace of its own; an attribution that is signed counts all the same."""
    headers = {"x-byline": forge(why, monkeypatch), "traceparent": OTHER_TRACE}
    monkeypatch.setenv("BYLINE_SIGNING_KEY", KEY)
    monkeypatch.delenv("BYLINE_AUDIENCE", raising=False)
    if why == "no header":
        del headers["x-byline"]
    if why == "expired":
        sent = time.time()
        monkeypatch.setattr(time, "time", lambda: sent + 8 * 86400)
    attribution, job, parent = start_job(headers)
    assert parent is None
    assert f"{job.trace_id:032x}" != "1" * 32
    assert attribution.user_id == (None if why else "u")


@pytest.mark.usefixtures("signed")
def test_the_trace_of_another_message_is_not_that_of_this_one() -> None:
    (mine, _), (other, _) = traced_message(user_id="ada"), traced_message(user_id="bob")
    attribution, _, parent = start_job({**mine, "traceparent": other["traceparent"]})
    assert (attribution.user_id, parent) == ("ada", None)


def test_without_a_key_every_message_is_believed_with_its_trace() -> None:
    _, job, _ = start_job({"traceparent": OTHER_TRACE, "x-byline": "1.broken"})
    assert f"{job.trace_id:032x}" == "1" * 32


@pytest.mark.usefixtures("signed")
def test_a_job_that_is_sent_again_does_not_sign_the_trace_that_a_stranger_has_written() -> None:
    headers = {**message(user_id="ada"), "traceparent": OTHER_TRACE}
    with byline.carried(headers), TracerProvider().get_tracer("t").start_as_current_span("job"):
        queues._add_headers(headers)
    attribution, _, parent = start_job(headers)
    assert (attribution.user_id, parent) == ("ada", None)


@pytest.mark.usefixtures("signed")
def test_a_wrong_key_continues_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    headers, _ = traced_message(user_id="ada")
    monkeypatch.setenv("BYLINE_SIGNING_KEY", "short")
    assert start_job(headers)[::2] == (NONE, None)


@pytest.mark.usefixtures("signed")
def test_an_attribution_is_filed_under_no_trace_that_its_signature_denies() -> None:
    """Also if an instrumentation of the queue has continued the trace of a message that was changed on the way."""
    tracer = TracerProvider().get_tracer("t")
    honest, trace_id = traced_message(user_id="ada")
    changed = {**honest, "traceparent": OTHER_TRACE}
    for headers, is_changed in ((honest, False), (changed, True)):
        parent = propagate.extract(headers)
        with (
            tracer.start_as_current_span("consume", parent) as consume,
            queues._enter(headers, continues_trace=False),
        ):
            context = request_context.current_context()
            assert context is not None
            assert trace.get_current_span() is consume
            joined = consume.get_span_context().trace_id
            assert (context.exported_trace_id(joined) == joined) is not is_changed
            assert byline.current().user_id == "ada"
    assert joined != trace_id


@pytest.mark.usefixtures("signed")
def test_values_without_a_signed_trace_are_read_while_services_are_updated() -> None:
    """As a service with an older version of byline sends them. They name no trace."""
    today, trace_id = traced_message(user_id="ada")
    version, form, _ = today["x-byline"].split(".")
    members = msgspec.json.decode(carrier._from_base64(form))
    assert members.pop("w") == f"{trace_id:032x}-{today['traceparent'][-2:]}"
    # Receivers have always ignored members that they do not know.
    assert {"u", "at", "to", "id"} == members.keys()
    text = f"{version}.{carrier._to_base64(msgspec.json.encode(members))}"
    before = {**today, "x-byline": f"{text}.{carrier._sign(text, KEY.encode())}"}
    attribution, _, parent = start_job(before)
    assert (attribution.user_id, parent) == ("ada", None)


@pytest.mark.usefixtures("signed")
def test_the_age_limits_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYLINE_HTTP_MAX_AGE", "60")
    monkeypatch.setenv("BYLINE_QUEUE_MAX_AGE", "86400")
    headers, requests = message(user_id="ada"), [message(user_id="ada") for _ in range(2)]
    now = time.time()

    def got(age: float, **limit: float) -> list[str | None]:
        monkeypatch.setattr(time, "time", lambda: now + age)
        job = start_job(headers, **limit)[0].user_id
        return [byline.extract(headers, **limit).user_id, job]

    assert got(86300) == ["ada", "ada"]
    assert got(86500) == [None, None]
    assert got(86500, max_age=90000) == ["ada", "ada"]
    users = []
    for age, request in zip((55, 65), requests, strict=True):
        monkeypatch.setattr(time, "time", lambda age=age: now + age)
        users.append(send("asgi", ("x-byline", request["x-byline"]), trust=()).user_id)
    assert users == ["ada", None]


@pytest.mark.parametrize("variable", ["BYLINE_HTTP_MAX_AGE", "BYLINE_QUEUE_MAX_AGE"])
@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e9", "none", "5m"])
def test_an_age_limit_is_a_number_of_seconds(variable: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(byline.SettingError, match=rf"byline\.E001: {variable} must be a number of seconds, from 1 to"):
        carrier.Signing.from_settings()


@pytest.mark.parametrize("key", ["", KEY])
def test_claims_of_a_request_stay_claims_in_its_jobs(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a job that another job has queued: a filter by tenant believes the app alone."""
    monkeypatch.setenv("BYLINE_SIGNING_KEY", key)
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [(b"x-session-id", b"s")]}
    carried: dict[str, str] = {}
    token = request_context.attach(RequestContext(ClaimReader(), scope))
    try:
        with byline.bound(organization_id="acme"):
            byline.inject(carried)
    finally:
        request_context.detach(token)
    for _ in range(2):
        with byline.carried(carried):
            context = request_context.current_context()
            assert context is not None
            assert dict(byline.current()) == {"session_id": "s", "organization_id": "acme"}
            assert dict(context.vouched()) == {"organization_id": "acme"}
            carried = {}
            byline.inject(carried)
    assert dict(byline.extract(carried)) == {"session_id": "s", "organization_id": "acme"}


def test_carried_is_a_decorator_too() -> None:
    assert byline.carried(message(session_id="s"))(lambda: byline.current().session_id)() == "s"

    @byline.carried(message(session_id="s"))
    async def job() -> str | None:
        await asyncio.sleep(0)
        return byline.current().session_id

    assert asyncio.run(job()) == "s"


# Threads and processes


def session() -> str | None:
    return byline.current().session_id


def test_threads_are_part_of_the_request() -> None:
    tracer = TracerProvider().get_tracer("t")
    with ThreadPoolExecutor(2) as pool, tracer.start_as_current_span("request") as span:
        with byline.bound(session_id="s"):
            context = request_context.current_context()

            def job(number: int) -> tuple[Any, Any, int]:
                return request_context.current_context(), trace.get_current_span(), number

            assert list(pool.map(byline.carry(job), range(20))) == [(context, span, number) for number in range(20)]
        assert pool.submit(session).result() is None


def test_outside_a_request_a_carried_function_runs_as_it_is() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(byline.carry(session)).result() is None


def test_long_after_its_request_a_job_in_a_thread_keeps_the_attribution() -> None:
    context = request_context.RequestContext(after_response=-1.0)
    context.bind({"session_id": "s"})
    token = request_context.attach(context)
    carried = byline.carry(session)
    request_context.detach(token)
    context.end()
    assert context.is_expired()
    assert carried() == "s"


def test_a_carried_coroutine_function() -> None:
    async def job() -> str | None:
        await asyncio.sleep(0)
        return session()

    with byline.bound(session_id="s"):
        carried = byline.carry(job)
    assert asyncio.run(carried()) == "s"


def test_a_pickled_function_has_the_attribution() -> None:
    with byline.bound(session_id="s"):
        pickled = pickle.dumps(byline.carry(session))
    assert pickle.loads(pickled)() == "s"
    assert pickle.loads(pickle.dumps(pickle.loads(pickled)))() == "s"


@pytest.mark.integration
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_process_pools(method: str) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        got = []
        for name in ("a", "b"):
            with byline.bound(session_id=name):
                got.append(pool.submit(byline.carry(session)).result())
        assert [*got, pool.submit(session).result()] == ["a", "b", None]
