"""API keys: their hash, and their names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from byline.gateways.keys import hash_key, key_hash_from_headers, key_settings, parse_aliases
from byline.settings import SettingError


@pytest.fixture(autouse=True)
def no_aliases() -> Iterator[None]:
    yield
    key_settings.configure()


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer sk-1"},
        {"authorization": "bearer  sk-1 "},
        {"x-api-key": "sk-1"},
        {"api-key": "sk-1"},
        {"x-goog-api-key": "sk-1"},
        {"authorization": "Bearer ", "x-litellm-api-key": "sk-1"},
    ],
)
def test_key_is_found_in_the_header_of_each_sdk(headers: dict[str, str]) -> None:
    assert key_hash_from_headers(headers) == (hash_key("sk-1"), True)


def test_other_credentials_are_no_key() -> None:
    assert key_hash_from_headers({"authorization": "Basic dTpw"}) == (None, False)
    assert key_hash_from_headers({}) == (None, False)


def test_names_by_the_beginning_of_the_hash() -> None:
    """A gateway's own names come first."""
    key_settings.configure(parse_aliases(f"{hash_key('sk-1')[:16].upper()}=blue , {hash_key('sk-2')}=green,"))
    assert key_settings.find_alias(hash_key("sk-1")) == "blue"
    assert key_settings.find_alias(hash_key("sk-2")) == "green"
    assert key_settings.find_alias(hash_key("sk-1"), {hash_key("sk-1"): "own"}) == "own"
    assert key_settings.find_alias(hash_key("sk-3")) is None
    assert key_settings.find_alias(None) is None


@pytest.mark.parametrize("entry", ["sk-secret=blue", "0f2c10bf0f2c10bf", "0f2c10bf0f2c10bf=", "0f2c10bf=x"])
def test_invalid_key_hash_is_refused_and_not_repeated(entry: str) -> None:
    """It may be the key itself."""
    with pytest.raises(SettingError, match=r"byline\.E033: entry 2 of") as caught:
        parse_aliases(f"aaaaaaaaaaaaaaaa=ok,{entry}")
    assert entry.partition("=")[0] not in str(caught.value)
