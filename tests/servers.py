"""Real servers on 127.0.0.1 for one test, and time limits that grow with the load of the machine."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import uvicorn

#: Processes of pytest-xdist have the same seed.
_RANDOM = random.SystemRandom()


def patience(seconds: float) -> float:
    """Return a time limit in seconds, longer if more processes want to run than there are cores."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def free_port() -> int:
    """Return a port of 127.0.0.1 for a server that has to be told its port.

    Not one that the system chooses: a connection or server of another test could get the same port before the server
    listens there. The system chooses from 32768 on (``net.ipv4.ip_local_port_range``).
    """
    while True:
        port = _RANDOM.randrange(10_000, 32_768)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextmanager
def uvicorn_server(app: Any, **settings: Any) -> Iterator[tuple[str, int]]:
    """Run an ASGI app under uvicorn until the block ends; yields host and port once uvicorn accepts connections."""
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", **settings)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            deadline = time.monotonic() + 120
            while not server.started and thread.is_alive() and time.monotonic() < deadline:
                time.sleep(0.005)
            assert server.started, "uvicorn did not start"
            yield "127.0.0.1", listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(120)


class _ThreadingServer(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the standard library's
        """Log nothing."""


@contextmanager
def wsgiref_server(app: Any, *, threaded: bool = True) -> Iterator[tuple[str, int]]:
    """Run a WSGI app under wsgiref until the block ends, with a thread for each request or one for all."""
    server = (_ThreadingServer if threaded else WSGIServer)(("127.0.0.1", 0), _SilentHandler)
    server.set_app(app)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield "127.0.0.1", server.server_port
    finally:
        server.shutdown()
        thread.join(120)
        server.server_close()
