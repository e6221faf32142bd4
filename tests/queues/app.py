"""An app with one task queue: ``QUEUE`` names the queue, ``REDIS`` the broker, ``DESTINATION`` an OTLP endpoint.

Each task makes an LLM span and reports to Redis who it is for and what its attribution says.
`tests.queues.send` queues the tasks.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import redis
from opentelemetry import trace

import byline
from byline.destinations import OTLP

QUEUE = os.environ["QUEUE"]
REDIS = os.environ["REDIS"]
byline.instrument(destinations=[OTLP(os.environ["DESTINATION"])])
tracer = trace.get_tracer("tests.queues")
store = redis.Redis.from_url(REDIS)


def report(kind: str, user: str | None) -> None:
    """Make an LLM span, and note for whom this task was queued and for whom it runs."""
    tracer.start_span("chat m", attributes={"gen_ai.operation.name": "chat", "for.user": user or ""}).end()
    got = byline.current()
    store.rpush("reports", json.dumps([kind, user, got.user_id, got.session_id]))


def is_first(key: str) -> bool:
    return bool(store.set(key, 1, nx=True))


if QUEUE.startswith("celery"):
    from celery import Celery
    from celery import chain as celery_chain

    if QUEUE == "celery-otel":
        from opentelemetry.instrumentation.celery import CeleryInstrumentor

        CeleryInstrumentor().instrument()
    app = Celery("tests.queues.app", broker=REDIS)
    app.conf.task_ignore_result = True

    @app.task
    def plain(user: str | None, kind: str = "plain") -> None:
        report(kind, user)

    @app.task
    def second(_: Any, user: str) -> None:
        report("chain", user)

    @app.task(bind=True, max_retries=1)
    def retried(self: Any, user: str) -> None:
        report("retried", user)
        if self.request.retries == 0:
            raise self.retry(countdown=0)

    @app.task
    def follow(user: str) -> None:
        report("follow", user)
        plain.delay(user, "follow")

    def send(kind: str, user: str) -> None:
        if kind == "chain":
            celery_chain(plain.s(user, "chain"), second.s(user)).delay()
        else:
            {"plain": plain, "retried": retried, "follow": follow}[kind].delay(user)

    def send_scheduled() -> None:
        plain.delay(None, "scheduled")

elif QUEUE == "rq":
    from rq import Queue, Retry

    queue = Queue(connection=store)

    def plain(user: str | None, kind: str = "plain") -> None:
        report(kind, user)

    def retried(user: str, key: str) -> None:
        report("retried", user)
        if is_first(key):
            raise ValueError(user)

    def follow(user: str, kind: str = "follow") -> None:
        report(kind, user)
        queue.enqueue(plain, user, kind)

    def send(kind: str, user: str) -> None:
        if kind == "retried":
            queue.enqueue(retried, user, f"first {user}", retry=Retry(max=1))
        elif kind == "chain":
            first = queue.enqueue(plain, user, "chain")
            queue.enqueue(plain, user, "chain", depends_on=first)
        else:
            queue.enqueue({"plain": plain, "follow": follow}[kind], user)

    def send_scheduled() -> None:
        queue.enqueue(plain, None, "scheduled")

elif QUEUE == "arq":
    from arq import Retry, create_pool
    from arq.connections import RedisSettings

    async def plain(context: dict[str, Any], user: str | None, kind: str = "plain") -> None:
        report(kind, user)

    async def retried(context: dict[str, Any], user: str) -> None:
        report("retried", user)
        if context["job_try"] == 1:
            raise Retry

    async def follow(context: dict[str, Any], user: str, kind: str = "follow") -> None:
        report(kind, user)
        await context["redis"].enqueue_job("plain", user, kind)

    class WorkerSettings:
        functions = (plain, retried, follow)
        redis_settings = RedisSettings.from_dsn(REDIS)
        poll_delay = 0.02

    async def enqueue(name: str, *arguments: Any) -> None:
        pool = await create_pool(WorkerSettings.redis_settings)
        await pool.enqueue_job(name, *arguments)
        await pool.aclose()

    def send(kind: str, user: str) -> None:
        # Chains are a task that queues the next one.
        asyncio.run(enqueue("follow" if kind == "chain" else kind, user, *(["chain"] if kind == "chain" else [])))

    def send_scheduled() -> None:
        asyncio.run(enqueue("plain", None, "scheduled"))

elif QUEUE == "dramatiq":
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker
    from dramatiq.middleware import AsyncIO

    redis_broker = RedisBroker(url=REDIS)
    redis_broker.add_middleware(AsyncIO())
    dramatiq.set_broker(redis_broker)

    @dramatiq.actor
    def plain(user: str | None, kind: str = "plain") -> None:
        report(kind, user)

    @dramatiq.actor(max_retries=1, min_backoff=1, max_backoff=1)
    def retried(user: str, key: str) -> None:
        report("retried", user)
        if is_first(key):
            raise ValueError(user)

    @dramatiq.actor
    async def follow(user: str) -> None:
        report("follow", user)
        plain.send(user, "follow")

    def send(kind: str, user: str) -> None:
        if kind == "retried":
            retried.send(user, f"first {user}")
        elif kind == "chain":
            dramatiq.pipeline(
                [
                    plain.message(user, "chain"),
                    plain.message_with_options(args=(user, "chain"), pipe_ignore=True),
                ]
            ).run()
        else:
            {"plain": plain, "follow": follow}[kind].send(user)

    def send_scheduled() -> None:
        plain.send(None, "scheduled")

else:
    from taskiq import SimpleRetryMiddleware
    from taskiq_redis import ListQueueBroker

    broker = ListQueueBroker(REDIS).with_middlewares(SimpleRetryMiddleware())

    @broker.task
    async def plain(user: str | None, kind: str = "plain") -> None:
        report(kind, user)

    @broker.task(retry_on_error=True, max_retries=2)
    def retried(user: str, key: str) -> None:
        report("retried", user)
        if is_first(key):
            raise ValueError(user)

    @broker.task
    async def follow(user: str, kind: str = "follow") -> None:
        report(kind, user)
        await plain.kiq(user, kind)

    async def kick(task: Any, *arguments: Any) -> None:
        await broker.startup()
        await task.kiq(*arguments)
        await broker.shutdown()

    def send(kind: str, user: str) -> None:
        if kind == "retried":
            asyncio.run(kick(retried, user, f"first {user}"))
        else:
            task = plain if kind == "plain" else follow
            asyncio.run(kick(task, user, *(["chain"] if kind == "chain" else [])))

    def send_scheduled() -> None:
        asyncio.run(kick(plain, None, "scheduled"))
