"""Frameworks with servers of their own: ``python -m tests.frameworks.own_server PORT``."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from tests.frameworks.apps import app


def serve_aiohttp(port: int) -> None:
    from aiohttp import web

    web.run_app(app, host="127.0.0.1", port=port)


def serve_tornado(port: int) -> None:
    async def serve() -> None:
        app.listen(port, "127.0.0.1")
        await asyncio.Event().wait()

    asyncio.run(serve())


def serve_robyn(port: int) -> None:
    app.start(host="127.0.0.1", port=port)


def serve_sanic(port: int) -> None:
    app.run(host="127.0.0.1", port=port, single_process=True, access_log=False, motd=False)


SERVERS: dict[str, Any] = {
    "aiohttp_web": serve_aiohttp,
    "tornado_web": serve_tornado,
    "robyn": serve_robyn,
    "sanic_alone": serve_sanic,
}

if __name__ == "__main__":
    SERVERS[os.environ["FRAMEWORK"]](int(sys.argv[1]))
