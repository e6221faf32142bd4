"""A server that answers as it likes, byte by byte, which no server on a framework would."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType

TAKEN = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

#: Is given the connection, and something to wait by that is woken at the end.
Behaviour = Callable[[socket.socket, threading.Event], object]


class RawServer:
    """Behaves in its own way for the first posts, one after the other, and takes all others.

    ``posts`` counts them.

    Args:
        behaviours: One for each of the first posts.
        log: Gets the head of each request.
    """

    def __init__(self, *behaviours: Behaviour, log: list[bytes] | None = None) -> None:
        self._log = [] if log is None else log
        self._posted = threading.Condition()
        self._behaviours = list(behaviours)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self.posts = 0
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> RawServer:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join(20)

    def wait_for_posts(self, count: int) -> None:
        """Wait until so many posts have come."""
        with self._posted:
            assert self._posted.wait_for(lambda: self.posts >= count, 60)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                connection.settimeout(0.1)
                thread = threading.Thread(target=self._serve, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while self._read(connection):
                with self._posted:
                    self.posts += 1
                    self._posted.notify_all()
                if self._behaviours:
                    self._behaviours.pop(0)(connection, self._over)
                else:
                    connection.sendall(TAKEN)

    def _read(self, connection: socket.socket) -> bool:
        got = b""
        while not self._over.is_set():
            head, end, body = got.partition(b"\r\n\r\n")
            lines = [line.partition(b":") for line in head.lower().split(b"\r\n")]
            if end and len(body) >= sum(int(value) for name, _, value in lines if name == b"content-length"):
                self._log.append(head)
                return True
            try:
                more = connection.recv(65536)
            except TimeoutError:
                continue
            if not more:
                return False
            got += more
        return False


def says(answer: bytes) -> Behaviour:
    """Answer so."""
    return lambda connection, _: connection.sendall(answer)


def cuts_after(answer: bytes) -> Behaviour:
    """Answer so, and reset the connection."""

    def behave(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(answer)
        # That it may arrive before the reset throws it away.
        over.wait(0.1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    return behave


def drips_after(answer: bytes, drip: bytes = b"x") -> Behaviour:
    """Answer so, and go on by drips without an end."""

    def behave(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(answer)
        while not over.wait(0.02):
            connection.sendall(drip)

    return behave


def stalls_after(answer: bytes) -> Behaviour:
    """Answer so, and never go on."""

    def behave(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(answer)
        over.wait()

    return behave
