"""Says which extra is missing, instead of a traceback."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from byline.settings import SettingError

#: What the demo imports beyond the core's dependencies.
DEMO: Final = (
    "fastapi",
    "flask",
    "openai",
    "opentelemetry.instrumentation.genai.openai",
    "opentelemetry.instrumentation.wsgi",
    "rich",
    "uvicorn",
)


def require_packages(extra: str, *modules: str) -> None:
    """Make sure that modules can be imported.

    Raises:
        SettingError: ``byline.E051``, with the command that installs them.
    """
    missing = [module for module in modules if not _is_there(module)]
    if missing:
        raise SettingError(
            "byline.E051",
            f"this needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            f"run: pip install 'byline[{extra}]'",
        )


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:
        # One of its parents is missing already.
        return False
