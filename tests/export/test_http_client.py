"""One HTTP request: it ends by its deadline, follows no redirect, and says why it failed."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import certifi
import pytest

from byline.export import OTLP
from byline.export.delivery import messages
from byline.export.delivery.http_client import HttpClient, HttpResponse
from byline.export.delivery.transport import Transport, find_proxy, read_timeout
from byline.testing import Receiver
from tests.export.raw_server import Behaviour, RawServer, cuts_after, drips_after, says, stalls_after

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextlib.contextmanager
def client_of(url: str, headers: dict[str, str] | None = None, timeout: float = 5.0) -> Iterator[HttpClient]:
    client = HttpClient(url, headers or {}, timeout=timeout)
    try:
        yield client
    finally:
        client.close()


FOREVER: dict[str, tuple[Behaviour, int | None]] = {
    "silent": (stalls_after(b""), None),
    "the status line by drips": (drips_after(b""), None),
    "a header by drips": (drips_after(HEAD + b"X-Long: "), None),
    "headers by drips": (drips_after(HEAD, b"A: b\r\n"), None),
    "the body by drips": (drips_after(HEAD + b"Content-Length: 100000\r\n\r\n"), 200),
    "chunks by drips": (drips_after(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"), 200),
    "no body": (stalls_after(HEAD + b"Content-Length: 5\r\n\r\n"), 200),
}


@pytest.mark.parametrize("answer", FOREVER)
def test_a_request_ends_by_its_deadline(answer: str) -> None:
    """Its headers may come by drips; and the next request is not disturbed."""
    behaviour, status = FOREVER[answer]
    with RawServer(behaviour) as server, client_of(server.url, timeout=0.3) as client:
        response = client.send_request("POST", b"x")
        assert response.status == status
        assert status == 200 or response.reason == messages.NO_ANSWER
        client.timeout = 5.0
        assert client.send_request("POST", b"x").status == 200


def test_a_deadline_ends_the_request_under_way() -> None:
    with RawServer(stalls_after(b"")) as server, client_of(server.url, timeout=600.0) as client:
        responses: list[HttpResponse] = []
        thread = threading.Thread(target=lambda: responses.append(client.send_request("POST", b"x")))
        thread.start()
        server.wait_for_posts(1)
        client.set_deadline(time.monotonic())
        thread.join(60)
        assert [response.reason for response in responses] == [messages.NO_ANSWER]
        assert client.send_request("POST", b"x").status is None
        assert server.posts == 1


def test_a_server_that_does_not_read_holds_nothing_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with client_of(url, timeout=0.3) as client:
            assert client.send_request("POST", b"x" * 50_000_000).reason == messages.NO_ANSWER


def test_a_connection_is_kept(receiver: Receiver) -> None:
    with client_of(f"{receiver.url}/v1/traces") as client:
        client.send_request("POST", b"")
        first = client._socket
        client.send_request("POST", b"")
        assert client._socket is first


def test_a_connection_that_was_kept_and_is_gone_is_said() -> None:
    with (
        RawServer(says(HEAD + b"Content-Length: 0\r\n\r\n"), cuts_after(b"")) as server,
        client_of(server.url) as client,
    ):
        assert client.send_request("POST", b"x").is_accepted
        response = client.send_request("POST", b"x")
        assert response.reason == messages.CLOSED
        assert response.is_stale
        assert client.send_request("POST", b"x").is_accepted


def test_redirects_are_not_followed(receiver: Receiver) -> None:
    location = f"Location: {receiver.url}/v1/traces\r\n".encode()
    answer = b"HTTP/1.1 308 Permanent Redirect\r\nContent-Length: 0\r\n" + location + b"\r\n"
    with RawServer(says(answer)) as server, client_of(server.url, {"x-api-key": "k"}) as client:
        assert client.send_request("POST", b"x").status == 308
    assert receiver.requests == []


def test_a_host_in_other_letters_is_encoded_without_its_port() -> None:
    label = "é" * 57
    with client_of(f"http://{label}:4318/v1/traces") as client:
        assert client._headers["host"] == f"{label.encode('idna').decode()}:4318"


def test_headers_are_those_of_the_destination(receiver: Receiver) -> None:
    with client_of(f"{receiver.url}/v1/traces", {"X-Api-Key": "k", "User-Agent": "mine"}) as client:
        client.send_request("POST", b"", {"content-type": "application/x-protobuf", "user-agent": "other"})
    (request,) = receiver.requests
    names = ("content-type", "user-agent", "x-api-key", "authorization", "cookie", "content-length")
    sent = [request.headers.get(name) for name in names]
    assert sent == ["application/x-protobuf", "mine", "k", None, None, "0"]
    assert request.headers["host"] == urlsplit(receiver.url).netloc


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(b"SSH-2.0-OpenSSH_9.6\r\n", "it does not speak HTTP"), (b"", messages.CLOSED)],
)
def test_other_servers_are_said(answer: bytes, reason: str) -> None:
    with RawServer(cuts_after(answer)) as server, client_of(server.url) as client:
        assert client.send_request("POST", b"x").reason == reason


@pytest.mark.parametrize("status", [200, 400, 503])
def test_a_server_writes_no_control_characters_to_logs_and_terminals(
    status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Its reason phrase is in the output of `byline check` and of BYLINE_DEBUG."""
    monkeypatch.setenv("BYLINE_DEBUG", "1")
    head = f"HTTP/1.1 {status} \x1b[2J\x9b31m\x07\x85Fine{'e' * 500}\r\nContent-Length: 4\r\n\r\nbody"
    with RawServer(*[says(head.encode("latin-1"))] * 20) as server:
        with client_of(server.url) as client:
            response = client.send_request("POST", b"x")
        assert response.reason == "[2J31mFine" + "e" * 86
        results = OTLP(server.url).check()
    shown = [capsys.readouterr().err, caplog.text, *(f"{result.detail}{result.advice}" for result in results)]
    assert "31mFine" in "".join(shown)
    assert all(text.replace("\n", "").isprintable() for text in shown)


def test_a_proxy_variable_that_is_no_url_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://[2001:db8::1%25eth0]x:3128")
    with client_of("http://collector.example/v1/traces") as client:
        response = client.send_request("POST", b"x")
    assert response.reason == "the proxy cannot be reached"


def test_refusal_before_the_whole_body_is_read() -> None:
    """As servers do with large batches; the response is read all the same."""

    def refuse(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1024)
            connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 20):
                pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=refuse, args=(server,))
        thread.start()
        with client_of(f"http://127.0.0.1:{server.getsockname()[1]}") as client:
            assert client.send_request("POST", b"x" * 5_000_000).status == 413
        thread.join(20)


def test_a_body_without_an_end_is_read_no_further() -> None:
    body = HEAD + b"\r\n" + b"x" * 100_000
    with RawServer(drips_after(body)) as server, client_of(server.url) as client:
        assert len(client.send_request("POST", b"x").body) == 8192


@pytest.mark.parametrize("tls", [False, True])
def test_proxies_of_the_environment_are_used(tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain requests go to the proxy whole; for TLS it opens a tunnel, and its refusal is said."""
    seen: list[bytes] = []

    def behave(connection: socket.socket, _: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

    with RawServer(behave, log=seen) as proxy:
        monkeypatch.setenv("https_proxy" if tls else "http_proxy", proxy.url.replace("//", "//user:p%40ss@"))
        with client_of(f"{'https' if tls else 'http'}://collector.example:4318/v1/traces") as client:
            response = client.send_request("POST", b"x")
    (head,) = seen
    if tls:
        assert response.reason == "the proxy cannot be reached"
        assert head.startswith(b"CONNECT collector.example:4318 HTTP/1.1\r\n")
    else:
        assert response.status == 502
        assert head.startswith(b"POST http://collector.example:4318/v1/traces HTTP/1.1\r\n")
    assert b"proxy-authorization: basic dxnlcjpwqhnz" in head.lower()


def test_a_destination_may_have_a_proxy_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for this machine, which the environment's proxy never gets."""
    seen: list[bytes] = []

    def behave(connection: socket.socket, _: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

    with RawServer(behave, log=seen) as proxy:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        client = HttpClient("http://localhost:1/v1/traces", {}, transport=Transport(proxy=proxy.url))
        assert client.send_request("POST", b"x").status == 502
        client.close()
        monkeypatch.setenv("http_proxy", proxy.url)
        client = HttpClient("http://collector.invalid/v1/traces", {}, transport=Transport(proxy=""))
        assert client.send_request("POST", b"x").status is None
        client.close()
    assert [head.split(b" ")[1] for head in seen] == [b"http://localhost:1/v1/traces"]


@pytest.mark.parametrize(
    ("excluded", "host", "direct"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("internal.example", "collector.internal.example", True),
        (".example", "collector.example", True),
        ("other.example, 10.0.0.0/8", "collector.example", False),
        ("*", "collector.example", True),
        ("", "localhost", True),
        ("", "127.8.8.8", True),
        ("", "[::1]", True),
        ("", "localhost.example", False),
    ],
)
def test_hosts_without_a_proxy(excluded: str, host: str, direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    monkeypatch.setenv("no_proxy", excluded)
    proxy = find_proxy(urlsplit(f"https://{host}:4318"))
    assert (proxy is None) is direct
    assert proxy is None or (proxy.hostname, proxy.port) == ("proxy.example", 3128)


@pytest.mark.parametrize(
    ("value", "seconds"), [("", 10.0), ("2.5", 2.5), ("60", 10.0), ("0", 10.0), ("-1", 10.0), ("soon", 10.0)]
)
def test_the_timeout_is_opentelemetrys(value: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", value)
    assert read_timeout() == seconds


def test_certificates_are_those_of_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles for other hosts, which the environment may name too, are not used."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/for/others.pem")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/own.pem")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key.pem")
    loaded: list[Any] = []

    class Context:
        def load_cert_chain(self, *files: str | None) -> None:
            loaded.append(files)

        def load_verify_locations(self, file: str) -> None:
            loaded.append(file)

        def set_alpn_protocols(self, _: list[str]) -> None:
            pass

    def create(cafile: str | None = None) -> Any:
        loaded.append(cafile)
        return Context()

    monkeypatch.setattr(ssl, "create_default_context", create)
    Transport().with_environment(is_named_there=True).tls_context()
    assert loaded == ["/ca.pem", ("/own.pem", "/key.pem")]
    loaded.clear()
    # Another destination keeps the system's authorities, and shows no certificate.
    Transport().with_environment(is_named_there=False).tls_context()
    assert loaded == [None, certifi.where(), "/ca.pem"]
    loaded.clear()
    own = Transport("/mine.pem", "/me.pem", None)
    own.with_environment(is_named_there=True).tls_context()
    assert loaded == ["/mine.pem", ("/me.pem", None)]


def test_a_certificate_file_that_cannot_be_read_is_said(receiver: Receiver) -> None:
    client = HttpClient(receiver.url.replace("http:", "https:"), {}, transport=Transport("/no/such/file.pem"))
    with contextlib.closing(client):
        assert client.send_request("POST", b"x").reason == "a certificate file cannot be read"


def test_a_server_without_tls_is_said(receiver: Receiver) -> None:
    with client_of(receiver.url.replace("http:", "https:")) as client:
        assert client.send_request("POST", b"x").reason == "it does not speak TLS"


def test_a_child_process_leaves_the_connection_to_its_parent(receiver: Receiver) -> None:
    with client_of(f"{receiver.url}/v1/traces") as client:
        client.send_request("POST", b"")
        first = client._socket
        client.after_fork()
        assert client._socket is None
        client.send_request("POST", b"")
        assert client._socket is not first
