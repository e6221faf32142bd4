"""The lifespan of an ASGI app: its end is the last that an app hears of when its server is told to stop."""

from __future__ import annotations

from anyio import CapacityLimiter, to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from byline import shutdown

_LAST = frozenset({"lifespan.shutdown.complete", "lifespan.shutdown.failed"})


async def run_lifespan(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run an app's lifespan, and send what waits once the app itself is done.

    Uvicorn, for one, ends by the signal that stopped it, without the interpreter's own end. For an app
    that knows no lifespan, such as Django's, one is lived here.
    """
    touched = False

    async def watched_receive() -> Message:
        nonlocal touched
        touched = True
        return await receive()

    async def watched_send(message: Message) -> None:
        nonlocal touched
        touched = True
        if message["type"] in _LAST:
            await _pause()
        await send(message)

    try:
        await app(scope, watched_receive, watched_send)
        return
    except Exception:
        # One that fails in its own lifespan has listened at least.
        if touched or not shutdown.has_hooks():
            raise
    while True:
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            await _pause()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "lifespan.startup.complete"})


async def _pause() -> None:
    # With a limit of its own, for the app's threads may all be in use, and for long.
    await to_thread.run_sync(shutdown.on_server_stop, limiter=CapacityLimiter(1))
