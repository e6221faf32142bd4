"""Queues within the process: a task that takes an item after the end of its request may work for another one.

The first request may start the consumer of a queue, which then keeps the context of that request for ever. A task that
takes an item which other requests have put there works for them, not for the request that started the task.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from typing import Any, Final

from byline import errors, request_context
from byline.patching import Patches

_patches: Final = Patches(
    "byline.E106: a task that takes jobs from queues of %s may be attributed to the request that started the task, "
    "because this version cannot be hooked (%s); run such tasks in byline.unbound()"
)
#: The key of the request that puts items into the queue, -1 for several requests.
_SENDER: Final = "_byline_sender"
_SEVERAL: Final = -1
_QUEUES: Final = (asyncio.Queue, queue.Queue)


def install() -> None:
    """Hook the queues of the standard library, and anyio's streams now or when they are imported."""
    _patches.patch_when_imported("asyncio", "asyncio.queues", _patch_asyncio)
    _patches.patch_when_imported("queue", "queue", _patch_queue)
    _patches.patch_when_imported("anyio", "anyio.streams.memory", _patch_anyio)


def uninstall() -> None:
    """Remove the hooks."""
    _patches.unwrap_all()


def _patch_asyncio(patches: Patches, module: Any) -> None:
    patches.wrap_method(module.Queue, "put_nowait", _wrap_put)
    patches.wrap_method(module.Queue, "get", _wrap_async_get)


def _patch_queue(patches: Patches, module: Any) -> None:
    patches.wrap_method(module.Queue, "put", _wrap_put)
    patches.wrap_method(module.Queue, "get", _wrap_get)


def _patch_anyio(patches: Patches, module: Any) -> None:
    patches.wrap_method(module.MemoryObjectSendStream, "send_nowait", _wrap_put)
    patches.wrap_method(module.MemoryObjectReceiveStream, "receive", _wrap_async_get)


def _wrap_put(original: Callable[..., Any]) -> Callable[..., Any]:
    def put(self: Any, *args: Any, **kwargs: Any) -> Any:
        context = request_context.attached()
        if context is not None:
            # Before the item is there: another thread may take it at once.
            _note_sender(self, context.key)
        return original(self, *args, **kwargs)

    return put


def _wrap_get(original: Callable[..., Any]) -> Callable[..., Any]:
    def get(self: Any, *args: Any, **kwargs: Any) -> Any:
        item = original(self, *args, **kwargs)
        context = request_context.attached()
        if context is not None and context.expires_at is not None:
            _leave_request(self, context)
        return item

    return get


def _wrap_async_get(original: Callable[..., Any]) -> Callable[..., Any]:
    async def get(self: Any) -> Any:
        item = await original(self)
        context = request_context.attached()
        if context is not None and context.expires_at is not None:
            _leave_request(self, context)
        return item

    return get


def _fields(source: Any) -> dict[str, Any]:
    """Return the attributes of a queue, or those of the state that both ends of an anyio stream share."""
    # Queues of apps may have a member `_state` of their own.
    fields: dict[str, Any] = (source if isinstance(source, _QUEUES) else source._state).__dict__
    return fields


def _note_sender(source: Any, key: int) -> None:
    try:
        fields = _fields(source)
        if fields.setdefault(_SENDER, key) != key:
            fields[_SENDER] = _SEVERAL
    except Exception:
        errors.report_internal_error("local_queues")


def _leave_request(source: Any, context: request_context.RequestContext) -> None:
    """End the work of a request that is over, if another request has put items into the queue.

    A queue without items of any request may bring the task the answers to its own questions. Pools of connections keep
    them in a queue whose last item comes first.
    """
    try:
        sender = _fields(source).get(_SENDER, context.key)
        if sender != context.key and not isinstance(source, asyncio.LifoQueue | queue.LifoQueue):
            context.leave()
    except Exception:
        errors.report_internal_error("local_queues")
