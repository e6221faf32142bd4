"""byline stays out of the way of what apps, hooks and other libraries do with their clients."""

from __future__ import annotations

import copy
import gc
import json
import queue
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import httpx2
import pytest
import requests
import urllib3
import wrapt
from opentelemetry.sdk.trace import TracerProvider

import byline
from byline import http
from byline.genai.call_results import results
from byline.testing import Gateway
from tests.http.conftest import Finished

CHAT: Any = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "Who wrote this?"}]}
STREAM: Any = {**CHAT, "stream": True}


def url_of(gateway: Gateway) -> str:
    return f"{gateway.base_url}/chat/completions"


def test_a_response_of_requests_may_be_held_by_its_iterator_alone(gateway: Gateway, finished: Finished) -> None:
    """The most usual way to stream with it."""
    chunks = list(requests.post(url_of(gateway), json=STREAM, stream=True).iter_content(50))
    assert b"".join(chunks).endswith(b"data: [DONE]\n\n")
    assert len(finished()) == 1
    with pytest.raises(TypeError):
        requests.post(url_of(gateway), json=STREAM, stream=True).iter_content("x")  # type: ignore[arg-type]


def test_a_session_of_requests_that_streams_by_default_streams(gateway: Gateway) -> None:
    """The answer is there before its body is."""
    gateway.hold(after=1)
    with requests.Session() as session:
        session.stream = True
        answer = session.send(session.prepare_request(requests.Request("POST", url_of(gateway), json=STREAM)))
        assert not answer._content_consumed  # type: ignore[attr-defined]
        gateway.release()
        assert answer.content.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("module", [httpx, httpx2, requests])
def test_what_another_library_has_wrapped_is_called_as_before(
    module: Any, provider: TracerProvider, finished: Finished
) -> None:
    """Its wrapper is told which client it is."""
    owner: Any = module.Session if module is requests else module.Client
    seen: list[Any] = []

    def wrapper(wrapped: Any, instance: Any, arguments: Any, options: Any) -> Any:
        seen.append((type(instance), arguments[0].method))
        return wrapped(*arguments, **options)

    before = owner.__dict__["send"]
    owner.send = wrapt.FunctionWrapper(before, wrapper)
    try:
        http.install(tracer_provider=provider, gateways=[], clients="auto", llm_spans="auto", capture_content=False)
        with Gateway() as gateway, owner() as client:
            assert client.get(f"{gateway.base_url}/models").status_code == 200
            assert client.post(url_of(gateway), json=CHAT).status_code == 200
    finally:
        http.uninstall()
        owner.send = before
    assert seen == [(owner, "GET"), (owner, "POST")]
    assert len(finished()) == 1


def test_a_body_is_not_asked_for_more_once_it_has_ended(provider: TracerProvider, finished: Finished) -> None:
    """An iterator over a queue would wait for ever."""
    asked: list[int] = []

    class Queued:
        def __init__(self) -> None:
            self.waiting: queue.Queue[bytes | None] = queue.Queue()
            for chunk in (b'data: {"id":"c-1"}\n\n', None):
                self.waiting.put(chunk)

        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            asked.append(1)
            chunk = self.waiting.get(timeout=0)
            if chunk is None:
                raise StopIteration
            return chunk

    class Stream(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            return Queued()

    http.install(tracer_provider=provider, gateways=[], clients="auto", llm_spans="auto", capture_content=False)
    try:
        transport = httpx2.MockTransport(
            lambda _: httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Stream())
        )
        with (
            httpx2.Client(transport=transport) as client,
            client.stream("POST", "https://api.openai.com/v1/chat/completions", json=STREAM) as response,
        ):
            assert len(list(response.iter_raw())) == 1
    finally:
        http.uninstall()
    assert len(asked) == 2
    assert (finished()[0].attributes or {})["gen_ai.response.id"] == "c-1"


class KeyAuth(httpx2.Auth):
    """Sets a header as the request is sent."""

    def auth_flow(self, request: httpx2.Request) -> Iterator[httpx2.Request]:  # type: ignore[override]
        request.headers["authorization"] = "Bearer of-auth"
        yield request


def test_what_hooks_and_authentication_set_on_a_request_stays(gateway: Gateway) -> None:
    """What byline wrote goes, and nothing else."""

    def hook(request: Any) -> None:
        request.headers["x-hook"] = "on"

    with httpx2.Client(auth=KeyAuth(), event_hooks={"request": [hook]}) as client, byline.bound(session_id="s-1"):
        sent = client.post(url_of(gateway), json=CHAT).request
    assert gateway.requests[0].headers["x-session-id"] == "s-1"
    assert sent.headers["authorization"] == "Bearer of-auth"
    assert sent.headers["x-hook"] == "on"
    assert "x-session-id" not in sent.headers
    assert not sent.extensions.get("byline.call")


@pytest.mark.parametrize("follow", [True, False])
def test_the_requests_of_a_redirect_are_given_back_too(follow: bool, gateway: Gateway) -> None:
    """All of them, for an app may send any of them again on behalf of somebody else."""
    gateway.answer(b"", status=307, headers={"location": url_of(gateway)})
    with httpx2.Client(follow_redirects=follow) as client, byline.bound(session_id="s-1", user_id="ada"):
        answer = client.post(url_of(gateway), json=CHAT)
    requests_ = [answer.request, answer.next_request, *(hop.request for hop in answer.history)]
    for request in [each for each in requests_ if each is not None]:
        assert "x-session-id" not in request.headers
        assert isinstance(request.stream, httpx2.SyncByteStream)
        body = b"".join(request.stream)
        assert json.loads(body) == CHAT
        assert request.headers["content-length"] == str(len(body))
        assert "byline.call" not in request.extensions
    assert all(json.loads(sent.body)["user"] == "ada" for sent in gateway.requests)


def test_a_prepared_request_that_is_sent_again_is_the_apps_own(gateway: Gateway) -> None:
    """On behalf of somebody else it says somebody else."""
    with requests.Session() as session:
        prepared = session.prepare_request(requests.Request("POST", url_of(gateway), json=CHAT))
        before = (dict(prepared.headers), prepared.body)
        for user in ("ada", "bob"):
            with byline.bound(session_id=f"session-{user}", user_id=user):
                session.send(prepared)
            assert (dict(prepared.headers), prepared.body) == before
    assert [json.loads(sent.body)["user"] for sent in gateway.requests] == ["ada", "bob"]


@pytest.mark.parametrize("client", ["requests", "urllib3"])
def test_a_request_made_in_the_midst_of_a_call_keeps_its_own_headers(client: str, gateway: Gateway) -> None:
    """As by a hook that tells an audit log."""
    own = {"x-session-id": "mine"}
    with Gateway() as audit, byline.bound(session_id="s-1"):
        if client == "requests":

            def hook(answer: Any, **_: Any) -> None:
                requests.post(f"{audit.url}/log", json={}, headers=own)

            requests.post(url_of(gateway), json=CHAT, hooks={"response": hook})
        else:

            class Retry(urllib3.Retry):
                def is_retry(self, *_: Any, **__: Any) -> bool:
                    pool.request("POST", f"{audit.url}/log", json={}, headers=own, retries=False)
                    return False

            pool = urllib3.PoolManager()
            pool.request("POST", url_of(gateway), json=CHAT, retries=Retry(3))
            pool.clear()
        assert audit.requests[0].headers["x-session-id"] == "mine"
    assert gateway.requests[0].headers["x-session-id"] == "s-1"


@pytest.mark.parametrize("url", ["http://h:99999/", "http://[::1/", "http://h:abc/"])
@pytest.mark.usefixtures("gateway")
def test_odd_urls_are_refused_as_ever(url: str) -> None:
    """By the client, with its own errors."""
    with urllib3.PoolManager() as pool, pytest.raises(urllib3.exceptions.LocationParseError):
        pool.request("POST", url)
    with pytest.raises(requests.exceptions.InvalidURL):
        requests.post(url)


def test_a_stream_that_is_read_in_another_thread_counts_for_its_request(gateway: Gateway, finished: Finished) -> None:
    """Wherever it is closed."""
    with byline.bound(session_id="s-1"), httpx2.Client() as client:
        request = client.build_request("POST", url_of(gateway), json=STREAM)
        response = client.send(request, stream=True)
        reader = threading.Thread(target=response.read)
        reader.start()
        reader.join()
        response.close()
        response.close()
    (span,) = finished()
    assert (span.attributes or {})["session.id"] == "s-1"
    assert (span.attributes or {})["gen_ai.usage.output_tokens"]


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_a_stream_may_be_collected_in_the_midst_of_byline(module: Any, gateway: Gateway, finished: Finished) -> None:
    """Its call ends as soon as byline next does something, and never while a lock is held."""
    client = module.Client()
    with byline.bound(session_id="s-1"):
        client.send(client.build_request("POST", url_of(gateway), json=STREAM), stream=True)
    with results._lock:
        gc.collect()
    assert not finished()
    assert byline.stats()["calls"]
    (span,) = finished()
    assert (span.attributes or {})["session.id"] == "s-1"
    client.close()


def test_a_stream_may_be_copied_and_looked_into(gateway: Gateway) -> None:
    """As debuggers and mocks do."""
    with httpx2.Client() as client, client.stream("POST", url_of(gateway), json=STREAM) as response:
        copied = copy.copy(response.stream)
        assert not hasattr(copied, "nothing_of_that_name")
        response.read()
    del copied
    assert response.elapsed
