"""The table of settings, the guard around every hook, and the counters."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from byline import errors, internal_metrics, settings
from byline.setting_table import BY_NAME, SETTINGS, parse_switch
from byline.settings import FoundSetting, SettingError, find, mask_secret


def test_setting_has_its_default() -> None:
    assert find("langfuse_base_url", {}) == FoundSetting("https://cloud.langfuse.com", None)
    assert find("capture_content", {}) == FoundSetting(False, None)
    assert find("disabled", {}) == FoundSetting(False, None)


def test_setting_names_its_variable() -> None:
    assert find("langfuse_base_url", {"LANGFUSE_HOST": " https://lf.local "}) == FoundSetting(
        "https://lf.local", "LANGFUSE_HOST"
    )


def test_the_first_variable_of_a_setting_wins() -> None:
    environ = {"LANGFUSE_OTEL_HOST": "c", "LANGFUSE_HOST": "b", "LANGFUSE_BASE_URL": "a"}
    for expected, variable in (("a", "LANGFUSE_BASE_URL"), ("b", "LANGFUSE_HOST"), ("c", "LANGFUSE_OTEL_HOST")):
        assert find("langfuse_base_url", environ) == FoundSetting(expected, variable)
        del environ[variable]


def test_a_blank_variable_counts_as_unset() -> None:
    assert find("langfuse_base_url", {"LANGFUSE_BASE_URL": "  ", "LANGFUSE_HOST": "b"}).variable == "LANGFUSE_HOST"


def test_the_environment_is_the_processes_own_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYLINE_GATEWAYS", "litellm")
    assert find("gateways") == FoundSetting("litellm", "BYLINE_GATEWAYS")


@pytest.mark.parametrize("name", BY_NAME)
def test_every_default_can_be_read(name: str) -> None:
    find(name, {})


def test_names_and_variables_are_not_used_twice() -> None:
    assert len(BY_NAME) == len(SETTINGS)
    variables = [variable for setting in SETTINGS for variable in setting.variables]
    assert len(set(variables)) == len(variables)
    assert all(setting.meaning for setting in SETTINGS)


def test_secrets_are_marked() -> None:
    """So that nothing prints them whole."""
    for setting in SETTINGS:
        assert setting.secret == any(
            word in setting.name for word in ("secret", "headers", "signing", "pseudonym_key", "sampling_key")
        )


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("TRUE", True), (" yes ", True), ("on", True), ("0", False), ("False", False), ("no", False),
     ("off", False), ("", False)],
)  # fmt: skip
def test_switches(text: str, value: bool) -> None:
    assert parse_switch(text) is value


@pytest.mark.parametrize(
    ("text", "value"),
    [("SPAN_ONLY", True), ("span_and_event", True), ("EVENT_ONLY", False), ("NO_CONTENT", False), ("true", True)],
)
def test_content_capture_speaks_opentelemetrys_words(text: str, value: bool) -> None:
    assert find("capture_content", {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": text}).value is value


def test_the_values_of_capturing_are_said() -> None:
    """OpenTelemetry's own, of which true and false are none."""
    variable = BY_NAME["capture_content"].variables[0]
    with pytest.raises(SettingError, match=f"{variable} must be NO_CONTENT, SPAN_ONLY"):
        find("capture_content", {variable: "perhaps"})


def test_quotes_around_a_value_are_said() -> None:
    """Env files keep them in some places; a key with quotes is another key."""
    for text in ('"pk-lf-1"', "'pk-lf-1'"):
        with pytest.raises(SettingError, match=r"byline\.E001: LANGFUSE_PUBLIC_KEY has quotes") as caught:
            find("langfuse_public_key", {"LANGFUSE_PUBLIC_KEY": text})
        assert "pk-lf" not in str(caught.value)
    # OpenTelemetry reads these by itself, and takes them.
    assert find("service_name", {"OTEL_SERVICE_NAME": '"app"'}).value == '"app"'


@pytest.mark.parametrize("name", ["signing_key", "sampling_key", "pseudonym_key", "audience", "langfuse_secret_key"])
def test_bytes_that_are_no_text_are_said(name: str) -> None:
    """Random bytes make no key; Python's own error would have the whole of it."""
    variable = BY_NAME[name].variables[0]
    with pytest.raises(SettingError, match=rf"byline\.E001: {variable} is not UTF-8") as caught:
        find(name, {variable: os.fsdecode(b"\xff" + b"k" * 32)})
    assert "kkk" not in str(caught.value)


def test_a_folder_may_have_any_name() -> None:
    """File names are bytes."""
    assert find("spool", {"BYLINE_SPOOL": os.fsdecode(b"/spool/\xff")}).value == "/spool/\udcff"


@pytest.mark.parametrize("name", ["disabled", "debug"])
def test_unreadable_value_is_an_error_with_advice(name: str) -> None:
    variable = BY_NAME[name].variables[0]
    with pytest.raises(SettingError) as caught:
        find(name, {variable: "perhaps"})
    assert caught.value.id == "byline.E001"
    assert caught.value.problem == f"{variable} must be true or false"
    assert str(caught.value) == f"byline.E001: {variable} must be true or false. To fix this, {caught.value.advice}."
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("secret", "shown"),
    [("", ""), ("short", "…"), ("twelve chars", "…"), ("sk-lf-0123456789abcdef", "sk-lf-…")],
)
def test_secret_is_not_printed_whole(secret: str, shown: str) -> None:
    assert mask_secret(secret) == shown
    assert not secret or secret not in mask_secret(secret)


def fail(where: str) -> None:
    try:
        raise LookupError("sk-secret")
    except LookupError:
        errors.report_internal_error(where)


def test_an_error_in_a_hook_fails_tests() -> None:
    with pytest.raises(LookupError):
        fail("place")
    assert internal_metrics.counter_values() == {}


def test_an_error_in_a_hook_is_counted_and_logged_once_without_its_message(
    production: pytest.LogCaptureFixture,
) -> None:
    for _ in range(3):
        fail("place")
    fail("another")
    assert internal_metrics.counter_values() == {"errors.another": 1, "errors.place": 3, "log.suppressed": 2}
    first, second = (entry.getMessage() for entry in production.records)
    assert first.startswith("byline.E090: place failed with LookupError at ")
    assert "test_settings.py:" in first
    assert first.endswith("; the app goes on without it")
    assert "another" in second
    assert "sk-secret" not in production.text
    assert {entry.levelno for entry in production.records} == {logging.WARNING}


def test_reporting_outside_of_an_error_does_nothing(production: pytest.LogCaptureFixture) -> None:
    errors.report_internal_error("place")
    assert (internal_metrics.counter_values(), production.text) == ({}, "")


def test_counters_of_many_threads_add_up() -> None:
    def work() -> None:
        for _ in range(1000):
            internal_metrics.increment("calls", 2)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert internal_metrics.counter_values() == {"calls": 16_000}
    internal_metrics.clear()
    assert internal_metrics.counter_values() == {}


@pytest.mark.integration
def test_importing_byline_starts_nothing() -> None:
    """No thread, no log, no tracer provider, no connection, with any environment."""
    program = (
        "import sys, threading, logging; import byline; from byline.asgi import AttributionMiddleware;"
        "from byline.wsgi import AttributionMiddleware; from opentelemetry import trace;"
        "assert threading.active_count() == 1;"
        "assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider);"
        "assert not logging.getLogger('byline').handlers;"
        "assert not {'fastapi', 'flask', 'openai', 'requests_mock'} & set(sys.modules)"
    )
    environ = {
        **os.environ,
        "LANGFUSE_PUBLIC_KEY": "pk-lf-x",
        "LANGFUSE_SECRET_KEY": "sk-lf-x",
        "LANGFUSE_BASE_URL": "http://127.0.0.1:9",
    }
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


FOLDER = '{"url": "file:///src/byline", "dir_info": {}}'
EDITABLE = '{"url": "file:///src/byline", "dir_info": {"editable": true}}'
REPOSITORY = '{"url": "https://git.example/b.git", "vcs_info": {"vcs": "git", "commit_id": "1a"}}'


@pytest.mark.parametrize(
    ("installer", "marker", "origin", "command"),
    [
        ("pip", "", None, "pip install 'byline[demo]'"),
        ("pip", "", FOLDER, "pip install '/src/byline[demo]'"),
        ("pip", "", EDITABLE, "pip install -e '/src/byline[demo]'"),
        ("uv", "", None, "uv pip install 'byline[demo]'"),
        ("uv", "../uv.lock", None, "uv add 'byline[demo]'"),
        ("uv", "../uv.lock", EDITABLE, "uv add --editable '/src/byline[demo]'"),
        ("uv", "uv-receipt.toml", EDITABLE, "uv tool install --force -e '/src/byline[demo]'"),
        ("uv", "pipx_metadata.json", FOLDER, "pipx install --force '/src/byline[demo]'"),
        ("pip", "pipx_metadata.json", None, "pipx install --force 'byline[demo]'"),
        ("poetry", "", None, "poetry add --extras demo 'byline'"),
        ("poetry", "", EDITABLE, "poetry add --extras demo --editable '/src/byline'"),
        ("poetry", "", REPOSITORY, "poetry add --extras demo 'git+https://git.example/b.git@1a'"),
        ("pdm", "", None, "pdm add 'byline[demo]'"),
        ("conda", "", None, "pip install 'byline[demo]'"),
    ],
)
def test_the_advised_command_is_that_of_the_installer(
    tmp_path: Path, installer: str, marker: str, origin: str | None, command: str
) -> None:
    """Recognised by the files that uv and pipx leave in and beside an environment."""
    environment = tmp_path / "environment"
    environment.mkdir()
    if marker:
        (environment / marker).touch()
    assert settings._command(installer, environment, origin, "demo") == command
