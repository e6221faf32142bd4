"""``byline check`` prints the settings and sends a test trace to each destination."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from byline import internal_metrics
from byline.cli import main
from byline.export import OTLP, Langfuse
from byline.export.delivery import transport
from byline.testing import Gateway, Receiver

pytestmark = pytest.mark.usefixtures("no_settings")

KEYS = ("pk-lf-0123456789", "sk-lf-0123456789abcdef")


def test_without_a_destination_the_check_fails_with_advice(capsys: pytest.CaptureFixture[str]) -> None:
    """A check that tests nothing must not be a success."""
    assert main(["check"]) == 1
    assert "set LANGFUSE_PUBLIC_KEY" in capsys.readouterr().out


def test_working_destinations_pass(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Langfuse is tested by its credentials and an export, OTLP by an export."""
    with Receiver(keys=KEYS) as langfuse, Receiver() as otlp:
        monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", KEYS[0])
        monkeypatch.setenv("LANGFUSE_SECRET_KEY", KEYS[1])
        monkeypatch.setenv("LANGFUSE_BASE_URL", langfuse.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.url)
        assert main(["check", "--json"]) == 0
        assert [span.name for span in langfuse.spans] == ["byline check call", "byline check step"]
        assert len(otlp.spans) == 3
    said = json.loads(capsys.readouterr().out)
    shown = {check["name"]: check["detail"] for check in said["checks"]}
    assert shown["Langfuse gets"].startswith(
        "byline check step → byline check call (trace byline check, session byline-check"
    )
    assert shown["OTLP gets"].startswith("byline check request → byline check step → byline check call (")
    assert shown["Langfuse gets"].endswith("user byline-check, content exported)")
    assert all(check["ok"] for check in said["checks"])
    settings = {row["name"]: row for row in said["settings"]}
    assert settings["langfuse_base_url"] == {
        "name": "langfuse_base_url",
        "value": langfuse.url,
        "variable": "LANGFUSE_BASE_URL",
        "variables": ["LANGFUSE_BASE_URL", "LANGFUSE_HOST", "LANGFUSE_OTEL_HOST"],
    }


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In the table and in the message of a failure."""
    with Receiver(keys=KEYS) as langfuse:
        monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", KEYS[0])
        monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-wrong-secret-000")
        monkeypatch.setenv("LANGFUSE_BASE_URL", langfuse.url)
        assert main(["check"]) == 1
    printed = capsys.readouterr()
    assert "sk-lf-wrong-secret-000" not in printed.out + printed.err
    assert "HTTP 401" in printed.out
    assert "region" in printed.out


def test_the_public_key_is_shortened_to_the_part_that_identifies_a_project(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The public key looks like a secret but is not one."""
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-0123456789abcdef")
    main(["check", "--json"])
    rows = {row["name"]: row["value"] for row in json.loads(capsys.readouterr().out)["settings"]}
    assert rows["langfuse_public_key"] == "pk-lf-01234567…"


def test_dead_server_fails_with_advice(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """No server listens at the port."""
    with Receiver() as langfuse:
        pass
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", KEYS[0])
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", KEYS[1])
    monkeypatch.setenv("LANGFUSE_BASE_URL", langfuse.url)
    assert main(["check"]) == 1
    assert "no Langfuse answers at" in capsys.readouterr().out


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the variable of the missing key."""
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", KEYS[0])
    assert main(["check"]) == 1
    assert "LANGFUSE_SECRET_KEY is missing" in capsys.readouterr().out


def test_otlp_that_refuses_fails_with_advice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The refusal is the result of one destination; the other one is tested as well."""
    with Receiver(keys=KEYS) as langfuse, Receiver() as otlp:
        otlp.fail(400, times=None)
        monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", KEYS[0])
        monkeypatch.setenv("LANGFUSE_SECRET_KEY", KEYS[1])
        monkeypatch.setenv("LANGFUSE_BASE_URL", langfuse.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.url)
        assert main(["check"]) == 1
    lines = capsys.readouterr().out.splitlines()
    failed = [number for number, line in enumerate(lines) if line.startswith("FAILED  OTLP")]
    assert failed
    assert lines[failed[0] + 1].strip().startswith("→")
    assert any(line.startswith("ok      Langfuse credentials  project receiver") for line in lines)


def test_secrets_in_headers_and_addresses_are_masked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Header names are not masked, because a reader needs them."""
    with Receiver() as otlp:
        otlp.fail(403, times=None)
        endpoint = otlp.url.replace("//", "//ada:hunter2secret@") + "?api_key=query-secret-value"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20c2VjcmV0LXRva2Vu,x-team=blue")
        for arguments in (["check"], ["check", "--json"]):
            assert main(arguments) == 1
            said = capsys.readouterr()
            for secret in ("hunter2secret", "query-secret-value", "c2VjcmV0LXRva2Vu"):
                assert secret not in said.out + said.err
            assert "authorization=" in said.out
            assert "x-team=" in said.out


def test_the_result_describes_the_spans_that_arrive_with_these_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Redacted content, sampling, and the number of spans in the spool."""
    with Receiver() as otlp:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.url)
        monkeypatch.setenv("BYLINE_PRIVACY", "1")
        monkeypatch.setenv("BYLINE_SAMPLING", "0.01")
        monkeypatch.setenv("BYLINE_SPOOL", str(tmp_path))
        assert main(["check"]) == 0
        assert len(otlp.spans) == 3
    said = capsys.readouterr().out
    assert "user byline-check, content removed)" in said
    assert "0 spans wait, 0 B of 256 MiB" in said


def test_a_destination_that_hangs_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The destination accepts the connection and sends no response."""
    monkeypatch.setattr(transport, "_TIMEOUT", 0.3)
    with Receiver() as otlp:
        otlp.hold()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.url)
        assert main(["check"]) == 1
    said = capsys.readouterr().out
    assert "no answer in time" in said
    assert "All checks passed" not in said


def test_a_destination_without_a_response_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the exporter's timeout is longer than the timeout of the check."""
    monkeypatch.setattr("byline.export.self_test._RESPONSE_TIMEOUT", 0.1)
    monkeypatch.setattr("byline.export.worker.SHUTDOWN_TIMEOUT", -0.9)
    with Receiver() as otlp:
        otlp.hold()
        results = OTLP(otlp.url).check()
        otlp.release()
    assert [(result.name, result.ok) for result in results] == [("OTLP export", False)]
    assert "no answer in time" in results[0].detail


def test_a_web_page_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A login page, or an app that answers every path, accepts a POST with status 200 and stores nothing."""
    with Gateway() as site:
        site.answer("<!doctype html>", headers={"content-type": "text/html; charset=utf-8"}, times=9)
        # The gateway sends this response at every path that accepts a POST.
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{site.base_url}/chat/completions")
        assert main(["check"]) == 1
    said = capsys.readouterr().out
    assert "HTTP 200" in said
    assert "a web page" in said


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "check its keys"), (404, "check its URL"), (400, "protobuf"), (503, "the server has a problem")],
)
def test_each_status_has_its_own_advice(status: int, advice: str) -> None:
    with Receiver() as otlp:
        otlp.fail(status, times=None)
        (result,) = OTLP(otlp.url).check()
    assert f"HTTP {status}" in result.detail
    assert advice in result.advice


def test_connection_errors_are_described_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Receiver() as otlp:
        pass
    (result,) = OTLP(otlp.url).check()
    assert result.detail.endswith("connection refused")
    (result,) = OTLP("https://nobody.invalid").check()
    assert result.detail.endswith("no such host")
    with Receiver() as plain:
        (result,) = OTLP(plain.url.replace("http", "https")).check()
    assert result.detail.endswith("it does not speak TLS")
    (result,) = OTLP("http://127.0.0.1:4317").check()
    assert "4318" in result.advice


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"),
        ("OTEL_TRACES_EXPORTER", "console", "OTEL_TRACES_EXPORTER"),
        ("LANGFUSE_TRACING_ENABLED", "false", "LANGFUSE_TRACING_ENABLED"),
    ],
)
def test_a_variable_that_turns_a_destination_off_is_named(
    variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The advice is not to set an endpoint, because one is set."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    if variable.startswith("LANGFUSE"):
        monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
        monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", KEYS[0])
        monkeypatch.setenv("LANGFUSE_SECRET_KEY", KEYS[1])
    monkeypatch.setenv(variable, value)
    assert main(["check"]) == 1
    found = capsys.readouterr().out
    assert said in found.partition("FAILED")[2]
    assert "set LANGFUSE_PUBLIC_KEY" not in found


def test_langfuse_without_its_api_is_tested_by_an_export(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A proxy may allow exports only: the results of both requests are printed."""
    with Receiver() as langfuse:
        monkeypatch.setattr(langfuse, "_answer_langfuse", lambda _, handler: handler.reply(404, b"", {}))
        monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", KEYS[0])
        monkeypatch.setenv("LANGFUSE_SECRET_KEY", KEYS[1])
        monkeypatch.setenv("LANGFUSE_BASE_URL", langfuse.url)
        assert main(["check", "--json"]) == 1
    checks = {check["name"]: check["ok"] for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks == {"Langfuse credentials": False, "Langfuse export": True, "Langfuse gets": True}


def test_misspelt_variables_are_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With BYLINE_PRIVAT=1 content would be exported by mistake."""
    with Receiver() as otlp:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.url)
        monkeypatch.setenv("BYLINE_PRIVAT", "1")
        assert main(["check"]) == 1
    said = capsys.readouterr().out
    assert "byline.E002: BYLINE_PRIVAT is not a setting" in said
    assert "BYLINE_PRIVACY" in said.partition("BYLINE_PRIVAT is")[2]


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_CERTIFICATE", "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE"])
def test_the_keys_are_tested_with_the_same_certificate_authority_as_exports(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A self-hosted Langfuse may have a private certificate authority."""
    given: list[str | None] = []

    class Context:
        def load_verify_locations(self, file: str) -> None:
            if not file.endswith("cacert.pem"):
                given.append(file)

        def set_alpn_protocols(self, _: list[str]) -> None:
            raise OSError

    def create_context(cafile: str | None = None) -> Any:
        given.append(cafile)
        return Context()

    monkeypatch.setattr(ssl, "create_default_context", create_context)
    destination = Langfuse(*KEYS, "https://lf.example")
    destination.check()
    monkeypatch.setenv(variable, str(tmp_path / "ca.pem"))
    destination.check()
    # Besides the system's own, because the variable is that of the OTLP endpoint.
    OTLP("https://collector.example").check()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example")
    OTLP("https://collector.example").check()
    file = str(tmp_path / "ca.pem")
    assert given == [None, None, file, None, file, file]


def test_unreadable_headers_are_a_result(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """They are reported once, below the settings, and without their values."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic c2VjcmV0LXRva2Vu,x-team: hunter2secret")
    assert main(["check"]) == 1
    said = capsys.readouterr()
    assert "unreadable (byline.E066)" in said.out
    assert said.out.count("part 2 of OTEL_EXPORTER_OTLP_HEADERS") == 1
    assert said.err == ""
    for secret in ("hunter2secret", "c2VjcmV0LXRva2Vu"):
        assert secret not in said.out


def test_an_unreadable_setting_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", '"pk-lf-1"')
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-1")
    assert main(["check"]) == 1
    assert capsys.readouterr().out.count("LANGFUSE_PUBLIC_KEY has quotes") == 1


def test_debug_output_has_the_tested_credentials(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BYLINE_DEBUG", "1")
    with Receiver(keys=KEYS) as langfuse:
        Langfuse(*KEYS, langfuse.url).check()
    said = capsys.readouterr().err
    assert f"langfuse-check: to {langfuse.url}/api/public/otel/v1/traces with public key pk-lf-01234567…" in said
    assert "HTTP 200" in said


def test_a_check_does_not_change_counters_and_log_of_the_app(caplog: pytest.LogCaptureFixture) -> None:
    """A failure that is logged once must still be logged when the app's own export fails."""
    with Receiver() as otlp:
        otlp.fail(503, times=None)
        assert not OTLP(otlp.url, label="mine").check()[0].ok
    assert not any(name.startswith("mine.") for name in internal_metrics.counter_values())
    assert caplog.text == ""


def test_filters_that_exclude_the_test_trace_are_not_a_failure() -> None:
    with Receiver() as otlp:
        results = OTLP(otlp.url, organizations=["acme"]).check()
        assert otlp.spans == []
    assert all(result.ok for result in results)
    assert "nothing arrives" in results[1].detail


@pytest.mark.parametrize(
    ("variable", "value", "identifier"),
    [("BYLINE_DEBUG", "perhaps", "byline.E001"), ("BYLINE_GATEWAYS", "nobody", "byline.E031")],
)
def test_invalid_settings_are_a_failure(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
    identifier: str,
) -> None:
    """Even if all destinations work."""
    with Receiver() as otlp:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.url)
        monkeypatch.setenv(variable, value)
        assert main(["check", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert [check["detail"][:11] for check in said["checks"] if not check["ok"]] == [identifier]
    assert variable in [row["variable"] for row in said["settings"]]


@pytest.mark.parametrize("arguments", [["check", "-v"], ["check", "--json"]])
def test_unreadable_headers_are_one_row_of_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """No part of their text is printed, because with a wrong comma or colon any part may be the key."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=0123456789,authorization: Bearer abcdefghijkl")
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert "unreadable (byline.E066)" in said.out
    assert "service_name" in said.out
    assert "byline.E066: part 2" in said.out
    for secret in ("0123456789", "abcdefghijkl"):
        assert secret not in said.out + said.err


def test_disabled_byline_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """No span would arrive, even if the destinations work."""
    with Receiver() as otlp:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.url)
        monkeypatch.setenv("BYLINE_DISABLED", "1")
        assert main(["check"]) == 1
    assert "unset BYLINE_DISABLED" in capsys.readouterr().out


def test_an_exception_of_a_destination_is_a_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is reported without a traceback and without its text."""

    def check(self: OTLP) -> Any:
        raise RuntimeError("with a prompt in it")

    monkeypatch.setattr(OTLP, "check", check)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    assert main(["check"]) == 1
    said = capsys.readouterr().out
    assert "RuntimeError" in said
    assert "prompt" not in said


@pytest.mark.integration
def test_the_check_works_without_an_extra() -> None:
    """In a process without rich and the other packages of the demo."""
    code = """
import sys
for name in ("rich", "fastapi", "flask", "uvicorn", "openai"):
    sys.modules[name] = None
from byline.cli import main
assert main(["check"]) == 1
assert main(["demo"]) == 1
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the environment names none" in done.stdout
    assert "byline.E051" in done.stderr
    assert re.search(r"pip install .*\[demo\]'", done.stderr)
    assert "rich" in done.stderr


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    """Of byline, which prints it if no command is given, and of each command; in lines of a terminal's width."""
    assert main([]) == 2
    output = capsys.readouterr()
    texts = [output.err]
    assert output.out == ""
    for command in ("demo", "check", "gateway", "run"):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        texts.append(capsys.readouterr().out)
    for text in texts:
        assert "examples:\n  byline " in text
        assert max(map(len, text.splitlines())) <= 100


def test_a_header_without_a_colon_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check", "main:app", "--header", "Authorization"])
    assert ended.value.code == 2
    assert "'Authorization' has no colon" in capsys.readouterr().err


def test_the_verdict_without_a_destination_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 1
    first, *_ = capsys.readouterr().out.splitlines()
    assert first == "There is no destination, so spans go nowhere."
