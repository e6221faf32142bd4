"""A client whose insides are others than byline knows is left alone, and that is said."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import aiohttp
import httpx2
import pytest
import requests
from opentelemetry.sdk.trace import TracerProvider

from byline import http
from byline.http import CLIENTS


@pytest.fixture(autouse=True)
def _uninstalled() -> Iterator[None]:
    yield
    http.uninstall()


def install(provider: TracerProvider, name: str) -> None:
    http.install(tracer_provider=provider, gateways=[], clients=[name], llm_spans="auto", capture_content=False)


@pytest.mark.parametrize("name", CLIENTS)
def test_a_module_without_what_is_hooked(
    name: str, provider: TracerProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, CLIENTS[name][0], ModuleType(CLIENTS[name][0]))
    for _ in range(2):
        install(provider, name)
        http.uninstall()
    (told,) = [record.getMessage() for record in caplog.records if "byline.E092" in record.getMessage()]
    assert f"calls through {name} " in told
    assert "has no attribute" in told


@pytest.mark.parametrize(
    ("name", "owner", "method"),
    [
        ("aiohttp", aiohttp.ClientSession, "_request"),
        ("requests", requests.Session, "send"),
        ("requests", requests.Response, "close"),
        ("httpx2", httpx2.AsyncClient, "send"),
    ],
)
def test_a_class_without_a_method_is_not_hooked_by_halves(
    name: str,
    owner: type,
    method: str,
    provider: TracerProvider,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What begins a call and what ends it go together."""
    monkeypatch.delattr(owner, method)
    others = [requests.Session, requests.Response, httpx2.Client, httpx2.AsyncClient, aiohttp.ClientSession]
    before = [dict(vars(other)) for other in others]
    install(provider, name)
    assert [dict(vars(other)) for other in others] == before
    assert f"{owner.__name__} has no attribute {method}" in caplog.text


def test_httpx_without_its_method_for_redirects_gets_no_ids_that_could_be_led_elsewhere(
    provider: TracerProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for owner in {*httpx2.Client.__mro__, *httpx2.AsyncClient.__mro__}:
        if "_build_redirect_request" in vars(owner):
            monkeypatch.delattr(owner, "_build_redirect_request")
    send = httpx2.Client.send
    install(provider, "httpx2")
    assert httpx2.Client.send is send
    assert "byline.E092" in caplog.text


def test_a_module_that_is_imported_later_is_imported_all_the_same(
    provider: TracerProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    monkeypatch.setitem(CLIENTS, "late", ("late_client_of_a_test", lambda _, module: module.Session.send))
    (tmp_path / "late_client_of_a_test.py").write_text("here = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    install(provider, "late")
    import late_client_of_a_test  # type: ignore[import-not-found]

    assert late_client_of_a_test.here
    assert "calls through late " in caplog.text


def test_a_fault_of_byline_is_no_missing_part(
    provider: TracerProvider, monkeypatch: pytest.MonkeyPatch, production: pytest.LogCaptureFixture
) -> None:
    """It is reported as such, and breaks no import either."""

    def fail(_: Any, module: Any) -> None:
        raise LookupError

    monkeypatch.setitem(CLIENTS, "late", ("late", fail))
    monkeypatch.setitem(sys.modules, "late", SimpleNamespace())
    install(provider, "late")
    assert "byline.E090: late failed with LookupError" in production.text
