"""Responses of destinations and proxies: the status decides whether a batch was accepted."""

from __future__ import annotations

from pathlib import Path

import pytest

from byline.export import OTLP
from byline.export.delivery import messages
from byline.export.delivery.http_client import HttpClient
from byline.testing import Receiver
from tests.export.raw_server import Behaviour, RawServer, cuts_after, drips_after, says, stalls_after
from tests.export.support import running
from tests.export.test_delivery import spans_of

BEGUN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 22\r\n\r\n\n<!doctype html><html>"
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nok"

TAKEN: dict[str, Behaviour] = {
    "reset in its body": cuts_after(BEGUN),
    "by drips": drips_after(BEGUN),
    "stalled in its body": stalls_after(BEGUN),
    "stalled before its first chunk": stalls_after(CHUNKED),
    "no chunks": says(CHUNKED + b"zz\r\nno number\r\n"),
    "badly packed": says(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello"),
    "nothing": says(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "a word as a page": says(PLAIN),
}


@pytest.mark.parametrize("spooled", [False, True])
@pytest.mark.parametrize("answer", TAKEN)
def test_accepted_batch_is_not_sent_again(
    answer: str, spooled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its status says so, and that its body never ends does not hold anything up either."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
    with (
        RawServer(TAKEN[answer]) as server,
        running(OTLP(server.url, spool=tmp_path if spooled else "")) as app,
    ):
        app.chat()
        assert app.destinations[0].flush()
        app.chat()
        assert app.destinations[0].flush()
        assert server.posts == 2
    assert spans_of("otlp")["sent"] == 2


@pytest.mark.parametrize("spooled", [False, True])
def test_a_connection_that_was_kept_and_is_gone_costs_nothing_at_the_end(spooled: bool, tmp_path: Path) -> None:
    """Load balancers forget those that are idle; the next batch may be the last that the process tries."""
    server = RawServer(says(PLAIN), cuts_after(b""))
    with server, running(OTLP(server.url, spool=tmp_path if spooled else "")) as app:
        app.chat()
        assert app.destinations[0].flush()
        app.chat()
        app.close()
        assert server.posts == 3
    assert spans_of("otlp")["sent"] == 2


def test_a_dead_destination_is_not_asked_twice_at_the_end() -> None:
    server = RawServer(cuts_after(b""), cuts_after(b""))
    with server, running(OTLP(server.url)) as app:
        app.chat()
        app.destinations[0].set_deadline(5)
        app.close()
        assert server.posts == 1
    assert spans_of("otlp") == {"dropped.unsent": 1}


@pytest.mark.parametrize("spooled", [False, True])
def test_a_web_page_is_no_answer(spooled: bool, tmp_path: Path, production: pytest.LogCaptureFixture) -> None:
    """Sites have one for every address; to take it for an answer would be to lose all spans without a word."""
    server = RawServer(says(PAGE))
    with server, running(OTLP(server.url, spool=tmp_path if spooled else "")) as app:
        app.chat()
        assert not app.destinations[0].flush()
        assert "byline.E057: otlp refuses all spans (HTTP 200): check its URL" in production.text
        assert "sent" not in spans_of("otlp")


def asked_to_wait(wish: str) -> float | None:
    with RawServer(says(f"HTTP/1.1 429 Later\r\nRetry-After: {wish}\r\nContent-Length: 0\r\n\r\n".encode())) as server:
        client = HttpClient(server.url, {})
        response = client.send_request("POST", b"x")
        client.close()
    told = messages.judge_failure(
        "otlp", server.url, status=response.status, reason="", is_html_page=False, wait=response.retry_after
    )
    assert told.is_retryable
    return told.wait


@pytest.mark.parametrize("wish", ["soon", "1e999", "nan", "Mon, 1 Jan 2026 00:00:00 +999999999999999"])
def test_a_wish_that_cannot_be_read_is_none(wish: str) -> None:
    """The batch passes for one that may be taken later, as without it."""
    assert asked_to_wait(wish) is None


def test_nobody_waits_for_ever_or_for_the_past() -> None:
    """For all settings."""
    assert asked_to_wait("-5") == asked_to_wait("Sat, 01 Jan 2000 00:00:00 GMT") == 0.0
    assert asked_to_wait("99999999999") == asked_to_wait("Fri, 31 Dec 9999 23:59:59 GMT") == 3600.0


@pytest.mark.parametrize(
    ("file", "advice"), [("", "use http://"), ("/no/such/file.pem", "OTEL_EXPORTER_OTLP_CERTIFICATE")]
)
def test_invalid_certificate_is_logged_with_advice(
    file: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, production: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost with a spool, because the server may be repaired."""
    if file:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", file)
    with Receiver() as receiver, running(OTLP(receiver.url.replace("http:", "https:"), spool=tmp_path)) as app:
        app.chat()
        assert not app.destinations[0].flush()
        app.chat()
        assert not app.destinations[0].flush()
    assert production.text.count("byline.E057") == 1
    assert advice in production.text
    assert spans_of("otlp") == {"spooled": 2}
