"""``byline gateway``: the testing gateway by itself, against which the examples run."""

from __future__ import annotations

import threading

from byline.testing import Gateway


def run(port: int) -> int:
    """Serve until Ctrl-C."""
    with Gateway(port) as gateway:
        print(f"export OPENAI_BASE_URL={gateway.base_url} OPENAI_API_KEY=testing", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return 0
    return 0
