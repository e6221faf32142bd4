"""A process that makes spans and says what it has made; run by the tests of the spool, and killed by them."""

from __future__ import annotations

import sys
import time

from byline.export import OTLP
from tests.export.support import App


def main(url: str, spool: str, first: int, count: int) -> None:
    destination = OTLP(url, spool=spool, spans="llm")
    app = App(destination)
    for number in range(first, first + count):
        with app.request(session_id=f"s-{number}"):
            app.chat(f"chat {number}")
    destination.flush(1.0)
    print("flushed", flush=True)
    if first == 0:
        # Until it is killed.
        time.sleep(600)
    destination.flush()
    app.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
