"""``propagate_to``: a service, another own service that is told who asked, and a stranger that is told nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import aiohttp
import httpx
import httpx2
import pytest
import requests
import urllib3
from anyio import to_thread
from opentelemetry.sdk.trace import TracerProvider
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

import byline
from byline import http
from byline.asgi import AttributionMiddleware
from byline.http.propagation import OwnServices
from byline.testing import Gateway
from tests.servers import uvicorn_server

ASK = {"x-session-id": "s-1"}
BODY = {"user": "ada"}


def fetch_sync(module: Any) -> Callable[[str], Any]:
    def fetch(url: str) -> Any:
        with module.Client(trust_env=False, follow_redirects=True) as client:
            return client.get(url).json()

    return fetch


def fetch_async(module: Any) -> Callable[[str], Any]:
    async def fetch(url: str) -> Any:
        async with module.AsyncClient(trust_env=False, follow_redirects=True) as client:
            return (await client.get(url)).json()

    return fetch


def fetch_requests(url: str) -> Any:
    with requests.Session() as session:
        return session.get(url).json()


def fetch_urllib3(url: str) -> Any:
    with urllib3.PoolManager() as pool:
        return pool.request("GET", url).json()


async def fetch_aiohttp(url: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.json()


CLIENTS: dict[str, Callable[[str], Any]] = {
    "httpx": fetch_sync(httpx),
    "httpx async": fetch_async(httpx),
    "httpx2": fetch_sync(httpx2),
    "httpx2 async": fetch_async(httpx2),
    "requests": fetch_requests,
    "urllib3": fetch_urllib3,
    "aiohttp": fetch_aiohttp,
}
each_client = pytest.mark.parametrize("client", CLIENTS)


async def front(request: Request) -> Response:
    """Service A: passes the question on."""
    asked = await request.json()
    fetch = CLIENTS[asked["client"]]
    result = (
        await fetch(asked["url"])
        if asyncio.iscoroutinefunction(fetch)
        else await to_thread.run_sync(fetch, asked["url"])
    )
    return JSONResponse(result)


async def answer(request: Request) -> Response:
    """Service B, and the stranger: tells its attribution and what was received."""
    received = {name: value for name, value in request.headers.items() if name in ("x-byline", "traceparent")}
    return JSONResponse({"attribution": dict(byline.current()), "received": received})


async def redirect(request: Request) -> Response:
    return RedirectResponse(request.query_params["to"])


def service(**middleware: Any) -> Any:
    routes = [
        Route("/ask", front, methods=["POST"]),
        Route("/answer", answer),
        Route("/redirect", redirect),
    ]
    return AttributionMiddleware(Starlette(routes=routes), **middleware)


class Fleet:
    """Two own services and a stranger."""

    def __init__(self, stack: ExitStack) -> None:
        self.front, self.inner, self.stranger = (
            "http://{}:{}".format(*stack.enter_context(uvicorn_server(app)))
            for app in (service(), service(trust=()), service())
        )

    def ask(self, client: str, url: str) -> Any:
        body = {**BODY, "client": client, "url": url}
        return httpx.post(f"{self.front}/ask", json=body, headers=ASK, trust_env=False).json()


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    # Before the servers: their middlewares read the key at construction.
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("BYLINE_SIGNING_KEY", "k" * 32)
        yield Fleet(stack)


@pytest.fixture
def named(fleet: Fleet, provider: TracerProvider) -> Iterator[Fleet]:
    http.install(
        tracer_provider=provider,
        gateways=[],
        clients="auto",
        llm_spans="auto",
        capture_content=False,
        own_services=OwnServices([fleet.inner.removeprefix("http://")]),
    )
    yield fleet
    http.uninstall()


@each_client
def test_an_own_service_knows_who_asked(client: str, named: Fleet) -> None:
    got = named.ask(client, f"{named.inner}/answer")
    assert got["attribution"] == {"session_id": "s-1", "user_id": "ada"}
    assert sorted(got["received"]) == ["traceparent", "x-byline"]


@each_client
def test_a_stranger_gets_nothing(client: str, named: Fleet) -> None:
    assert named.ask(client, f"{named.stranger}/answer") == {"attribution": {}, "received": {}}


@each_client
def test_a_redirect_to_a_stranger_takes_nothing_along(client: str, named: Fleet) -> None:
    got = named.ask(client, f"{named.inner}/redirect?to={named.stranger}/answer")
    assert got == {"attribution": {}, "received": {}}


@each_client
def test_a_redirect_of_a_stranger_to_an_own_service_takes_nothing_along(client: str, named: Fleet) -> None:
    """The stranger chose that request, not the caller."""
    got = named.ask(client, f"{named.stranger}/redirect?to={named.inner}/answer")
    assert got["attribution"] == {}


@each_client
def test_a_stranger_that_was_redirected_to_sends_nothing_back(client: str, named: Fleet) -> None:
    back = quote(f"{named.stranger}/redirect?to={named.inner}/answer")
    got = named.ask(client, f"{named.inner}/redirect?to={back}")
    assert got["attribution"] == {}
    assert "x-byline" not in got["received"]


@each_client
def test_without_the_setting_nothing_is_sent(client: str, fleet: Fleet, provider: TracerProvider) -> None:
    http.install(
        tracer_provider=provider,
        gateways=[],
        clients="auto",
        llm_spans="auto",
        capture_content=False,
        own_services=OwnServices(()),
    )
    try:
        assert fleet.ask(client, f"{fleet.inner}/answer")["received"] == {}
    finally:
        http.uninstall()


@pytest.mark.parametrize("module", [httpx, httpx2, requests])
def test_a_request_that_the_app_sends_again_is_unchanged(module: Any, named: Fleet) -> None:
    """The app may send the same object to another host or for another user."""
    with module.Session() if module is requests else module.Client(trust_env=False) as client:
        url = f"{named.inner}/answer"
        request = requests.Request("GET", url).prepare() if module is requests else client.build_request("GET", url)
        before = dict(request.headers)
        for user in ("ada", "bob"):
            with byline.bound(user_id=user):
                response = client.send(request)
            assert response.json()["attribution"] == {"user_id": user}
            assert dict(request.headers) == dict(response.request.headers) == before


def test_a_same_origin_redirect_stays_signed(named: Fleet) -> None:
    """Frameworks answer a path without its final slash like this; the receiver accepts a value once."""
    with byline.bound(user_id="ada"), httpx.Client(trust_env=False, follow_redirects=True) as client:
        got = client.get(f"{named.inner}/redirect?to={named.inner}/answer")
    assert got.json()["attribution"] == {"user_id": "ada"}
    assert [*got.request.headers, *got.history[0].request.headers].count("x-byline") == 0


def test_it_is_set_by_instrument_and_by_the_environment(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = TracerProvider()
    for argument, variable in ((["127.0.0.0/8"], ""), (None, "nowhere.internal, 127.0.0.1")):
        monkeypatch.setenv("BYLINE_PROPAGATE_TO", variable)
        byline.instrument(tracer_provider=provider, destinations=[], propagate_to=argument)
        try:
            with byline.bound(user_id="ada"):
                assert httpx.get(f"{fleet.inner}/answer", trust_env=False).json()["attribution"] == {"user_id": "ada"}
        finally:
            byline.uninstrument()


def test_a_gateway_of_ones_own_gets_its_ids_too(provider: TracerProvider) -> None:
    with Gateway() as gateway:
        http.install(
            tracer_provider=provider,
            gateways=[byline.gateways.OpenRouter(gateway.base_url)],
            clients="auto",
            llm_spans="auto",
            capture_content=False,
            own_services=OwnServices(["127.0.0.1"]),
        )
        with byline.bound(session_id="s-1"), httpx.Client(trust_env=False) as client:
            client.post(f"{gateway.base_url}/chat/completions", json={"model": "m", "messages": []})
        http.uninstall()
        (request,) = gateway.requests
    assert request.headers["x-session-id"] == "s-1"
    assert byline.extract(request.headers).session_id == "s-1"


def test_patterns() -> None:
    services = OwnServices(
        ["rag.internal", "LLM.internal:8000", "*.svc.cluster.local", "10.0.0.0/8", "fd00::/8", "::1"]
    )
    own = [("RAG.internal", 1), ("rag.internal.", 80), ("llm.internal", 8000), ("a.b.svc.cluster.local", 443)]
    own += [("10.255.0.1", 80), ("fd00::5", 80), ("[::1]", 80)]
    others = [("llm.internal", 80), ("svc.cluster.local", 80), ("evilsvc.cluster.local", 80), ("11.0.0.1", 80)]
    others += [("rag.internal.evil.io", 80), ("10.0.0.1.evil.io", 80), ("", 80), ("api.openai.com", 443)]
    others += [("evil.io%2f.svc.cluster.local", 80), ("evil.io;.svc.cluster.local", 80), (".svc.cluster.local", 80)]
    for _ in range(2):
        assert [host for host in own if not services.include(*host)] == []
        assert [host for host in others if services.include(*host)] == []


@pytest.mark.parametrize(
    "pattern", ["*", "", "*.", "http://rag", "rag/path", "a b", "rag:port", None, 5, "*.*.internal"]
)
def test_a_wrong_pattern_is_refused(pattern: Any) -> None:
    with pytest.raises(byline.SettingError, match=r"byline\.E130"):
        byline.instrument(propagate_to=[pattern], destinations=[])


def test_the_memory_of_hosts_is_bounded() -> None:
    services = OwnServices(["a"])
    for number in range(5000):
        services.include(f"h{number}", 80)
    assert len(services._known) <= 1024
