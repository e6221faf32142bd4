"""One parser decides which host a URL leads to: for endpoints, for gateways and for the calls of each HTTP client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from byline.export import OTLP, Langfuse
from byline.gateways import GatewayRegistry, LiteLLM
from byline.http.client_hooks import parse_url
from byline.settings import SettingError
from byline.urls import split_url
from tests.export.support import running

#: Parsers read different hosts, or the host of a URL that no client sends.
AMBIGUOUS = [
    r"http://evil.example\@localhost",
    r"http://evil.example\@127.0.0.1:4318/v1/traces",
    r"https://evil.example\@openrouter.ai/api/v1/chat/completions",
    r"https://evil.example\.helicone.ai/v1/chat/completions",
    "http://localhost\t.evil.example",
    "http://localhost\n@evil.example",
    "http://evil.example\x00@localhost",
    "http://evil.example @localhost",
    "http://evil%2eexample/",
    "http:///localhost",
    "http://",
    "//localhost",
    "localhost",
    "ftp://localhost",
    "http://localhost:99999",
    f"https://{'é' * 64}.example",
    "http://[::1",
    "http://evil.example[::1]/",
    "http://[::1]evil.example/",
    "https://evil.example[::1]:80/",
    "http://[localhost]/",
    f"http://{'é' * 64}[::1]/",
]


@pytest.mark.parametrize("url", AMBIGUOUS)
def test_an_ambiguous_url_leads_nowhere(url: str) -> None:
    assert split_url(url) is None
    # A client connects nowhere with the last ones.
    if url in AMBIGUOUS[:8] or "[" in url:
        assert parse_url(url) is None
    with pytest.raises(SettingError, match=r"byline\.E04[02]"):
        OTLP(url)
    with pytest.raises(SettingError, match=r"byline\.E032"):
        LiteLLM(url)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://openrouter.ai@evil.example/chat/completions", "evil.example"),
        ("https://evil.example#@openrouter.ai/chat/completions", "evil.example"),
        ("https://evil.example?@openrouter.ai/chat/completions", "evil.example"),
        ("https://OpenRouter.ai/api/v1/chat/completions", "openrouter.ai"),
        ("http://[::1]:4318/v1/traces", "::1"),
        ("http://user:p%40ss@collector.example/a%20b?c=%2f", "collector.example"),
        ("http://collector.example?q=%40", "collector.example"),
    ],
)
def test_the_host_is_the_one_that_is_connected_to(url: str, host: str) -> None:
    parsed = parse_url(url)
    assert parsed is not None
    assert parsed[0] == host
    gateway = GatewayRegistry().find(*parsed)
    assert (gateway is not None) is (host == "openrouter.ai")


@pytest.mark.parametrize(
    "options",
    [{"ca_file": "/no/such.pem"}, {"client_cert": 1}, {"client_key": "/"}, {"proxy": "proxy:3128"}, {"proxy": 1}],
)
def test_files_and_proxies_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=r"byline\.E114"):
        OTLP("http://127.0.0.1:1", **options)


def test_each_destination_has_its_own_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "own.pem"
    own.write_text("")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/client.pem")
    named = OTLP("https://collector.example").transport
    assert (named.ca_file, named.client_cert, named.more_authorities) == ("/ca.pem", "/client.pem", None)
    assert OTLP().transport == named
    other = OTLP("https://vendor.example").transport
    assert (other.ca_file, other.client_cert, other.more_authorities) == (None, None, "/ca.pem")
    mine = OTLP(
        "https://vendor.example", ca_file=own, client_cert=str(own), proxy="http://proxy.example:3128"
    ).transport
    assert mine == (str(own), str(own), None, "http://proxy.example:3128", None)


def test_no_message_has_the_password_of_an_endpoint(
    production: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BYLINE_DEBUG", "1")
    endpoint = "http://svc:hunter2pass@127.0.0.1:1/otlp/sk-proj-0a1b2c3d4e5f6g7h"
    for destination in (OTLP(endpoint), Langfuse("pk-lf-1", "sk-lf-1", endpoint)):
        said = str(destination.check())
        with running(destination) as app:
            app.chat()
            destination.flush(5)
        for text in (said, production.text, capsys.readouterr().err):
            assert "hunter2pass" not in text
            assert "0a1b2c3d" not in text
        assert "http://127.0.0.1:1/otlp/…" in said
