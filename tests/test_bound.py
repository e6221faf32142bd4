"""``bound``: an attribution for a block, a function, a coroutine or a generator, and none beyond it."""

from __future__ import annotations

import asyncio
import gc
import inspect
import re
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any

import pytest

import byline
from byline import request_context


def session() -> str | None:
    return byline.current().session_id


def test_bound_block_has_the_attribution_until_its_end() -> None:
    with byline.bound(session_id="s", user_id=7, tags=["a"], metadata={"k": 1}):
        assert byline.current() == byline.Attribution(session_id="s", user_id="7", tags=("a",), metadata={"k": 1})
    assert byline.current() == byline.Attribution()
    assert request_context.current_context() is None


def test_blocks_add_to_those_around_them() -> None:
    with byline.bound(session_id="outer", user_id="u", tags=["o"], metadata={"k": 1, "l": 1}):
        with byline.bound(session_id="inner", tags=["i"], metadata={"k": 2}):
            inner = byline.current()
        assert session() == "outer"
    assert (inner.session_id, inner.user_id, inner.tags) == ("inner", "u", ("i", "o"))
    assert inner.metadata == {"k": 2, "l": 1}


def test_bind_around_a_block_reaches_into_the_block() -> None:
    with byline.bound(session_id="s"):
        outer = request_context.current_context()
        assert outer is not None
        with byline.bound(user_id="u"):
            assert byline.current().release is None
            outer.bind({"release": "r1"})
            assert byline.current() == byline.Attribution(session_id="s", user_id="u", release="r1")


def test_bind_within_a_block_stays_within_it() -> None:
    with byline.bound(session_id="s"):
        with byline.bound():
            byline.bind(session_id="t", user_id="u")
            assert byline.current() == byline.Attribution(session_id="t", user_id="u")
        assert byline.current() == byline.Attribution(session_id="s")


def test_a_block_that_fails_leaves_nothing_behind() -> None:
    with pytest.raises(ZeroDivisionError), byline.bound(session_id="s"):
        _ = 1 / 0
    assert request_context.current_context() is None


def test_one_object_may_be_entered_again_and_within_itself() -> None:
    job = byline.bound(session_id="s")
    for _ in range(2):
        with job:
            with job:
                assert session() == "s"
            assert session() == "s"
        assert request_context.current_context() is None


def test_one_object_may_be_shared_by_tasks() -> None:
    """Each leaves the context that it entered, in any order."""
    job = byline.bound(session_id="s")
    left = []

    async def work(entered: asyncio.Event, may_leave: asyncio.Event) -> None:
        with job:
            assert session() == "s"
            entered.set()
            await may_leave.wait()
        left.append(request_context.current_context())

    async def run() -> None:
        first, second, go_first, go_second = (asyncio.Event() for _ in range(4))
        one = asyncio.create_task(work(first, go_first))
        await first.wait()
        two = asyncio.create_task(work(second, go_second))
        await second.wait()
        go_first.set()
        await one
        go_second.set()
        await two

    asyncio.run(run())
    assert left == [None, None]


def test_one_object_may_be_shared_by_threads() -> None:
    job = byline.bound(session_id="s")
    left = []

    def work(entered: threading.Event, may_leave: threading.Event) -> None:
        with job:
            entered.set()
            may_leave.wait(10)
        left.append(request_context.current_context())

    events = [(threading.Event(), threading.Event()) for _ in range(2)]
    threads = [threading.Thread(target=work, args=pair) for pair in events]
    for thread, (entered, _) in zip(threads, events, strict=True):
        thread.start()
        assert entered.wait(10)
    for thread, (_, may_leave) in zip(threads, events, strict=True):
        may_leave.set()
        thread.join(10)
    assert left == [None, None]


def test_a_function() -> None:
    @byline.bound(session_id="s")
    def job(a: int, *, b: int = 2) -> tuple[int, int, str | None]:
        """What it does."""
        return a, b, session()

    assert job(1, b=3) == (1, 3, "s")
    assert (job.__name__, job.__doc__) == ("job", "What it does.")
    assert str(inspect.signature(job)).startswith("(a: 'int'")
    assert request_context.current_context() is None


def test_a_function_that_fails() -> None:
    @byline.bound(session_id="s")
    def job() -> None:
        raise LookupError(session())

    with pytest.raises(LookupError, match=r"^s$"):
        job()
    assert request_context.current_context() is None


def test_each_call_has_a_record_of_its_own() -> None:
    @byline.bound(session_id="s")
    def job(user: str | None) -> byline.Attribution:
        if user:
            byline.bind(user_id=user)
        return byline.current()

    assert job("u").user_id == "u"
    assert job(None).user_id is None


def test_a_function_that_calls_itself() -> None:
    @byline.bound(session_id="s")
    def job(depth: int) -> list[str | None]:
        return [session(), *(job(depth - 1) if depth else [])]

    assert job(3) == ["s"] * 4


def test_a_method() -> None:
    class Job:
        @byline.bound(session_id="s")
        def run(self) -> tuple[str | None, Any]:
            return session(), self

    job = Job()
    assert job.run() == ("s", job)


def test_a_coroutine_function() -> None:
    @byline.bound(session_id="s")
    async def job(a: int) -> tuple[int, str | None]:
        await asyncio.sleep(0)
        return a, session()

    assert inspect.iscoroutinefunction(job)

    async def run() -> None:
        assert list(await asyncio.gather(job(1), job(2))) == [(1, "s"), (2, "s")]
        assert request_context.current_context() is None

    asyncio.run(run())


def test_tasks_started_by_a_bound_coroutine_have_its_attribution() -> None:
    async def child() -> str | None:
        await asyncio.sleep(0)
        return session()

    @byline.bound(session_id="s")
    async def job() -> asyncio.Task[str | None]:
        return asyncio.create_task(child())

    async def run() -> str | None:
        return await (await job())

    assert asyncio.run(run()) == "s"


def test_bound_generator_has_the_attribution_only_while_it_runs() -> None:
    @byline.bound(session_id="s")
    def items() -> Generator[str | None, None, str]:
        yield session()
        yield session()
        return "done"

    assert inspect.isgeneratorfunction(items)
    seen, result = [], items()
    assert request_context.current_context() is None
    for item in result:
        seen.append((item, request_context.current_context()))
    assert seen == [("s", None), ("s", None)]

    def delegates() -> Generator[str | None, None, None]:
        assert (yield from items()) == "done"

    assert list(delegates()) == ["s", "s"]


def test_a_generator_keeps_its_record() -> None:
    """Values bound in one step are there in the next one."""

    @byline.bound(session_id="s")
    def items() -> Iterator[str | None]:
        byline.bind(user_id="u")
        yield None
        yield byline.current().user_id

    with byline.bound(user_id="consumer"):
        assert list(items()) == [None, "u"]
        assert byline.current().user_id == "consumer"


def test_generators_that_take_turns() -> None:
    def items(name: str) -> Iterator[str | None]:
        for _ in range(3):
            yield session()

    one = byline.bound(session_id="1")(items)("x")
    two = byline.bound(session_id="2")(items)("x")
    assert [next(one), next(two), next(one), next(two), next(two), next(one)] == ["1", "2", "1", "2", "2", "1"]


def test_send_and_throw_of_a_bound_generator() -> None:
    log: list[Any] = []

    @byline.bound(session_id="s")
    def items() -> Generator[Any, Any, None]:
        log.append((yield session()))
        try:
            yield "waiting"
        except LookupError as error:
            log.append((str(error), session()))
        yield "last"

    result = items()
    assert next(result) == "s"
    assert result.send("sent") == "waiting"
    assert result.throw(LookupError("thrown")) == "last"
    with pytest.raises(ValueError, match="unhandled"):
        result.throw(ValueError("unhandled"))
    assert log == ["sent", ("thrown", "s")]
    assert request_context.current_context() is None
    assert list(result) == []


def test_a_generator_that_is_closed_early() -> None:
    closed = []

    @byline.bound(session_id="s")
    def items() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(session())

    for item in items():
        assert item == 1
        break
    gc.collect()
    result = items()
    next(result)
    result.close()  # type: ignore[attr-defined]
    items().close()  # type: ignore[attr-defined]
    assert closed == ["s", "s"]
    assert request_context.current_context() is None


def test_a_generator_that_fails() -> None:
    @byline.bound(session_id="s")
    def items() -> Iterator[int]:
        yield 1
        raise LookupError(session())

    result = items()
    next(result)
    with pytest.raises(LookupError, match=r"^s$"):
        next(result)
    with pytest.raises(StopIteration):
        next(result)


def test_a_generator_that_refuses_to_close() -> None:
    @byline.bound(session_id="s")
    def items() -> Iterator[int]:
        try:
            yield 1
        except GeneratorExit:
            yield 2

    result = items()
    next(result)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        result.close()  # type: ignore[attr-defined]


def test_a_generator_that_moves_between_threads() -> None:
    @byline.bound(session_id="s")
    def items() -> Iterator[tuple[str | None, str]]:
        for _ in range(3):
            yield session(), threading.current_thread().name

    result = items()
    seen = [next(result)]
    thread = threading.Thread(target=lambda: seen.append(next(result)), name="other")
    thread.start()
    thread.join(10)
    seen.append(next(result))
    assert seen == [("s", "MainThread"), ("s", "other"), ("s", "MainThread")]


def test_bound_async_generator_has_the_attribution_while_it_runs() -> None:
    @byline.bound(session_id="s")
    async def items() -> AsyncIterator[str | None]:
        yield session()
        await asyncio.sleep(0)
        yield session()

    assert inspect.isasyncgenfunction(items)

    async def run() -> None:
        assert [(item, request_context.current_context()) async for item in items()] == [("s", None), ("s", None)]
        with byline.bound(session_id="consumer"):
            assert [(item, session()) async for item in items()] == [("s", "consumer"), ("s", "consumer")]

    asyncio.run(run())


def test_asend_and_athrow_of_a_bound_async_generator() -> None:
    log: list[Any] = []

    @byline.bound(session_id="s")
    async def items() -> AsyncGenerator[Any, Any]:
        log.append((yield session()))
        try:
            yield "waiting"
        except LookupError as error:
            await asyncio.sleep(0)
            log.append((str(error), session()))
        yield "last"

    async def run() -> None:
        result = items()
        assert await result.__anext__() == "s"
        assert await result.asend("sent") == "waiting"
        assert await result.athrow(LookupError("thrown")) == "last"
        with pytest.raises(ValueError, match="unhandled"):
            await result.athrow(ValueError("unhandled"))
        assert request_context.current_context() is None
        assert [item async for item in result] == []

    asyncio.run(run())
    assert log == ["sent", ("thrown", "s")]


def test_an_async_generator_that_is_left_early() -> None:
    """Closed by its consumer, by another task, or by the event loop."""
    closed = []

    @byline.bound(session_id="s")
    async def items() -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append(session())

    async def run() -> None:
        result = items()
        await result.__anext__()
        await result.aclose()
        assert closed == ["s"]

        other = items()
        await other.__anext__()
        await asyncio.create_task(other.aclose())
        assert closed == ["s", "s"]
        assert request_context.current_context() is None

        async for _ in items():
            break
        gc.collect()
        for _ in range(5):
            await asyncio.sleep(0)
        assert request_context.current_context() is None

    asyncio.run(run())
    assert closed == ["s", "s", "s"]


def test_a_block_inside_an_async_generator_that_is_closed_by_another_task() -> None:
    """Its exit comes in another context than its entry: no error, and nothing is changed there."""

    async def items() -> AsyncGenerator[str | None, None]:
        with byline.bound(session_id="s"):
            yield session()

    async def run() -> None:
        result = items()

        async def consume() -> None:
            assert await result.__anext__() == "s"

        await asyncio.create_task(consume())
        with byline.bound(session_id="mine"):
            await result.aclose()
            assert session() == "mine"

    asyncio.run(run())


def test_block_inside_an_abandoned_async_generator_leaves_nothing_in_the_consumer() -> None:
    """The event loop closes the generator in a context of its own, in which the block cannot be undone."""

    async def items() -> AsyncGenerator[int, None]:
        with byline.bound(session_id="inner"):
            yield 1
            yield 2

    async def run() -> None:
        generator = items()
        async for _ in generator:
            break
        assert session() == "inner"
        del generator
        gc.collect()
        for _ in range(3):
            await asyncio.sleep(0)
        assert session() == "outer"

    async def main() -> None:
        with byline.bound(session_id="outer"):
            await asyncio.create_task(run())

    asyncio.run(main())


def test_values_outside_the_limits_are_dropped_and_named() -> None:
    with byline.bound(session_id="x" * 201, user_id="u"):
        assert byline.current() == byline.Attribution(user_id="u")
        owner = request_context.current_context()
        assert owner is not None
        assert owner.rejected == ["session_id: too long"]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("user", "did you mean 'user_id'?"),
        ("session", "did you mean 'session_id'?"),
        ("trace", "did you mean 'trace_id'?"),
        ("organization", "did you mean 'organization_id'?"),
        ("tag", "did you mean 'tags'?"),
        ("sesion_id", "did you mean 'session_id'?"),
        ("colour", "pass one of environment, environment_id, "),
    ],
)
@pytest.mark.parametrize("function", ["bind", "bound"])
def test_an_unknown_field_raises_in_the_app(function: str, name: str, advice: str) -> None:
    """Also outside a request, as a misspelt argument of any function does; nothing is bound."""
    expected = re.escape(f"byline.E101: {function}() has no attribution field {name!r}; {advice}")
    with byline.bound(user_id="ada"):
        with pytest.raises(TypeError, match=expected):
            getattr(byline, function)(**{"session_id": "s-1", name: "x"})
        assert byline.current() == byline.Attribution(user_id="ada")
    with pytest.raises(TypeError, match=expected):
        getattr(byline, function)(**{name: "x"})
