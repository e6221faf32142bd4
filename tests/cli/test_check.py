"""``byline check`` tests each destination for real."""

from __future__ import annotations

import json

import pytest

from byline.cli import main
from byline.testing import Receiver

KEYS = ("pk-lf-0123456789", "sk-lf-0123456789abcdef")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY", "LANGFUSE_BASE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def test_nothing_configured_fails_and_says_what_to_set(capsys: pytest.CaptureFixture[str]) -> None:
    """A check that tests nothing must not look like a success."""
    assert main(["check"]) == 1
    assert "set LANGFUSE_PUBLIC_KEY" in capsys.readouterr().out


def test_working_destinations_pass(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Langfuse by its credentials and an export, OTLP by an export."""
    with Receiver(keys=KEYS) as langfuse, Receiver() as otlp:
        monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", KEYS[0])
        monkeypatch.setenv("LANGFUSE_SECRET_KEY", KEYS[1])
        monkeypatch.setenv("LANGFUSE_BASE_URL", langfuse.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.url)
        assert main(["check", "--json"]) == 0
        assert len(langfuse.spans) == 1
        assert len(otlp.spans) == 1
    said = json.loads(capsys.readouterr().out)
    assert all(check["ok"] for check in said["checks"])
    settings = {row["name"]: row for row in said["settings"]}
    assert settings["langfuse_base_url"] == {
        "name": "langfuse_base_url",
        "value": langfuse.url,
        "variable": "LANGFUSE_BASE_URL",
    }


def test_secrets_are_never_printed_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither in the table nor in a failure."""
    with Receiver(keys=KEYS) as langfuse:
        monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", KEYS[0])
        monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-wrong-secret-000")
        monkeypatch.setenv("LANGFUSE_BASE_URL", langfuse.url)
        assert main(["check"]) == 1
    printed = capsys.readouterr()
    assert "sk-lf-wrong-secret-000" not in printed.out + printed.err
    assert "HTTP 401" in printed.out
    assert "region" in printed.out


def test_dead_server_fails_with_advice(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody listens there any more."""
    with Receiver() as langfuse:
        pass
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", KEYS[0])
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", KEYS[1])
    monkeypatch.setenv("LANGFUSE_BASE_URL", langfuse.url)
    assert main(["check"]) == 1
    assert "no Langfuse answers at" in capsys.readouterr().out


def test_one_key_alone_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The other key's variable is said."""
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", KEYS[0])
    assert main(["check"]) == 1
    assert "LANGFUSE_SECRET_KEY is missing" in capsys.readouterr().out
