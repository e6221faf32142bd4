"""Counts byline's functions between a request and its exported span: ``python -m tests.walk``.

One POST with ``x-session-id`` reaches an ASGI app, the app makes one LLM span below its server span, and that LLM span
arrives at a Langfuse destination with ``session.id``. The calls of byline's functions on the way are counted on all
threads. The same request is sent once before, because imports and caches are not part of the way.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

from opentelemetry import trace

import byline
from byline.asgi import AttributionMiddleware
from byline.destinations import Langfuse
from byline.testing import Receiver
from tests.support import claim, run_asgi

_PACKAGE: Final = f"{Path(byline.__file__).parent}/"
#: No functions: modules that are imported late, and comprehensions, which Python 3.12 inlines.
_NO_FUNCTIONS: Final = {"<module>", "<listcomp>", "<setcomp>", "<dictcomp>"}
_CHAT: Final[dict[str, str | int]] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.usage.input_tokens": 3,
    "gen_ai.usage.output_tokens": 5,
}


class Walk(NamedTuple):
    """The calls of byline's functions: in order on each thread, one thread after the other."""

    calls: list[CodeType]

    @property
    def functions(self) -> dict[str, set[str]]:
        """The names of the called functions of each file."""
        found: dict[str, set[str]] = {}
        for code in self.calls:
            found.setdefault(code.co_filename, set()).add(f"{code.co_name}:{code.co_firstlineno}")
        return found

    def __str__(self) -> str:
        functions = self.functions
        pairs = zip(self.calls, self.calls[1:], strict=False)
        changes = sum(one.co_filename != other.co_filename for one, other in pairs)
        count = sum(map(len, functions.values()))
        return f"{len(self.calls)} calls of {count} functions in {len(functions)} files, {changes} changes of file"


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    trace.get_tracer("tests.walk").start_span("chat gpt-4o", attributes=_CHAT).end()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def _is_counted(code: CodeType) -> bool:
    # The receiver, of byline.testing, runs in this process too.
    ours = code.co_filename.startswith(_PACKAGE) and not code.co_filename.startswith(f"{_PACKAGE}testing/")
    return ours and code.co_name not in _NO_FUNCTIONS


@contextmanager
def _profiled(profile: Any) -> Iterator[None]:
    """Profile this thread and each thread that starts within the block."""
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def walk() -> Walk:
    """Return the calls between a request and its exported span."""
    by_thread: dict[int, list[CodeType]] = {}
    recording = False

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if recording and event == "call" and _is_counted(code):
            by_thread.setdefault(threading.get_ident(), []).append(code)

    app = AttributionMiddleware(_app)
    with Receiver() as receiver, _profiled(profile):
        byline.instrument(destinations=[Langfuse("pk-lf-1", "sk-lf-1", receiver.url)], clients=())
        for recording in (False, True):
            receiver.clear()
            request = claim(headers=[("x-session-id", f"recorded-{recording}")])
            run = asyncio.run(run_asgi(app, request))
            assert (run.status, byline.flush()) == (200, True)
        recording = False
        byline.uninstrument()
        assert [span.attributes["session.id"] for span in receiver.spans] == ["recorded-True"]
    return Walk([code for calls in by_thread.values() for code in calls])


def main() -> None:
    """Print the figures, then the called functions of each file."""
    found = walk()
    print(found)
    calls = Counter(code.co_filename for code in found.calls)
    for path, functions in sorted(found.functions.items()):
        print(f"{calls[path]:5} {path.removeprefix(_PACKAGE)}: {', '.join(sorted(functions))}")


if __name__ == "__main__":
    main()
