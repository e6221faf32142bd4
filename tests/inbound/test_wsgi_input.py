"""``wsgi.input`` of a JSON request has every method of the server's own stream, and each of them feeds the buffer."""

from __future__ import annotations

import codecs
import io
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import pytest

from byline.inbound.body import BodyBuffer, BodyDecoder
from byline.inbound.wsgi_input import tee_wsgi_input

BODY = b'{"user": "ada",\n "text": "' + b"x" * 20_000 + b'"}\n'


def wrap(stream: Any, length: int | None = len(BODY)) -> tuple[Any, BodyBuffer]:
    environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "CONTENT_TYPE": "application/json", "wsgi.input": stream}
    if length is not None:
        environ["CONTENT_LENGTH"] = str(length)
    body = tee_wsgi_input(environ, 1 << 20)
    assert body is not None
    return environ["wsgi.input"], body


def buffered() -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(BODY))  # type: ignore[arg-type, unused-ignore]


def user_in(body: BodyBuffer) -> Any:
    return (body.decode(BodyDecoder(["user"])) or {}).get("user")


def read_into(stream: Any) -> bytes:
    data = b""
    chunk = bytearray(4096)
    while count := stream.readinto(chunk):
        data += chunk[:count]
    return data


def read_into_array(stream: Any) -> bytes:
    """A buffer of items that are longer than a byte."""
    from array import array

    chunk = array("I", bytes(4096))
    data = b""
    while count := stream.readinto(chunk):
        data += chunk.tobytes()[:count]
    return data


def read_one(stream: Any) -> bytes:
    return b"".join(iter(stream.read1, b""))


def read_one_sized(stream: Any) -> bytes:
    return b"".join(iter(lambda: stream.read1(1000), b""))


def peek_and_read(stream: Any) -> bytes:
    assert BODY.startswith(stream.peek(10)[:10])
    data: bytes = stream.read()
    return data


def copy_to_file(stream: Any) -> bytes:
    with tempfile.TemporaryFile() as target:
        shutil.copyfileobj(stream, target)
        target.seek(0)
        return target.read()


def wrap_in_text(stream: Any) -> bytes:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    try:
        return text.read().encode()
    finally:
        text.detach()


def wrap_in_buffered_reader(stream: Any) -> bytes:
    reader = io.BufferedReader(stream)
    try:
        return reader.read()
    finally:
        reader.detach()


def read_by_codec(stream: Any) -> bytes:
    text: str = codecs.getreader("utf-8")(stream).read()
    return text.encode()


def call_next(stream: Any) -> bytes:
    return b"".join([next(stream), *stream])


READERS: list[Callable[[Any], bytes]] = [
    read_into,
    read_into_array,
    read_one,
    read_one_sized,
    peek_and_read,
    copy_to_file,
    wrap_in_text,
    wrap_in_buffered_reader,
    read_by_codec,
    call_next,
]


@pytest.mark.parametrize("length", [len(BODY), None])
@pytest.mark.parametrize("read", READERS)
def test_each_way_of_reading_gives_the_app_and_the_buffer_the_whole_body(
    read: Callable[[Any], bytes], length: int | None
) -> None:
    stream, body = wrap(buffered(), length)
    assert read(stream) == BODY
    assert body.is_complete()
    assert user_in(body) == "ada"


def test_attributes_are_those_of_the_wrapped_stream() -> None:
    original = buffered()
    stream, _ = wrap(original)
    assert stream.readable()
    assert not stream.closed
    assert not stream.writable()
    assert stream.seekable()
    assert stream.tell() == 0
    stream.close()
    assert stream.closed
    assert original.closed
    with pytest.raises(ValueError, match="closed"):
        stream.read()


def test_methods_that_the_wrapped_stream_lacks_are_missing() -> None:
    """Such a stream has the four methods of PEP 3333 only; Werkzeug asks for ``readinto``."""

    class Minimal:
        def read(self, size: int = -1) -> bytes:
            return b""

    stream, _ = wrap(Minimal())
    for name in ("readinto", "read1", "peek", "closed", "seek"):
        assert not hasattr(stream, name)


def test_a_body_that_is_read_again_from_its_start_is_buffered_once() -> None:
    stream, body = wrap(buffered(), None)
    assert stream.read(100) == BODY[:100]
    stream.seek(0)
    assert stream.read() == BODY
    assert user_in(body) == "ada"
    stream.seek(0)
    assert stream.read() == BODY
    assert user_in(body) == "ada"


def test_a_whole_body_is_kept_when_the_app_rewinds_the_stream() -> None:
    stream, body = wrap(buffered())
    assert stream.read(len(BODY)) == BODY
    stream.seek(0)
    assert user_in(body) == "ada"


def test_a_body_of_which_the_app_skips_a_part_is_not_read() -> None:
    stream, body = wrap(io.BytesIO(b'{"a": "' + b"x" * 20 + b'", "user": "eve"}'), None)
    stream.read(7)
    stream.seek(20)
    stream.read()
    assert body.is_complete()
    assert user_in(body) is None


def test_a_context_manager_closes_the_wrapped_stream() -> None:
    original = buffered()
    stream, body = wrap(original)
    with stream as opened:
        assert opened.read() == BODY
    assert original.closed
    assert user_in(body) == "ada"
