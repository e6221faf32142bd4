"""Hooks, wrappers and habits of apps and other libraries work as without byline."""

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


def test_response_of_requests_may_be_referenced_by_its_iterator_only(gateway: Gateway, finished: Finished) -> None:
    """As in ``for chunk in requests.post(...).iter_content()``."""
    chunks = list(requests.post(url_of(gateway), json=STREAM, stream=True).iter_content(50))
    assert b"".join(chunks).endswith(b"data: [DONE]\n\n")
    assert len(finished()) == 1
    with pytest.raises(TypeError):
        requests.post(url_of(gateway), json=STREAM, stream=True).iter_content("x")  # type: ignore[arg-type]


def test_session_of_requests_with_stream_set_streams(gateway: Gateway) -> None:
    """The response is returned before its body has arrived."""
    gateway.hold(after=1)
    with requests.Session() as session:
        session.stream = True
        answer = session.send(session.prepare_request(requests.Request("POST", url_of(gateway), json=STREAM)))
        assert not answer._content_consumed  # type: ignore[attr-defined]
        gateway.release()
        assert answer.content.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("module", [httpx, httpx2, requests])
def test_wrapper_of_another_library_is_called_as_before(
    module: Any, provider: TracerProvider, finished: Finished
) -> None:
    """The wrapper gets the client as its instance."""
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


def test_body_iterator_is_not_asked_again_after_its_end(provider: TracerProvider, finished: Finished) -> None:
    """An iterator over a queue would block forever."""
    requested: list[int] = []

    class Queued:
        def __init__(self) -> None:
            self.waiting: queue.Queue[bytes | None] = queue.Queue()
            for chunk in (b'data: {"id":"c-1"}\n\n', None):
                self.waiting.put(chunk)

        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            requested.append(1)
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
    assert len(requested) == 2
    assert (finished()[0].attributes or {})["gen_ai.response.id"] == "c-1"


class KeyAuth(httpx2.Auth):
    """Sets a header when the request is sent."""

    def auth_flow(self, request: httpx2.Request) -> Iterator[httpx2.Request]:  # type: ignore[override]
        request.headers["authorization"] = "Bearer of-auth"
        yield request


def test_headers_of_hooks_and_authentication_stay_on_the_request(gateway: Gateway) -> None:
    """Only byline's own headers are removed from the request."""

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
def test_ids_are_removed_from_all_requests_of_a_redirect(follow: bool, gateway: Gateway) -> None:
    """An app may send any of them again on behalf of another user."""
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


def test_prepared_request_can_be_sent_again_for_another_user(gateway: Gateway) -> None:
    """Each sending has the ids of its own request context."""
    with requests.Session() as session:
        prepared = session.prepare_request(requests.Request("POST", url_of(gateway), json=CHAT))
        before = (dict(prepared.headers), prepared.body)
        for user in ("ada", "bob"):
            with byline.bound(session_id=f"session-{user}", user_id=user):
                session.send(prepared)
            assert (dict(prepared.headers), prepared.body) == before
    assert [json.loads(sent.body)["user"] for sent in gateway.requests] == ["ada", "bob"]


@pytest.mark.parametrize("client", ["requests", "urllib3"])
def test_request_that_a_hook_sends_keeps_its_own_headers(client: str, gateway: Gateway) -> None:
    """As a hook that posts to an audit log."""
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
def test_invalid_urls_raise_the_error_of_the_client(url: str) -> None:
    """Byline raises no error of its own."""
    with urllib3.PoolManager() as pool, pytest.raises(urllib3.exceptions.LocationParseError):
        pool.request("POST", url)
    with pytest.raises(requests.exceptions.InvalidURL):
        requests.post(url)


def test_stream_read_in_another_thread_belongs_to_its_request(gateway: Gateway, finished: Finished) -> None:
    """The request context is that of the thread that sent the request."""
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
def test_stream_may_be_collected_while_a_lock_is_held(module: Any, gateway: Gateway, finished: Finished) -> None:
    """Its LLM request ends with the next call of byline, not during the collection."""
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


def test_stream_may_be_copied_and_inspected(gateway: Gateway) -> None:
    """Debuggers and mocks do so."""
    with httpx2.Client() as client, client.stream("POST", url_of(gateway), json=STREAM) as response:
        copied = copy.copy(response.stream)
        assert not hasattr(copied, "nothing_of_that_name")
        response.read()
    del copied
    assert response.elapsed
