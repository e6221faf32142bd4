"""`bound` sets an attribution for a job, a script, a test, or a part of a request; `unbound` removes it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from contextvars import Token
from types import TracebackType
from typing import Any, Final, NamedTuple, TypeVar, cast
from weakref import WeakKeyDictionary

from opentelemetry import context as otel_context

from byline import request_context
from byline.request_context import RequestContext

F = TypeVar("F", bound=Callable[..., Any])


#: An unbound block has an OpenTelemetry context without a current span, so that its spans start traces of their own.
_NO_SPAN: Final = otel_context.Context()


class _Attached(NamedTuple):
    token: Token[RequestContext | None]
    otel_token: Any


class _Block:
    """A context manager and decorator that runs code in a request context of its own."""

    def __init__(self) -> None:
        # Not a stack, because tasks and threads that share this object leave in any order.
        self._attached: WeakKeyDictionary[RequestContext, _Attached] = WeakKeyDictionary()

    def _enter(self) -> None:
        new = self._new_context()
        self._attached[new] = _attach(new)

    def _new_context(self) -> RequestContext:
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        context = request_context.attached()
        attached = self._attached.pop(context, None) if context is not None else None
        if attached is not None and context is not None:
            _detach_quietly(attached)
            context.end()

    def __call__(self, function: F) -> F:
        """Return a wrapper of the function, each call of which runs with this attribution."""
        if inspect.isasyncgenfunction(function):
            return cast("F", self._wrap_async_generator(function))
        if inspect.isgeneratorfunction(function):
            return cast("F", self._wrap_generator(function))
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def coroutine(*args: Any, **kwargs: Any) -> Any:
                with _running(self._new_context()):
                    return await function(*args, **kwargs)

            return cast("F", coroutine)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with _running(self._new_context()):
                return function(*args, **kwargs)

        return cast("F", call)

    def _wrap_generator(self, function: Callable[..., Generator[Any, Any, Any]]) -> Callable[..., Any]:
        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            new = self._new_context()
            inner = function(*args, **kwargs)
            step: Callable[[], Any] = functools.partial(next, inner)
            # Attached only while the inner code runs, because the consumer of a generator runs in the same
            # ``contextvars`` context between two items.
            while True:
                try:
                    with _attached(new):
                        item = step()
                except StopIteration as stop:
                    new.end()
                    return stop.value
                except BaseException:
                    new.end()
                    raise
                try:
                    sent = yield item
                except GeneratorExit:
                    with _running(new):
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
            new = self._new_context()
            inner = function(*args, **kwargs)
            step: Callable[[], Any] = inner.__anext__
            while True:
                try:
                    with _attached(new):
                        item = await step()
                except StopAsyncIteration:
                    new.end()
                    return
                except BaseException:
                    new.end()
                    raise
                try:
                    sent = yield item
                except GeneratorExit:
                    with _running(new):
                        await inner.aclose()
                    raise
                except BaseException as error:
                    step = functools.partial(inner.athrow, error)
                else:
                    step = functools.partial(inner.asend, sent)

        return generator


class bound(_Block):  # noqa: N801 - used like a function
    """Bind an attribution to a block or to a function, inside a request or outside one.

    Within a request the fields are added to the request's attribution until the block ends; outside a request
    they are the whole attribution. Also a decorator of functions, coroutine functions, generators and async
    generators: each call has its own request context. A generator has one from its first item to its last,
    and the consumer's context is unchanged between two items.

    Args:
        **fields: Attribution fields, as for `byline.bind`.

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
        self._fields = fields

    def __enter__(self) -> bound:
        self._enter()
        return self

    def _new_context(self) -> RequestContext:
        new = RequestContext(parent=request_context.current_context())
        new.bind(self._fields)
        return new


class unbound(_Block):  # noqa: N801 - used like a function
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

    def _new_context(self) -> RequestContext:
        context = RequestContext(after_response=-1.0)
        context.end()
        return context


def _attach(new: RequestContext) -> _Attached:
    otel_token = otel_context.attach(_NO_SPAN) if new.is_expired() else None
    return _Attached(request_context.attach(new), otel_token)


@contextmanager
def _attached(new: RequestContext) -> Generator[None, None, None]:
    attached = _attach(new)
    try:
        yield
    finally:
        _detach_quietly(attached)


@contextmanager
def _running(new: RequestContext) -> Generator[None, None, None]:
    """Attach a context for a whole run, which ends the context."""
    try:
        with _attached(new):
            yield
    finally:
        new.end()


def _detach_quietly(attached: _Attached) -> None:
    try:
        request_context.detach(attached.token)
    except ValueError:
        # The block was left in another ``contextvars`` context, as async generators are when they are closed
        # late. Do not change the value in that context.
        return
    if attached.otel_token is not None:
        otel_context.detach(attached.otel_token)
