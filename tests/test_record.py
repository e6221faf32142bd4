"""The request context: ``current``, ``bind``, the totals, and the time at which values are known."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import byline
from byline import asgi, request_context, wsgi
from byline.attribution import merge
from byline.inbound.body import BodyBuffer
from byline.inbound.reader import ClaimReader
from byline.request_context import RequestContext, UsageTotals
from tests.support import Sent, accepted, claim, environ_of, run_asgi, run_wsgi, scope_of


def test_outside_a_request_nothing_is_known() -> None:
    assert byline.current() == byline.Attribution()
    assert not byline.current()


def test_bind_outside_a_request_warns_once_without_values(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        byline.bind(session_id="s-secret")
    (entry,) = caplog.records
    assert entry.name == "byline"
    assert entry.getMessage().startswith("byline.E020: ")
    assert "s-secret" not in caplog.text
    assert byline.current() == byline.Attribution()


def test_later_values_win_and_lists_grow() -> None:
    with byline.bound():
        byline.bind(session_id="1", user_id="u", tags=["a"], metadata={"k": 1, "l": 1})
        byline.bind(session_id="2", tags=["b"], metadata={"k": 2})
        known = byline.current()
    assert (known.session_id, known.user_id) == ("2", "u")
    assert sorted(known.tags) == ["a", "b"]
    assert known.metadata == {"k": 2, "l": 1}


def test_a_bad_value_does_not_undo_a_good_one() -> None:
    with byline.bound(session_id="good"):
        byline.bind(session_id="bad\n", user_id=None)
        assert byline.current() == byline.Attribution(session_id="good")


def test_equal_questions_get_the_same_object() -> None:
    """By which everything made of it is cached."""
    heard = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.extend([byline.current(), byline.current()])
        await receive()
        heard.extend([byline.current(), byline.current()])
        byline.bind(user_id="u")
        heard.extend([byline.current(), byline.current()])

    sent = claim({"trace": "w"}, headers=[("x-session-id", "s")])
    assert asyncio.run(run_asgi(asgi.AttributionMiddleware(app), sent)).error is None
    assert heard[0] is heard[1]
    assert heard[2] is heard[3]
    assert heard[4] is heard[5]
    assert [known.trace_id for known in heard] == [None, None, "w", "w", "w", "w"]
    assert [known.user_id for known in heard] == [None] * 4 + ["u"] * 2


def test_nothing_is_parsed_before_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that calls no model pays for two references."""

    def read(*_: Any) -> Any:
        raise AssertionError("nobody asked")

    monkeypatch.setattr(ClaimReader, "read", read)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    run = asyncio.run(run_asgi(asgi.AttributionMiddleware(app, app_span=False), claim({"session_id": "s"})))
    assert (run.status, run.error) == (200, None)


def test_binds_of_many_threads_are_all_kept() -> None:
    """A request may work in several threads at once."""
    owner = RequestContext()

    def bind(number: int) -> None:
        owner.bind({"metadata": {f"k{number}": number}})

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(bind, range(50)))
    assert len(owner.attribution().metadata) == 50


def test_totals_add_up() -> None:
    totals = UsageTotals()
    totals.add()
    assert totals.cost is None
    totals.add(input_tokens=3, output_tokens=2, cost=0.5)
    totals.add(cost=0.25, error=True)
    totals.add(error=True)
    assert (totals.calls, totals.errors, totals.input_tokens, totals.output_tokens) == (4, 2, 3, 2)
    assert totals.cost == pytest.approx(0.75)


def test_totals_of_calls_in_many_threads() -> None:
    owner = RequestContext()
    start = threading.Barrier(8)

    def work() -> None:
        start.wait(10)
        for _ in range(200):
            owner.totals.add(input_tokens=1, cost=1.0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (owner.totals.calls, owner.totals.input_tokens, owner.totals.cost) == (1600, 1600, 1600.0)


def test_a_part_of_a_request_counts_with_the_whole() -> None:
    whole = RequestContext()
    part = RequestContext(parent=RequestContext(parent=whole))
    before = whole.has_calls
    part.totals.add(input_tokens=5)
    assert (before, whole.has_calls) == (False, True)
    assert whole.totals.input_tokens == 5
    assert part.root() is whole


def test_a_job_has_no_request() -> None:
    with byline.bound(session_id="s"):
        owner = request_context.current_context()
        assert owner is not None
        assert owner.request() is None


def test_a_request_is_not_kept_alive_by_its_record() -> None:
    """The body goes with the last reference, without waiting for the garbage collector."""
    kept: list[weakref.ref[RequestContext]] = []

    def note() -> None:
        owner = request_context.current_context()
        assert owner is not None
        assert byline.current().session_id == "s"
        kept.append(weakref.ref(owner))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        note()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    def plain(environ: Any, start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read()
        note()
        start_response("200 OK", [])
        return []

    def streaming(environ: Any, start_response: Any) -> Any:
        yield from plain(environ, start_response)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(run_asgi(asgi.AttributionMiddleware(app, app_span=False), claim({"session_id": "s"})))
        run_wsgi(wsgi.AttributionMiddleware(plain, app_span=False), claim({"session_id": "s"}))
        run_wsgi(wsgi.AttributionMiddleware(streaming, app_span=False), claim({"session_id": "s"}))
        assert [reference() for reference in kept] == [None, None, None]
    finally:
        gc.enable()


def test_the_same_environ_and_scope_may_be_used_again() -> None:
    """Test clients do so; each request has a record of its own."""
    records = []

    def plain(environ: Any, start_response: Any) -> list[bytes]:
        records.append(request_context.current_context())
        start_response("200 OK", [])
        return []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        records.append(request_context.current_context())

    environ, scope = environ_of(Sent()), scope_of(Sent())
    for _ in range(2):
        run_wsgi(wsgi.AttributionMiddleware(plain), Sent(), environ)
    for _ in range(2):
        asyncio.run(run_asgi(asgi.AttributionMiddleware(app), Sent(), scope))
    assert None not in records
    assert len(set(map(id, records))) == 4


@pytest.mark.usefixtures("production")
def test_a_reader_that_fails_costs_the_claims_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(ClaimReader, "read", read)
    heard = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        byline.bind(user_id="u")
        heard.append(byline.current())
        start_response("200 OK", [])
        return [b"fine"]

    assert run_wsgi(wsgi.AttributionMiddleware(app), claim({"session_id": "s"})).body == b"fine"
    assert heard == [byline.Attribution(user_id="u")]


def test_the_first_question_may_come_from_many_threads_at_once() -> None:
    """All get the whole answer, the body's claims included."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    answers = []
    try:
        for _ in range(100):
            owner = RequestContext(ClaimReader(), scope_of(claim({"user": "u"}, headers=[("x-session-id", "s")])))
            owner.body = BodyBuffer(10_000, inspect_headers=lambda _: (True, None), scope={})
            owner.body.append(b'{"user": "u", "trace": {"trace_id": "w", "k": [1, 2, 3]}}', last=True)
            start = threading.Barrier(4)

            def ask(owner: RequestContext = owner, start: threading.Barrier = start) -> None:
                start.wait(10)
                answers.append(owner.attribution())

            threads = [threading.Thread(target=ask) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
            answers.append(owner.attribution())
    finally:
        sys.setswitchinterval(interval)
    whole = byline.Attribution(session_id="s", user_id="u", trace_id="w", metadata={"k": "[1,2,3]"})
    assert answers == [whole] * 500


def test_identity_may_call_current() -> None:
    """It gets the values known before, without an endless recursion."""

    def identity(scope: Any) -> dict[str, Any]:
        asked.append(byline.current())
        return {"user_id": "ada"}

    asked: list[byline.Attribution] = []
    heard = accepted("asgi", Sent(headers=[("x-session-id", "s")]), identity=identity)
    assert heard.attribution == byline.Attribution(session_id="s", user_id="ada")
    assert asked == [byline.Attribution()]


def test_body_without_claims_is_freed_while_the_app_reads() -> None:
    """An upload of a gigabyte is not held until its end."""
    held = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        owner = request_context.current_context()
        assert owner is not None
        for _ in range(20):
            await receive()
            assert owner.body is not None
            held.append(sum(map(len, owner.body.chunks)))

    sent = Sent([b"x" * 100_000] * 20, content_type="multipart/form-data; boundary=x")
    assert asyncio.run(run_asgi(asgi.AttributionMiddleware(app), sent)).error is None
    assert len(held) == 20
    assert max(held) <= 100_000


def test_value_bound_while_another_thread_reads_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with byline.bound(session_id="s"):
        context = request_context.current_context()
        assert context is not None

        def merge_and_bind(layers: Any) -> Any:
            monkeypatch.setattr(request_context, "merge", merge)
            merged = merge(layers)
            context.bind({"user_id": "u"})
            return merged

        monkeypatch.setattr(request_context, "merge", merge_and_bind)
        context.attribution()
        assert byline.current() == byline.Attribution(session_id="s", user_id="u")


def test_totals_of_threads_that_count_the_first_calls_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    context = RequestContext()

    class Slow(UsageTotals):
        __slots__ = ()

        def __init__(self) -> None:
            super().__init__()
            monkeypatch.setattr(request_context, "UsageTotals", UsageTotals)
            # As another thread does before this one is done.
            context.totals.add()

    monkeypatch.setattr(request_context, "UsageTotals", Slow)
    context.totals.add()
    assert context.totals.calls == 2
