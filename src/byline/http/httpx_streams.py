"""Streamed bodies of httpx and httpx2 whose chunks are seen on their way."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any

from byline import deferred
from byline.http.llm_request import LLMRequest


def _of_inner(tee: Any, name: str) -> Any:
    # What copies objects makes them without `__init__`.
    if name.startswith("__") or "_inner" not in tee.__dict__:
        raise AttributeError(name)
    return getattr(tee._inner, name)


def make_stream_classes(module: Any) -> tuple[Callable[[Any, LLMRequest], Any], Callable[[Any, LLMRequest], Any]]:
    """Make the two stream classes; the clients accept only subclasses of their own.

    A chunk of a long stream costs one append to a deque: that is all that is done for it. The module's
    own ``BoundSyncStream``, which is a loop around another stream, is not run inside ours besides.
    """
    bound = getattr(getattr(module, "_client", None), "BoundSyncStream", None)
    async_bound = getattr(getattr(module, "_client", None), "BoundAsyncStream", None)

    class Tee(module.SyncByteStream):  # type: ignore[misc]
        """A streamed body."""

        def __init__(self, inner: Any, call: LLMRequest) -> None:
            self._inner = inner
            self._call = call

        def __getattr__(self, name: str) -> Any:
            # The response reads the time that has elapsed from its stream.
            return _of_inner(self, name)

        def __iter__(self) -> Iterator[bytes]:
            call, inner = self._call, self._inner
            try:
                chunks = iter(inner._stream if type(inner) is bound else inner)
                for chunk in chunks:
                    simple = call.on_chunk(chunk)
                    yield chunk
                    if simple:
                        break
                else:
                    # An iterator over a queue would wait for ever if it were asked once more.
                    call.end()
                    return
                keep = call.buffer.tail.append
                for chunk in chunks:
                    keep(chunk)
                    yield chunk
            except BaseException as error:
                call.fail(error) if isinstance(error, Exception) else call.end()
                raise
            call.end()

        def close(self) -> None:
            self._call.end()
            self._inner.close()

        def __del__(self) -> None:
            if "_call" in self.__dict__:
                deferred.defer(self._call.end)

    class AsyncTee(module.AsyncByteStream):  # type: ignore[misc]
        """A streamed body."""

        def __init__(self, inner: Any, call: LLMRequest) -> None:
            self._inner = inner
            self._call = call

        def __getattr__(self, name: str) -> Any:
            return _of_inner(self, name)

        async def __aiter__(self) -> AsyncIterator[bytes]:
            call, inner = self._call, self._inner
            chunks = aiter(inner._stream if type(inner) is async_bound else inner)
            try:
                async for chunk in chunks:
                    simple = call.on_chunk(chunk)
                    yield chunk
                    if simple:
                        break
                else:
                    call.end()
                    return
                keep = call.buffer.tail.append
                async for chunk in chunks:
                    keep(chunk)
                    yield chunk
            except BaseException as error:
                call.fail(error) if isinstance(error, Exception) else call.end()
                raise
            finally:
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()
            call.end()

        async def aclose(self) -> None:
            self._call.end()
            await self._inner.aclose()

        def __del__(self) -> None:
            if "_call" in self.__dict__:
                deferred.defer(self._call.end)

    return Tee, AsyncTee
