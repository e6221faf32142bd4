"""Queues tasks of each kind, from threads with users of their own: ``python -m tests.queues.send COUNT``.

A program of its own, because queues find tasks by the name of their module.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import byline

#: The kinds of tasks, and how many reports come from each: retries report each attempt, others what they queue too.
KINDS: Final = {"plain": 1, "retried": 2, "follow": 2, "chain": 2, "scheduled": 1}


def send_all(number: int) -> None:
    from tests.queues import app

    user = f"user-{number}"
    request = app.tracer.start_as_current_span("request", attributes={"request.of": user})
    with request, byline.bound(user_id=user, session_id=f"of {user}"):
        for kind in KINDS:
            if kind != "scheduled":
                app.send(kind, user)


def main(count: int) -> None:
    from tests.queues import app

    with ThreadPoolExecutor(1 if app.QUEUE in ("arq", "taskiq") else 4) as pool:
        list(pool.map(send_all, range(count)))
    for _ in range(count):
        app.send_scheduled()


if __name__ == "__main__":
    main(int(sys.argv[1]))
