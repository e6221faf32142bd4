"""A process that makes spans and says what it has made safe; run by the tests of the spool, and killed by them.

Run as ``python -m tests.export.spooling_app URL SPOOL FIRST COUNT HOW``: with ``stay`` it waits to be killed,
with ``end`` it ends, and with ``go-on`` it makes spans and says so until it is killed.
"""

from __future__ import annotations

import itertools
import sys
import time
from typing import Any

from byline.export import OTLP
from tests.export.support import App


def main(url: str, spool: str, first: int, count: int, how: str) -> None:
    destination = OTLP(url, spool=spool, spans="llm")
    feed: Any = destination.processor()
    app = App(destination)

    def make(numbers: range) -> None:
        for number in numbers:
            with app.request(session_id=f"s-{number}"):
                app.chat(f"chat {number}")
        feed.force_flush()
        print(numbers.stop, flush=True)

    make(range(first, first + count))
    if how == "stay":
        time.sleep(600)
    if how == "go-on":
        for start in itertools.count(first + count, count):
            make(range(start, start + count))
    destination.flush()
    app.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
