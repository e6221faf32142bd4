"""Clients of unknown versions are not patched, and a warning names them."""

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
def test_module_without_the_patched_class(
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
def test_class_without_a_patched_method_is_not_patched_at_all(
    name: str,
    owner: type,
    method: str,
    provider: TracerProvider,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The patches of one client are applied all or none."""
    monkeypatch.delattr(owner, method)
    others = [requests.Session, requests.Response, httpx2.Client, httpx2.AsyncClient, aiohttp.ClientSession]
    before = [dict(vars(other)) for other in others]
    install(provider, name)
    assert [dict(vars(other)) for other in others] == before
    assert f"{owner.__name__} has no attribute {method}" in caplog.text


def test_httpx_without_its_redirect_method_is_not_patched(
    provider: TracerProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for owner in {*httpx2.Client.__mro__, *httpx2.AsyncClient.__mro__}:
        if "_build_redirect_request" in vars(owner):
            monkeypatch.delattr(owner, "_build_redirect_request")
    send = httpx2.Client.send
    install(provider, "httpx2")
    assert httpx2.Client.send is send
    assert "byline.E092" in caplog.text


def test_later_import_of_an_unknown_version_succeeds(
    provider: TracerProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    monkeypatch.setitem(CLIENTS, "late", ("late_client_of_a_test", lambda _, module: module.Session.send))
    (tmp_path / "late_client_of_a_test.py").write_text("here = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    install(provider, "late")
    import late_client_of_a_test  # type: ignore[import-not-found]

    assert late_client_of_a_test.here
    assert "calls through late " in caplog.text


def test_internal_error_is_not_reported_as_an_unknown_version(
    provider: TracerProvider, monkeypatch: pytest.MonkeyPatch, production: pytest.LogCaptureFixture
) -> None:
    """The error is reported, and the import succeeds."""

    def fail(_: Any, module: Any) -> None:
        raise LookupError

    monkeypatch.setitem(CLIENTS, "late", ("late", fail))
    monkeypatch.setitem(sys.modules, "late", SimpleNamespace())
    install(provider, "late")
    assert "byline.E090: late failed with LookupError" in production.text
