"""URLs, keys and hosts of destinations: valid, or an error with an id and advice."""

from __future__ import annotations

from typing import Any

import pytest

from byline.export import OTLP, Langfuse
from byline.settings import SettingError

pytestmark = pytest.mark.usefixtures("no_settings")

KEYS = ("pk-lf-1", "sk-lf-1")


@pytest.mark.parametrize(
    "base",
    [
        "https://us.cloud.langfuse.com",
        "https://us.cloud.langfuse.com/",
        "https://us.cloud.langfuse.com/api/public/otel",
        "https://us.cloud.langfuse.com/api/public/otel/",
        "https://us.cloud.langfuse.com/api/public/otel/v1/traces",
    ],
)
def test_langfuse_is_found_however_its_address_is_written(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for destination in (Langfuse(*KEYS, base), _from_environment(monkeypatch, base)):
        assert destination.endpoint == "https://us.cloud.langfuse.com/api/public/otel/v1/traces"
        assert destination.headers["Authorization"] == "Basic cGstbGYtMTpzay1sZi0x"


def _from_environment(monkeypatch: pytest.MonkeyPatch, base: str) -> Langfuse:
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", KEYS[0])
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", KEYS[1])
    monkeypatch.setenv("LANGFUSE_OTEL_HOST", base)
    return Langfuse()


def test_langfuse_url_keeps_its_path() -> None:
    assert Langfuse(*KEYS, "https://tools.example/langfuse").endpoint == (
        "https://tools.example/langfuse/api/public/otel/v1/traces"
    )


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_loopback_may_be_unencrypted(host: str) -> None:
    assert Langfuse(*KEYS, f"http://{host}:3000").base_url == f"http://{host}:3000"


@pytest.mark.parametrize("host", ["langfuse", "langfuse.example", "10.0.0.1", "localhost.example", "127.0.0.1.example"])
def test_any_other_host_has_to_be_named(host: str) -> None:
    """Prompts and keys would be there for everybody on the way to read."""
    for make in (
        lambda **more: Langfuse(*KEYS, f"http://{host}", **more),
        lambda **more: OTLP(f"http://{host}", **more),
    ):
        with pytest.raises(SettingError, match=r"byline\.E042") as refused:
            make()
        assert f"allow_http=['{host}']" in refused.value.advice
        make(allow_http=[host])


@pytest.mark.parametrize("address", ["langfuse.example", "ftp://langfuse.example", "https://", "", "//x"])
def test_invalid_url_is_an_error(address: str) -> None:
    with pytest.raises(SettingError, match=r"byline\.E04[04]"):
        OTLP(address)


def test_error_repeats_the_url_without_its_secrets() -> None:
    """Somebody with several has to know which one is meant."""
    for given, shown in (
        ("langfuse.example", "'langfuse.example/api/public/otel/v1/traces'"),
        ("ada:hunter2@lf.example", "'lf.example/api"),
        ("https://lf.example?key=hunter2#x", "'https://lf.example'"),
        ("sk-lf-0123456789abcdef", "…"),
    ):
        with pytest.raises(SettingError, match=r"byline\.E040") as refused:
            Langfuse(*KEYS, given)
        assert shown in refused.value.problem
        assert "hunter2" not in str(refused.value)
        assert "0123456789" not in str(refused.value)


@pytest.mark.parametrize(
    "keys",
    [
        ("sk-lf-1", "pk-lf-1"),
        ("pk-lf-1", "pk-lf-1"),
        ("sk-lf-1", "sk-lf-1"),
        ("https://lf.example", "pk-lf-1", "sk-lf-1"),
    ],
)
def test_keys_in_each_others_places_are_said(keys: tuple[str, ...]) -> None:
    """They would be refused with each post, and the secret one be shown as the public one is."""
    with pytest.raises(SettingError, match=r"byline\.E041") as refused:
        Langfuse(*keys)
    assert "lf-1" not in str(refused.value)


WRONG: list[tuple[dict[str, Any], str]] = [({"spans": "some"}, "E043"), ({"spans": None}, "E043")]


@pytest.mark.parametrize(("wrong", "identifier"), WRONG)
def test_spans_that_cannot_be_picked(wrong: dict[str, Any], identifier: str) -> None:
    with pytest.raises(SettingError, match=rf"byline\.{identifier}"):
        Langfuse(*KEYS, **wrong)


@pytest.mark.parametrize(
    ("endpoint", "posted"),
    [
        ("https://collector.example", "https://collector.example/v1/traces"),
        ("https://collector.example/", "https://collector.example/v1/traces"),
        ("https://collector.example/otlp", "https://collector.example/otlp/v1/traces"),
        ("https://collector.example/v1/traces", "https://collector.example/v1/traces"),
    ],
)
def test_otlp_endpoints_get_their_path(endpoint: str, posted: str) -> None:
    assert OTLP(endpoint).endpoint == posted


@pytest.mark.parametrize(
    ("variable", "value"), [("BYLINE_SAMPLING", "2"), ("BYLINE_SAMPLING", "x"), ("BYLINE_PRIVACY", "x")]
)
def test_wrong_variables_are_said(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingError, match=r"byline\.E001") as refused:
        OTLP("https://collector.example")
    assert variable in refused.value.problem


def test_no_secret_is_in_a_message_or_a_representation() -> None:
    secret = "sk-lf-0123456789abcdef"
    destination = Langfuse("pk-lf-0123456789", secret, "https://lf.example")
    assert secret not in repr(destination)
    with pytest.raises(SettingError) as refused:
        Langfuse("pk-lf-0123456789", secret, "http://lf.example")
    assert secret not in str(refused.value)
