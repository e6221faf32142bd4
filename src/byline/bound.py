"""`bound` sets an attribution for a job, a script, a test, or a part of a request."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from contextvars import Token
from types import TracebackType
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from byline import request_context
from byline.request_context import RequestContext

F = TypeVar("F", bound=Callable[..., Any])


class bound:  # noqa: N801 - used like a function
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
        self._fields = fields
        # Not a stack, because tasks and threads that share this object leave in any order.
        self._tokens: WeakKeyDictionary[RequestContext, Token[RequestContext | None]] = WeakKeyDictionary()

    def __enter__(self) -> bound:
        new = self._new_context()
        self._tokens[new] = request_context.attach(new)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entered = request_context.current_context()
        token = self._tokens.pop(entered, None) if entered is not None else None
        if token is not None:
            _detach_quietly(token)

    def __call__(self, function: F) -> F:
        """Return a wrapper of the function, each call of which runs with this attribution."""
        if inspect.isasyncgenfunction(function):
            return cast("F", self._wrap_async_generator(function))
        if inspect.isgeneratorfunction(function):
            return cast("F", self._wrap_generator(function))
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def coroutine(*args: Any, **kwargs: Any) -> Any:
                with _attached(self._new_context()):
                    return await function(*args, **kwargs)

            return cast("F", coroutine)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with _attached(self._new_context()):
                return function(*args, **kwargs)

        return cast("F", call)

    def _new_context(self) -> RequestContext:
        new = RequestContext(parent=request_context.current_context())
        new.bind(self._fields)
        return new

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
                    return stop.value
                try:
                    sent = yield item
                except GeneratorExit:
                    with _attached(new):
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
                    return
                try:
                    sent = yield item
                except GeneratorExit:
                    with _attached(new):
                        await inner.aclose()
                    raise
                except BaseException as error:
                    step = functools.partial(inner.athrow, error)
                else:
                    step = functools.partial(inner.asend, sent)

        return generator


@contextmanager
def _attached(new: RequestContext) -> Generator[None, None, None]:
    token = request_context.attach(new)
    try:
        yield
    finally:
        _detach_quietly(token)


def _detach_quietly(token: Token[RequestContext | None]) -> None:
    try:
        request_context.detach(token)
    except ValueError:
        # The block was left in another ``contextvars`` context, as async generators are when they are closed
        # late. Do not change the value in that context.
        return
