"""Thousands of jobs of interleaved users over every carrier: each gets its own name, none another's."""

from __future__ import annotations

import asyncio
import multiprocessing
import queue
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

import byline
from byline.asgi import AttributionMiddleware
from tests.support import Sent, run_asgi

USERS = [f"user-{number}" for number in range(97)]
Found = tuple[str | None, str | None, str | None]


def who(expected: str | None) -> Found:
    got = byline.current()
    return expected, got.user_id, got.session_id


@pytest.fixture(autouse=True)
def signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYLINE_SIGNING_KEY", "k" * 32)


def requests(count: int) -> Iterator[str | None]:
    """Yield the users of requests, in no order; ``None`` for work outside a request."""
    chosen = random.Random(7)
    for _ in range(count):
        yield chosen.choice([*USERS, None])


def bound(user: str | None) -> byline.bound:
    return byline.bound(user_id=user, session_id=f"of {user}") if user else byline.bound()


def over_threads(count: int) -> list[Found]:
    with ThreadPoolExecutor(8) as pool:
        futures = []
        for user in requests(count):
            with bound(user):
                futures.append(pool.submit(byline.carry(who), user))
        return [future.result() for future in futures]


def over_tasks(count: int) -> list[Found]:
    async def job(user: str | None) -> Found:
        with bound(user):
            await asyncio.sleep(0)
            return await asyncio.get_running_loop().run_in_executor(None, byline.carry(who), user)

    async def run() -> list[Found]:
        return list(await asyncio.gather(*(job(user) for user in requests(count))))

    return asyncio.run(run())


def over_a_queue(count: int) -> list[Found]:
    """The workers are started within a request, as a careless app does."""
    messages: queue.Queue[tuple[dict[str, str], str | None] | None] = queue.Queue()
    found: list[Found] = []

    def work() -> None:
        while (message := messages.get()) is not None:
            with byline.carried(message[0]):
                found.append(who(message[1]))

    with byline.bound(user_id="first", session_id="first"):
        workers = [threading.Thread(target=byline.carry(work)) for _ in range(4)]
        for worker in workers:
            worker.start()
    for user in requests(count):
        headers: dict[str, str] = {}
        with bound(user):
            byline.inject(headers)
        messages.put((headers, user))
    for _ in workers:
        messages.put(None)
    for worker in workers:
        worker.join()
    return found


def over_services(count: int) -> list[Found]:
    """Each request of a service calls another one, whose public endpoint believes signed requests only."""
    found: list[Found] = []

    async def inner_app(scope: object, receive: object, send: object) -> None:
        await asyncio.sleep(0)
        found.append(who(expected[scope["path"]]))  # type: ignore[index]

    inner = AttributionMiddleware(inner_app, public=True)
    expected: dict[str, str | None] = {}

    async def call(number: int, user: str | None) -> None:
        headers = {"x-session-id": "forged", "baggage": "user.id=forged"}
        expected[f"/{number}"] = user
        with bound(user):
            byline.inject(headers)
        await asyncio.sleep(0)
        sent = Sent(b"", headers=list(headers.items()), path=f"/{number}", method="GET")
        await run_asgi(inner, sent)

    async def run() -> None:
        await asyncio.gather(*(call(number, user) for number, user in enumerate(requests(count))))

    asyncio.run(run())
    return found


def over_processes(count: int) -> list[Found]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = []
        for user in requests(count):
            with bound(user):
                futures.append(pool.submit(byline.carry(who), user))
        return [future.result() for future in futures]


CARRIERS: dict[str, tuple[Callable[[int], list[Found]], int]] = {
    "threads": (over_threads, 3000),
    "tasks": (over_tasks, 1000),
    "queue": (over_a_queue, 3000),
    "services": (over_services, 500),
}


def verdicts(found: list[Found]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for expected, user, session in found:
        right = (expected, f"of {expected}" if expected else None)
        counts["right" if (user, session) == right else "none" if user is None and session is None else "wrong"] += 1
    return counts


@pytest.mark.parametrize("carrier", CARRIERS)
def test_every_job_has_its_own_user(carrier: str) -> None:
    run, count = CARRIERS[carrier]
    assert verdicts(run(count)) == {"right": count}


@pytest.mark.integration
def test_every_job_in_another_process_has_its_own_user() -> None:
    assert verdicts(over_processes(1000)) == {"right": 1000}
