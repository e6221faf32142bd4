"""Every gateway configured at once, and a spy on other names: nothing of byline's reaches it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest
import requests

import byline
from byline import testing
from byline.gateways import ALL, AzureAPIM, Gateway
from byline.gateways import Anthropic as AnthropicAPI
from byline.gateways import OpenAI as OpenAIAPI
from tests.gateways.conftest import Watching

KNOWN: dict[str, Any] = {
    "session_id": "spied-session",
    "user_id": "spied-user",
    "trace_name": "spied-trace",
    "span_name": "spied-step",
    "generation_name": "spied-generation",
    "environment": "spied-environment",
    "release": "spied-release",
    "tags": ["spied-tag"],
    "metadata": {"spied_key": "spied-value"},
    "organization_id": "spied-organization",
}
#: Members that providers accept only on request, and headers that only an operator knows.
ASKED: dict[type[Gateway], dict[str, Any]] = {
    OpenAIAPI: {"safety_identifier": True},
    AnthropicAPI: {"user_id": True},
    AzureAPIM: {"session_header": "x-policy-session", "user_header": "x-policy-user"},
}
PATHS = ["/chat/completions", "/responses", "/messages", "/embeddings"]
#: The path for each gateway: Anthropic's ids go into messages only.
CALLED = [(made.name, "/messages" if made is AnthropicAPI else "/chat/completions") for made in ALL]
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Who? ü"}], "input": "x"}).encode()
HEADERS = {"content-type": "application/json", "authorization": "Bearer k", "accept": "*/*", "user-agent": "app"}


def with_httpx(url: str) -> None:
    with httpx.Client(follow_redirects=True, verify=False) as client:
        client.post(url, content=BODY, headers=HEADERS)


def with_httpx2(url: str) -> None:
    with httpx2.Client(follow_redirects=True, verify=False) as client:
        client.post(url, content=BODY, headers=HEADERS)


def with_async_httpx2(url: str) -> None:
    async def post() -> None:
        async with httpx2.AsyncClient(follow_redirects=True, verify=False) as client:
            await client.post(url, content=BODY, headers=HEADERS)

    asyncio.run(post())


def with_requests(url: str) -> None:
    with requests.Session() as session:
        session.post(url, data=BODY, headers=HEADERS)


def with_aiohttp(url: str) -> None:
    async def post() -> None:
        async with aiohttp.ClientSession() as session, session.post(url, data=BODY, headers=HEADERS) as answer:
            await answer.read()

    asyncio.run(post())


CLIENTS: list[Callable[[str], None]] = [with_httpx, with_httpx2, with_async_httpx2, with_requests, with_aiohttp]
clients = pytest.mark.parametrize("send", CLIENTS, ids=lambda send: send.__name__)


@pytest.fixture
def spy() -> Iterator[testing.Gateway]:
    with testing.Gateway() as running:
        yield running


def all_at(url: str) -> list[Gateway]:
    """Every gateway, each below a path of its own."""
    return [made(f"{url}/{made.name}", **ASKED.get(made, {})) for made in ALL]


def views(requests: list[testing.Request]) -> list[tuple[Any, ...]]:
    """The received request in a form that can be compared."""
    return [(request.method, request.path, request.headers, request.body) for request in requests]


@clients
def test_nothing_leaves_to_other_names(
    send: Callable[[str], None], server: testing.Gateway, spy: testing.Gateway, watching: Watching
) -> None:
    """Neither another port, nor another name of the same host, nor another path of the same origin."""
    others = [
        f"{base}{path}"
        for base in (
            spy.url,
            f"{spy.url}/openrouter",
            f"http://localhost:{spy.port}/litellm",
            f"{server.url}/other",
            f"{server.url}/litellmx",
            server.url,
        )
        for path in PATHS
    ]
    for url in others:
        send(url)
    before = [views(spy.requests), views(server.requests)]
    spy.requests.clear()
    server.requests.clear()
    with watching(*all_at(server.url)), byline.bound(**KNOWN):
        for url in others:
            send(url)
    assert [views(spy.requests), views(server.requests)] == before
    assert len(spy.requests) + len(server.requests) == len(others)


@clients
@pytest.mark.parametrize("status", [302, 307])
def test_nothing_goes_on_after_a_redirect_to_another_origin(
    send: Callable[[str], None], status: int, server: testing.Gateway, spy: testing.Gateway, watching: Watching
) -> None:
    """The fields for the gateway are removed again: the other host gets the app's own request."""

    def run() -> list[tuple[Any, ...]]:
        spy.requests.clear()
        server.requests.clear()
        for name, path in CALLED:
            server.answer(b"", status=status, headers={"location": f"{spy.url}{path}"})
            send(f"{server.url}/{name}{path}")
        return views(spy.requests)

    before = run()
    with watching(*all_at(server.url)), byline.bound(**KNOWN):
        after = run()
    assert after == before
    assert len(after) == len(CALLED)
    spoken = b"".join(json.dumps(request.headers).encode() + request.body for request in server.requests)
    assert b"spied-session" in spoken
    assert b"traceparent" in spoken


@clients
def test_ids_stay_through_a_redirect_within_the_gateway(
    send: Callable[[str], None], server: testing.Gateway, watching: Watching
) -> None:
    """The same origin is the same gateway."""
    with watching(*all_at(server.url)), byline.bound(**KNOWN):
        server.answer(b"", status=307, headers={"location": f"{server.url}/openrouter/v1/chat/completions"})
        send(f"{server.url}/openrouter/chat/completions")
    first, second = server.requests
    assert second.headers["x-session-id"] == "spied-session"
    assert second.body == first.body
    assert second.json()["user"] == "spied-user"


@clients
def test_no_baggage_ever_leaves(send: Callable[[str], None], server: testing.Gateway, watching: Watching) -> None:
    with watching(*all_at(server.url)), byline.bound(**KNOWN):
        for name, path in CALLED:
            send(f"{server.url}/{name}{path}")
    assert len(server.requests) == len(CALLED)
    assert not [request for request in server.requests if "baggage" in request.headers]
