"""``bound``: an attribution for a job, a script, a test, or a part of a request."""

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

    Within a request it adds to the request's attribution until the block ends; outside one it is
    the whole attribution. As a decorator it works on functions, coroutine functions, generators and
    async generators, each call with a record of its own; a generator keeps its record from the
    first item to the last and leaves none behind between them.

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
        # By record and not as a stack: tasks and threads that share this object leave in any order.
        self._tokens: WeakKeyDictionary[RequestContext, Token[RequestContext | None]] = WeakKeyDictionary()

    def __enter__(self) -> bound:
        new = self._new()
        self._tokens[new] = request_context.attach(new)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entered = request_context.current_context()
        token = self._tokens.pop(entered, None) if entered is not None else None
        if token is not None:
            _leave(token)

    def __call__(self, function: F) -> F:
        """Return the function so that each call of it runs with this attribution."""
        if inspect.isasyncgenfunction(function):
            return cast("F", self._wrap_async_generator(function))
        if inspect.isgeneratorfunction(function):
            return cast("F", self._wrap_generator(function))
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def coroutine(*args: Any, **kwargs: Any) -> Any:
                with _entered(self._new()):
                    return await function(*args, **kwargs)

            return cast("F", coroutine)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with _entered(self._new()):
                return function(*args, **kwargs)

        return cast("F", call)

    def _new(self) -> RequestContext:
        new = RequestContext(parent=request_context.current_context())
        new.bind(self._fields)
        return new

    def _wrap_generator(self, function: Callable[..., Generator[Any, Any, Any]]) -> Callable[..., Any]:
        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            new = self._new()
            inner = function(*args, **kwargs)
            step: Callable[[], Any] = functools.partial(next, inner)
            # The record is in force only while the inner code runs: whoever consumes a generator
            # runs in the same context between two items.
            while True:
                try:
                    with _entered(new):
                        item = step()
                except StopIteration as stop:
                    return stop.value
                try:
                    sent = yield item
                except GeneratorExit:
                    with _entered(new):
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
            new = self._new()
            inner = function(*args, **kwargs)
            step: Callable[[], Any] = inner.__anext__
            while True:
                try:
                    with _entered(new):
                        item = await step()
                except StopAsyncIteration:
                    return
                try:
                    sent = yield item
                except GeneratorExit:
                    with _entered(new):
                        await inner.aclose()
                    raise
                except BaseException as error:
                    step = functools.partial(inner.athrow, error)
                else:
                    step = functools.partial(inner.asend, sent)

        return generator


@contextmanager
def _entered(new: RequestContext) -> Generator[None, None, None]:
    token = request_context.attach(new)
    try:
        yield
    finally:
        _leave(token)


def _leave(token: Token[RequestContext | None]) -> None:
    try:
        request_context.detach(token)
    except ValueError:
        # A block that was left in another context than it was entered in, as async generators are
        # when they are closed late: that context's own value is not ours to change.
        return
