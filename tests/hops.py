"""Jobs of interleaved users over every carrier, and whose each of them was.

``python -m tests.hops --count 100000`` runs that many in all, with real task queues, brokers, servers and MCP sessions,
and prints for each carrier how many jobs had the right attribution, a wrong one, and none, or were not run in time.
``--only threads,rq`` runs some carriers. Needs the package index, redis-server and uvicorn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import byline
from byline.asgi import AttributionMiddleware
from tests.support import Sent, run_asgi

USERS = [f"user-{number}" for number in range(97)]
Found = tuple[str | None, str | None, str | None]


def who(expected: str | None) -> Found:
    got = byline.current()
    return expected, got.user_id, got.session_id


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


def over_http(count: int) -> list[Found]:
    """Two servers: requests of a public endpoint to the other one, which `propagate_to` names, with shared clients."""
    import httpx
    from opentelemetry.sdk.trace import TracerProvider

    from tests.mcp.hops import served

    async def app(scope: dict[str, object], receive: object, send: Callable[..., object]) -> None:
        if scope["type"] != "http":
            return
        user = str(scope["path"]).removeprefix("/")
        content = json.dumps(who(user if user != "-" else None)).encode()
        length = (b"content-length", str(len(content)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})  # type: ignore[misc]
        await send({"type": "http.response.body", "body": content})  # type: ignore[misc]

    byline.instrument(
        tracer_provider=TracerProvider(), destinations=[], propagate_to=["127.0.0.1"], queues=(), threads=False
    )
    try:
        with (
            served(AttributionMiddleware(app, public=True)) as port,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=120) as client,
            ThreadPoolExecutor(8) as pool,
        ):

            def call(user: str | None) -> Found:
                with bound(user):
                    found = client.get(f"/{user or '-'}", headers={"x-session-id": "forged"}).json()
                return (found[0], found[1], found[2])

            return list(pool.map(call, requests(count)))
    finally:
        byline.uninstrument()


def verdicts(found: list[Found]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for expected, user, session in found:
        right = (expected, f"of {expected}" if expected else None)
        counts["right" if (user, session) == right else "none" if user is None and session is None else "wrong"] += 1
    return counts


def over_task_queue(name: str) -> Callable[[int], Counter[str]]:
    """Return a function that queues tasks of all kinds; each makes eight reports from five tasks."""

    def run(count: int) -> Counter[str]:
        from tests.queues.send import KINDS
        from tests.queues.test_queues import redis_server, run_tasks

        with tempfile.TemporaryDirectory() as folder, redis_server() as url:
            number = max(1, count // 8)
            reports, spans, _ = run_tasks(name, url, number, Path(folder))
        counts = verdicts([(expected, user, session) for _, expected, user, session in reports])
        wrong = [span for span in spans if span.attributes.get("for.user", "") != span.attributes.get("user.id", "")]
        counts["wrong"] += len(wrong)
        counts["not run"] = number * sum(KINDS.values()) - len(reports)
        return counts

    return run


def over_mcp(sdk: str) -> Callable[[int], Counter[str]]:
    """Return a function that shares sessions with servers over several transports."""

    def run(count: int) -> Counter[str]:
        from tests.matrix import environments
        from tests.mcp.test_mcp import SERVERS, environment_of

        attributed = [name for name, (is_attributed, _) in SERVERS.items() if is_attributed]
        command = [str(environment_of(sdk)), "-m", "tests.mcp.hops", str(max(1, count // len(attributed))), *attributed]
        env = {**os.environ, "SDK": sdk.partition("-")[0]}
        done = subprocess.run(command, cwd=environments.ROOT, env=env, capture_output=True, text=True, check=True)
        counts: Counter[str] = Counter()
        for line in done.stdout.splitlines():
            if line.startswith("["):
                found = json.loads(line)[1]
                counts.update({name: found.get(name, 0) for name in ("right", "wrong", "none")})
        return counts

    return run


def _count(run: Callable[[int], list[Found]]) -> Callable[[int], Counter[str]]:
    return lambda count: verdicts(run(count))


#: Carrier → how it runs, and its share of the jobs in 1,000.
CARRIERS: dict[str, tuple[Callable[[int], Counter[str]], int]] = {
    "threads": (_count(over_threads), 200),
    "tasks": (_count(over_tasks), 150),
    "queue": (_count(over_a_queue), 200),
    "processes": (_count(over_processes), 100),
    "services": (_count(over_services), 100),
    "http": (_count(over_http), 50),
    "celery": (over_task_queue("celery"), 28),
    "celery-threads": (over_task_queue("celery-threads"), 24),
    "celery-otel": (over_task_queue("celery-otel"), 24),
    "rq": (over_task_queue("rq"), 16),
    "arq": (over_task_queue("arq"), 16),
    "dramatiq": (over_task_queue("dramatiq"), 24),
    "taskiq": (over_task_queue("taskiq"), 16),
    "mcp-1.30.0": (over_mcp("mcp-1.30.0"), 14),
    "mcp-2.3.0": (over_mcp("mcp-2.3.0"), 14),
    "fastmcp-3.4.11": (over_mcp("fastmcp-3.4.11"), 12),
    "fastmcp-4.2.3": (over_mcp("fastmcp-4.2.3"), 12),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    os.environ["BYLINE_SIGNING_KEY"] = "k" * 32
    total: Counter[str] = Counter()
    print("| carrier | jobs | right | wrong | none | not run | s |\n|---|---|---|---|---|---|---|", flush=True)
    for name, (run, share) in CARRIERS.items():
        if options.only and name not in options.only.split(","):
            continue
        begin = time.monotonic()
        counts = run(options.count * share // 1000)
        total.update(counts)
        _print_row(name, counts, time.monotonic() - begin)
    _print_row("all", total, 0)
    sys.exit(bool(total["wrong"]))


def _print_row(name: str, counts: Counter[str], seconds: float) -> None:
    jobs = counts.total()
    row = [
        name,
        f"{jobs:,}",
        *(f"{counts[verdict]:,}" for verdict in ("right", "wrong", "none", "not run")),
        f"{seconds:.0f}",
    ]
    print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
