"""OpenRouter's status of a key: asked for in the background, and never in a call's way."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.trace import ReadableSpan

from byline import internal_metrics, testing
from byline.gateways import OpenRouter, keys
from byline.gateways.keys import KeyStatus, Status, hash_key
from byline.testing.server import Handler, Request
from tests.gateways.conftest import Watching

Finished = Callable[[], Sequence[ReadableSpan]]
KEY = "sk-or-v1-0123456789abcdef"
CHAT: Any = {"model": "m", "messages": [{"role": "user", "content": "Who?"}]}
KNOWN = Status(1.5, 10.0, "monthly")


class Slow(testing.Gateway):
    """Answers for keys only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Event()

    def respond(self, request: Request, handler: Handler) -> None:
        if request.method == "GET":
            self.let.wait(10)
        super().respond(request, handler)


@pytest.fixture
def slow() -> Iterator[Slow]:
    with Slow() as running:
        yield running
        running.let.set()


def ask(base_url: str, key: str | None = KEY) -> None:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    with httpx2.Client(verify=False) as client:
        client.post(f"{base_url}/chat/completions", json=CHAT, headers=headers)


def wait_for(gateway: OpenRouter, status: Status, key: str = KEY) -> None:
    assert gateway.key_status is not None
    deadline = time.monotonic() + 10
    while gateway.key_status.status_of(hash_key(key)) != status and time.monotonic() < deadline:
        time.sleep(0.005)
    assert gateway.key_status.status_of(hash_key(key)) == status


def told(span: ReadableSpan) -> dict[str, Any]:
    attributes = span.attributes or {}
    names = ("byline.gateway.key.spend", "byline.gateway.key.budget", "byline.gateway.key.budget_reset")
    return {name.rpartition(".")[2]: attributes[name] for name in names if name in attributes}


def test_calls_have_the_key_status_known_so_far(slow: Slow, watching: Watching, finished: Finished) -> None:
    """The first one waits for nothing; once the answer is there, the next ones have it."""
    gateway = OpenRouter(slow.base_url, key_status=True)
    with watching(gateway):
        ask(slow.base_url)
        slow.let.set()
        wait_for(gateway, KNOWN)
        ask(slow.base_url)
    first, second = finished()
    assert told(first) == {}
    assert told(second) == {"spend": 1.5, "budget": 10.0, "budget_reset": "monthly"}


def test_key_status_is_requested_once_for_many_calls(server: testing.Gateway, watching: Watching) -> None:
    """With the key of the call, and nothing of the request's."""
    gateway = OpenRouter(server.base_url, key_status=True)
    with watching(gateway):
        ask(server.base_url)
        wait_for(gateway, KNOWN)
        for _ in range(3):
            ask(server.base_url)
    (asked,) = [request for request in server.requests if request.method == "GET"]
    assert asked.path == "/api/v1/key"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.body == b""
    assert "x-session-id" not in asked.headers


def test_key_status_is_kept_per_key(server: testing.Gateway, watching: Watching) -> None:
    gateway = OpenRouter(server.base_url, key_status=True)
    with watching(gateway):
        for key in ("sk-a", "sk-b", None):
            ask(server.base_url, key)
        wait_for(gateway, KNOWN, "sk-a")
        wait_for(gateway, KNOWN, "sk-b")
    asked = [request.headers["authorization"] for request in server.requests if request.method == "GET"]
    assert sorted(asked) == ["Bearer sk-a", "Bearer sk-b"]


def test_old_key_status_is_requested_again(server: testing.Gateway) -> None:
    status = KeyStatus("openrouter", f"{server.base_url}/key", seconds=0.0)
    for count in (1, 2):
        status.refresh(KEY)
        server.wait_for(count)
        deadline = time.monotonic() + 10
        while status._lookups and time.monotonic() < deadline:
            time.sleep(0.005)
    assert status.status_of(hash_key(KEY)) == KNOWN


@pytest.mark.integration
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_process_asks_for_itself(slow: Slow) -> None:
    """The request of the parent at the fork gets no response here, and no lock stays held."""
    status = KeyStatus("openrouter", f"{slow.base_url}/key")
    status.refresh(KEY)
    slow.wait_for(1)
    keys._lock.acquire()
    child = os.fork()
    if child == 0:
        asking = threading.Thread(target=status.refresh, args=(KEY,), daemon=True)
        asking.start()
        asking.join(20)
        os._exit(int(asking.is_alive() or not status._lookups[hash_key(KEY)].is_alive()))
    keys._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_key_status_is_off_by_default(server: testing.Gateway, watching: Watching) -> None:
    with watching(OpenRouter(server.base_url)):
        ask(server.base_url)
    assert [request.method for request in server.requests] == ["POST"]


@pytest.mark.parametrize(
    "answer", [b"no JSON", b"[]", b'{"data": 1}', b'{"data": {"usage": "x", "limit": -1, "limit_reset": 5}}', b"{}"]
)
def test_malformed_key_status_is_ignored(answer: bytes, watching: Watching, finished: Finished) -> None:
    class Odd(testing.Gateway):
        def respond(self, request: Request, handler: Handler) -> None:
            if request.method == "GET":
                handler.reply(200, answer, {})
            else:
                super().respond(request, handler)

    with Odd() as odd:
        gateway = OpenRouter(odd.base_url, key_status=True)
        with watching(gateway):
            ask(odd.base_url)
            odd.wait_for(2)
            wait_for(gateway, Status())
            ask(odd.base_url)
    assert told(finished()[1]) == {}


def test_failure_is_counted_and_the_key_is_in_no_log(
    watching: Watching, caplog: pytest.LogCaptureFixture, finished: Finished
) -> None:
    """Nor is anything that the server says."""

    class Refusing(testing.Gateway):
        def respond(self, request: Request, handler: Handler) -> None:
            if request.method == "GET":
                handler.reply(401, f"unknown key {KEY}".encode(), {})
            else:
                super().respond(request, handler)

    caplog.set_level(logging.DEBUG)
    with Refusing() as refusing:
        gateway = OpenRouter(refusing.base_url, key_status=True)
        with watching(gateway):
            ask(refusing.base_url)
            deadline = time.monotonic() + 10
            while not internal_metrics.counter_values().get("key_status.errors") and time.monotonic() < deadline:
                time.sleep(0.005)
            ask(refusing.base_url)
    assert internal_metrics.counter_values()["key_status.errors"] == 1
    assert "openrouter: the status of an API key could not be fetched: HTTPError" in caplog.text
    assert KEY not in caplog.text
    assert KEY not in repr(vars(gateway.key_status))
    assert not [span for span in finished() if KEY in str(span.attributes)]


def test_the_key_does_not_follow_a_redirect(server: testing.Gateway, watching: Watching) -> None:
    """Python's own client would take it along."""

    class Leading(testing.Gateway):
        def respond(self, request: Request, handler: Handler) -> None:
            if request.method == "GET":
                handler.reply(302, b"", {"location": f"{server.base_url}/key"})
            else:
                super().respond(request, handler)

    with Leading() as leading, watching(OpenRouter(leading.base_url, key_status=True)):
        ask(leading.base_url)
        leading.wait_for(2)
        deadline = time.monotonic() + 10
        while not internal_metrics.counter_values().get("key_status.errors") and time.monotonic() < deadline:
            time.sleep(0.005)
    assert internal_metrics.counter_values()["key_status.errors"] == 1
    assert server.requests == []


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        (None, "https://openrouter.ai/api/v1/key"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1/key"),
        ("https://llm.internal/or/api/v1/", "https://llm.internal/or/api/v1/key"),
        ("http://llm.internal:8080", "http://llm.internal:8080/api/v1/key"),
    ],
)
def test_url_of_the_key_status(base_url: str | None, url: str) -> None:
    status = OpenRouter(base_url, key_status=True).key_status
    assert status is not None
    assert status.url == url
