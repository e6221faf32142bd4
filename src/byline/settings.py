"""The lookup of a setting in the environment and in the configuration file, and the error of a wrong one."""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

import msgspec

from byline.setting_table import BY_NAME, SETTINGS

#: Prefix of variables → the similarity to a setting that counts as a misspelling. Higher for Langfuse's, because the
#: Langfuse SDK has variables of its own.
_MISSPELLING_SIMILARITY: Final = {"BYLINE_": 0.7, "LANGFUSE_": 0.85}


class SettingError(ValueError):
    """An invalid setting.

    Attributes:
        id: Stable id, ``byline.E0xx``; ``docs/errors.md`` lists them.
        problem: The problem.
        advice: How to fix it.
    """

    def __init__(self, identifier: str, problem: str, advice: str) -> None:
        super().__init__(f"{identifier}: {problem}. To fix this, {advice}.")
        self.id = identifier
        self.problem = problem
        self.advice = advice


class FoundSetting(NamedTuple):
    """The value of a setting and the variable that it came from, ``None`` for the default."""

    value: Any
    variable: str | None


def find(name: str, environ: Mapping[str, str] | None = None) -> FoundSetting:
    """Return a setting from the environment, or the default.

    Raises:
        SettingError: ``byline.E001`` if the variable's value cannot be parsed.
    """
    setting = BY_NAME[name]
    values = os.environ if environ is None else environ
    for variable in setting.variables:
        text = values.get(variable, "").strip()
        if text:
            if _is_quoted(text) and not variable.startswith("OTEL_"):
                raise SettingError(
                    "byline.E001",
                    f"{variable} has quotes around its value, which count as part of the value",
                    f"set {variable} without the quotes; docker's --env-file, for example, does not remove them",
                )
            # File names may be any bytes.
            if not (text.isprintable() or name == "spool" or variable.startswith("OTEL_") or _is_utf8(text)):
                raise SettingError(
                    "byline.E001",
                    f"{variable} is not UTF-8",
                    f"set {variable} to text; a key can be in hexadecimal digits",
                )
            try:
                return FoundSetting(setting.parse(text), variable)
            except ValueError as error:
                raise SettingError("byline.E001", f"{variable} {error}", f"correct or unset {variable}") from None
    written = config_file.values().get(name) if environ is None else None
    if written is not None:
        try:
            return FoundSetting(setting.parse(written), f"{name} in {config_file.name}")
        except ValueError as error:
            where = f"{name} in {config_file.name}"
            raise SettingError("byline.E001", f"{where} {error}", f"correct or remove {where}") from None
    return FoundSetting(setting.parse(setting.default), None)


def resolve(name: str, argument: Any) -> Any:
    """Return an argument of code, or the setting if the argument is ``None``."""
    return find(name).value if argument is None else argument


class ConfigFile:
    """The settings in ``byline.toml``, in ``[tool.byline]`` of ``pyproject.toml``, or in the file of ``BYLINE_CONFIG``.

    The file is read once, from the folder in which the process starts.
    """

    def __init__(self) -> None:
        self.name = ""
        self._values: dict[str, str] | None = None
        self._error: SettingError | None = None

    def check(self) -> None:
        """Raise the error of a file that cannot be read, which may forbid what the defaults allow.

        Raises:
            SettingError: ``byline.E136``.
        """
        self.values()
        if self._error is not None:
            raise self._error

    def values(self) -> Mapping[str, str]:
        """Return the settings as texts, in the form of their variables; none if the file cannot be read."""
        if self._values is None:
            try:
                self.load()
            except SettingError:
                # `instrument` reports this.
                self._values = {}
        return self._values or {}

    def load(self) -> Mapping[str, str]:
        """Read the file, and return keys that are no settings, each with the most similar setting.

        Raises:
            SettingError: ``byline.E136`` if the file is missing, is not TOML, or ``tool.byline`` is no table.
        """
        self._values, self._error = {}, None
        try:
            return self._load()
        except SettingError as error:
            self._error = error
            raise

    def _load(self) -> Mapping[str, str]:
        named = os.environ.get("BYLINE_CONFIG", "").strip()
        for path in [Path(named)] if named else [Path("byline.toml"), Path("pyproject.toml")]:
            if not named and not path.is_file():
                continue
            try:
                text = path.read_text(encoding="utf-8")
                if path.name == "pyproject.toml" and "tool.byline" not in text:
                    continue
                table: Any = msgspec.toml.decode(text)
            except (OSError, UnicodeDecodeError, msgspec.DecodeError, ImportError) as error:
                why = str(error) if isinstance(error, ImportError | OSError) else "it is not valid TOML"
                raise SettingError("byline.E136", f"{path} cannot be read: {why}", f"correct {path}") from None
            for key in ("tool", "byline") if path.name == "pyproject.toml" else ():
                table = table.get(key, {})
                if not isinstance(table, dict):
                    raise SettingError("byline.E136", f"{key} in {path} is no table", f"correct {path}")
            self.name = str(path)
            self._values = {key: _to_text(value) for key, value in table.items() if key in BY_NAME}
            unknown = [key for key in table if key not in BY_NAME]
            return {key: next(iter(difflib.get_close_matches(key, BY_NAME, 1)), "") for key in unknown}
        return {}

    def clear(self) -> None:
        """Read the file again when it is next needed."""
        self._values = None


config_file: Final = ConfigFile()


def _to_text(value: Any) -> str:
    """Return a value of TOML as it would be written in a variable."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(_to_text, value)) or "none"
    if isinstance(value, dict):
        items = ((key, item if isinstance(item, list) else [item]) for key, item in value.items())
        return ",".join(f"{key}={'|'.join(map(_to_text, item))}" for key, item in items)
    return str(value)


def find_misspelt(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return variables that look like misspelt settings, each with the setting's variable.

    Example:
        >>> find_misspelt({"BYLINE_PRIVAT": "1", "BYLINE_DEBUG": "1", "LANGFUSE_BASEURL": "https://lf.example"})
        {'BYLINE_PRIVAT': 'BYLINE_PRIVACY', 'LANGFUSE_BASEURL': 'LANGFUSE_BASE_URL'}
    """
    known = {"BYLINE_CONFIG"} | {variable for setting in SETTINGS for variable in setting.variables}
    misspelt: dict[str, str] = {}
    for variable in os.environ if environ is None else environ:
        for prefix, similarity in _MISSPELLING_SIMILARITY.items():
            if variable.startswith(prefix) and variable not in known:
                # Without the common prefix, which would make all names similar.
                suffixes = [name.removeprefix(prefix) for name in known if name.startswith(prefix)]
                for suffix in difflib.get_close_matches(variable.removeprefix(prefix), suffixes, 1, similarity):
                    misspelt[variable] = prefix + suffix
    return misspelt


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"


def mask_secret(secret: str) -> str:
    """Return the first six characters of a secret, none of a short one."""
    return f"{secret[:6]}…" if len(secret) > 12 else "…" if secret else ""


def shorten_public_key(public: str) -> str:
    """Return the beginning of a public key, which is enough to tell projects apart.

    Example:
        >>> shorten_public_key("pk-lf-0123456789abcdef")
        'pk-lf-01234567…'
    """
    return f"{public[:14]}…" if len(public) > 14 else public


def install_command(extra: str) -> str:
    """Return the command that adds an extra to byline, as byline itself was installed.

    For pip, uv (environments, projects and tools), pipx, Poetry and PDM. A package index is named only if byline came
    from one, not from a folder, a wheel or a repository.
    """
    try:
        distribution = metadata.distribution("byline")
    except metadata.PackageNotFoundError:
        return f"pip install 'byline[{extra}]'"
    installer = (distribution.read_text("INSTALLER") or "pip").split()[0].lower()
    return _command(installer, Path(sys.prefix), distribution.read_text("direct_url.json"), extra)


def program_command(package: str) -> str:
    """Return the command that installs a program, with the tool by which byline was installed."""
    tool = install_command("").partition(" ")[0]
    command = {"uv": "uv tool", "pipx": "pipx"}.get(tool, "pip")
    return f"{command} install {package}"


def _command(installer: str, environment: Path, direct_url: str | None, extra: str) -> str:
    """Return the command of an installer for a virtual environment."""
    requirement = _requirement(direct_url, extra)
    if (environment / "uv-receipt.toml").is_file():
        return f"uv tool install --force {requirement}"
    if (environment / "pipx_metadata.json").is_file():
        return f"pipx install --force {requirement}"
    if installer == "uv" and (environment.parent / "uv.lock").is_file():
        return f"uv add {requirement.replace('-e ', '--editable ', 1)}"
    if installer == "poetry":
        # Poetry takes the extra of a folder or a repository by its option only.
        plain = requirement.replace(f"[{extra}]", "", 1).replace("byline @ ", "", 1).replace("-e ", "--editable ", 1)
        return f"poetry add --extras {extra} {plain}"
    command = {"uv": "uv pip install", "pdm": "pdm add"}.get(installer, "pip install")
    return f"{command} {requirement}"


def _requirement(direct_url: str | None, extra: str) -> str:
    """Return the requirement for an origin as PEP 610 records it.

    Example:
        >>> _requirement('{"url": "file:///src/byline", "dir_info": {"editable": true}}', "demo")
        "-e '/src/byline[demo]'"
        >>> _requirement('{"url": "https://git.example/b.git", "vcs_info": {"vcs": "git", "commit_id": "1a"}}', "demo")
        "'byline[demo] @ git+https://git.example/b.git@1a'"
    """
    origin = json.loads(direct_url) if direct_url else None
    if not origin:
        return f"'byline[{extra}]'"
    url = str(origin["url"])
    if "dir_info" in origin:
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f"{editable}'{url2pathname(urlsplit(url).path)}[{extra}]'"
    version_control = origin.get("vcs_info")
    if version_control:
        url = f"{version_control['vcs']}+{url}@{version_control['commit_id']}"
    return f"'byline[{extra}] @ {url}'"
