"""``byline gateway``: the testing gateway by itself, against which the examples run."""

from __future__ import annotations

import signal
import threading

from byline.testing import Gateway


def run(port: int) -> int:
    """Print how to reach it, and serve until Ctrl-C or a request to terminate."""
    ended = threading.Event()
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Gateway(port) as gateway:
            print(f"export OPENAI_BASE_URL={gateway.base_url} OPENAI_API_KEY=testing", flush=True)
            ended.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0
