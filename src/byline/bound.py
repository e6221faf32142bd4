"""`bound` sets an attribution for a job, a script, a test, or a part of a request; `unbound` removes it."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from contextvars import Token
from types import TracebackType
from typing import Any, Final, NamedTuple, TypeVar, cast
from weakref import WeakKeyDictionary

from opentelemetry import context as otel_context
from opentelemetry import trace

from byline import request_context
from byline.fork import after_fork_in_child
from byline.request_context import RequestContext

F = TypeVar("F", bound=Callable[..., Any])


#: An unbound block has an OpenTelemetry context without a current span, so that its spans start traces of their own.
NO_SPAN: Final = otel_context.Context()


class Contexts(NamedTuple):
    """The contexts of a block: of byline, and of OpenTelemetry if the block has one of its own."""

    request: RequestContext
    otel: otel_context.Context | None = None


class _Attached(NamedTuple):
    token: Token[RequestContext | None]
    otel_token: Any


class Block:
    """A context manager and decorator that runs code in a request context of its own."""

    def __init__(self) -> None:
        # Not a stack, because tasks and threads that share this object leave in any order.
        self._attached: WeakKeyDictionary[RequestContext, _Attached] = WeakKeyDictionary()

    def _enter(self) -> None:
        new = self._new_contexts()
        self._attached[new.request] = _attach(new)

    def _new_contexts(self) -> Contexts:
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        context = request_context.attached()
        attached = self._attached.pop(context, None) if context is not None else None
        if attached is None and len(self._attached) == 1:
            # An async generator that was closed late is left in the context of other code.
            context, attached = self._attached.popitem()
        if attached is not None and context is not None:
            context.end(is_left=not _detach_quietly(attached))

    def __call__(self, function: F) -> F:
        """Return a wrapper of the function, each call of which runs with this attribution."""
        if inspect.isasyncgenfunction(function):
            return cast("F", self._wrap_async_generator(function))
        if inspect.isgeneratorfunction(function):
            return cast("F", self._wrap_generator(function))
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def coroutine(*args: Any, **kwargs: Any) -> Any:
                with run_whole(self._new_contexts()):
                    return await function(*args, **kwargs)

            return cast("F", coroutine)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with run_whole(self._new_contexts()):
                return function(*args, **kwargs)

        return cast("F", call)

    def _wrap_generator(self, function: Callable[..., Generator[Any, Any, Any]]) -> Callable[..., Any]:
        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            new = self._new_contexts()
            inner = function(*args, **kwargs)
            step: Callable[[], Any] = functools.partial(next, inner)
            # Attached only while the inner code runs, because the consumer of a generator runs in the same
            # ``contextvars`` context between two items.
            while True:
                try:
                    with run_part(new):
                        item = step()
                except StopIteration as stop:
                    new.request.end()
                    return stop.value
                except BaseException:
                    new.request.end()
                    raise
                try:
                    sent = yield item
                except GeneratorExit:
                    with run_whole(new):
                        inner.close()
                    raise
                except BaseException as error:
                    step = functools.partial(inner.throw, error)
                else:
                    step = functools.partial(inner.send, sent)

        return generator

    def _wrap_async_generator(self, function: Callable[..., AsyncGenerator[Any, Any]]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def generator(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            new = self._new_contexts()
            inner = function(*args, **kwargs)
            step: Callable[[], Any] = inner.__anext__
            while True:
                try:
                    with run_part(new):
                        item = await step()
                except StopAsyncIteration:
                    new.request.end()
                    return
                except BaseException:
                    new.request.end()
                    raise
                try:
                    sent = yield item
                except GeneratorExit:
                    with run_whole(new):
                        await inner.aclose()
                    raise
                except BaseException as error:
                    step = functools.partial(inner.athrow, error)
                else:
                    step = functools.partial(inner.asend, sent)

        return generator


class bound(Block):  # noqa: N801 - used like a function
    """Bind an attribution to a block or to a function, inside a request or outside one.

    Within a request the fields are added to the request's attribution until the block ends; outside a request
    they are the whole attribution. Also a decorator of functions, coroutine functions, generators and async
    generators: each call has its own request context. A generator has one from its first item to its last,
    and the consumer's context is unchanged between two items.

    Args:
        **fields: Attribution fields, as for `byline.bind`.

    Raises:
        TypeError: ``byline.E101`` for a name that is not an attribution field.

    Example:
        >>> import byline
        >>> @byline.bound(session_id="nightly", tags=["batch"])
        ... def job():
        ...     return byline.current().session_id
        >>> job()
        'nightly'
    """

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        request_context.check_fields("bound", fields)
        self._fields = fields

    def __enter__(self) -> bound:
        self._enter()
        return self

    def _new_contexts(self) -> Contexts:
        parent = request_context.current_context()
        if parent is not None and parent.has_left_trace(trace.get_current_span().get_span_context()):
            parent = None
        new = RequestContext(parent=parent)
        new.bind(self._fields)
        return Contexts(new)


class unbound(Block):  # noqa: N801 - used like a function
    """Run a block or a function outside every request: nothing in it is attributed, and its spans start new traces.

    For work that a request starts and that serves others from then on: the consumer of a queue, a scheduler, a
    connection pool. Python copies the context of the request to the tasks and threads that are started in it, so
    that their LLM calls would be attributed to that request. `bound` inside the block sets an attribution anew.

    Also a decorator of functions, coroutine functions, generators and async generators.

    Example:
        >>> import byline
        >>> @byline.unbound()
        ... def consume(jobs):
        ...     for job in jobs:
        ...         with byline.bound(user_id=job):
        ...             yield byline.current()
        >>> with byline.bound(user_id="ada", session_id="s-1"):
        ...     [(each.user_id, each.session_id) for each in consume(["bob", "carol"])]
        [('bob', None), ('carol', None)]
    """

    def __enter__(self) -> unbound:
        self._enter()
        return self

    def _new_contexts(self) -> Contexts:
        context = RequestContext(after_response=-1.0)
        context.end()
        return Contexts(context, NO_SPAN)


def _attach(new: Contexts) -> _Attached:
    otel_token = None if new.otel is None else otel_context.attach(new.otel)
    return _Attached(request_context.attach(new.request), otel_token)


@contextmanager
def run_part(new: Contexts) -> Generator[None, None, None]:
    """Attach the contexts for a part of a run, which does not end them."""
    attached = _attach(new)
    try:
        yield
    finally:
        _detach_quietly(attached)


@contextmanager
def run_whole(new: Contexts) -> Generator[None, None, None]:
    """Attach the contexts for a whole run, which ends the request context."""
    try:
        with run_part(new):
            yield
    finally:
        new.request.end()


#: Modules whose child processes work for other requests than that in which they were forked.
_POOLS: Final = frozenset({"concurrent.futures.process", "multiprocessing.pool"})


class _ForkedPools:
    """Removes the context of a request from the workers of a process pool that was forked within that request."""

    def after_fork(self) -> None:
        """Register with multiprocessing, which knows only later what the new child is for."""
        util = sys.modules.get("multiprocessing.util")
        if util is not None and request_context.attached() is not None:
            util.register_after_fork(self, _ForkedPools.leave_request)

    def leave_request(self) -> None:
        """Leave the request if this child belongs to a pool."""
        process = sys.modules["multiprocessing.process"].current_process()
        if getattr(getattr(process, "_target", None), "__module__", None) in _POOLS:
            request_context.attach(None)
            otel_context.attach(NO_SPAN)


_forked_pools: Final = _ForkedPools()
after_fork_in_child(_forked_pools.after_fork)


def _detach_quietly(attached: _Attached) -> bool:
    try:
        request_context.detach(attached.token)
    except ValueError:
        # The block was left in another ``contextvars`` context, as async generators are when they are closed
        # late. Do not change the value in that context.
        return False
    if attached.otel_token is not None:
        otel_context.detach(attached.otel_token)
    return True
