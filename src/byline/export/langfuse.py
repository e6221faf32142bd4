"""Langfuse as a destination: cloud regions and own servers."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import requests

from byline import settings
from byline.export.destination import Destination
from byline.export.draft import Draft
from byline.export.observations import observe
from byline.export.options import CheckResult, Options, Spans
from byline.export.pipeline import Step
from byline.settings import SettingError
from byline.spans import attributes as names

if TYPE_CHECKING:
    from typing_extensions import Unpack

_PATH: Final = "/api/public/otel"


class Langfuse(Destination):
    """Langfuse, in the cloud or your own.

    Args:
        public_key: ``pk-lf-…``; by default ``LANGFUSE_PUBLIC_KEY``.
        secret_key: ``sk-lf-…``; by default ``LANGFUSE_SECRET_KEY``.
        base_url: ``https://cloud.langfuse.com`` (EU, the default), ``https://us.cloud.langfuse.com``
            or your own server, with or without ``/api/public/otel``.
        spans: ``"llm"``, ``"all"`` or a function of the finished span.
        **options: As every destination takes them, see `Destination`: ``traces``, ``sampling``,
            ``keep_errors``, ``privacy``, ``mask``, filters, ``conventions``, ``spool``, ``label``,
            ``allow_http``. ``unsampled`` is ``"record"`` here, for a gateway sends every call.

    Raises:
        SettingError: ``byline.E041`` where a key is missing, and whatever `Destination` raises.

    Example:
        >>> Langfuse("pk-lf-1", "sk-lf-1", "https://us.cloud.langfuse.com").endpoint
        'https://us.cloud.langfuse.com/api/public/otel/v1/traces'
    """

    name = "Langfuse"

    def __init__(
        self,
        public_key: str | None = None,
        secret_key: str | None = None,
        base_url: str | None = None,
        *,
        spans: Spans = "llm",
        **options: Unpack[Options],
    ) -> None:
        public_key = public_key or settings.find("langfuse_public_key").value
        secret_key = secret_key or settings.find("langfuse_secret_key").value
        for variable, key in (("LANGFUSE_PUBLIC_KEY", public_key), ("LANGFUSE_SECRET_KEY", secret_key)):
            if not key:
                raise SettingError("byline.E041", f"{variable} is missing", f"set {variable}, or pass both keys")
        base = (base_url or settings.find("langfuse_base_url").value).rstrip("/")
        base = base.removesuffix("/v1/traces").removesuffix(_PATH)
        token = base64.b64encode(f"{public_key}:{secret_key}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "x-langfuse-ingestion-version": "4"}
        options.setdefault("unsampled", "record")
        super().__init__(f"{base}{_PATH}/v1/traces", headers=headers, spans=spans, **options)
        self.base_url = base

    def steps(self) -> Sequence[Step]:
        """Say of each span what it is to Langfuse, and the environment's values where it says none."""
        defaults = {
            names.ENVIRONMENT: settings.find("langfuse_environment").value,
            names.RELEASE: settings.find("langfuse_release").value,
        }
        defaults = {name: value for name, value in defaults.items() if value}

        def fill(draft: Draft) -> None:
            draft.attributes = {**defaults, **draft.attributes}

        return (fill, observe) if defaults else (observe,)

    def check(self) -> list[CheckResult]:
        """Test the credentials, then an export."""
        try:
            answer = requests.get(
                f"{self.base_url}/api/public/projects",
                headers={"Authorization": self.headers["Authorization"]},
                timeout=10,
                # Else requests would put in what stands in ~/.netrc for the host.
                auth=lambda request: request,
                # Elsewhere the keys are nobody's business.
                allow_redirects=False,
            )
            if answer.status_code == 200:
                projects = answer.json()["data"]
                result = CheckResult("Langfuse credentials", bool(projects), f"project {projects[0].get('name', '?')}")
            else:
                advice = (
                    "these keys are not of this server: check both keys and the region in LANGFUSE_BASE_URL"
                    if answer.status_code in (401, 403)
                    else "check LANGFUSE_BASE_URL, and that the server is Langfuse 3.22 or newer"
                )
                result = CheckResult("Langfuse credentials", False, f"HTTP {answer.status_code}", advice)
        except (OSError, ValueError, LookupError, TypeError) as error:
            result = CheckResult(
                "Langfuse credentials", False, type(error).__name__, f"no Langfuse answers at {self.base_url}"
            )
        return [result, *super().check()] if result.ok else [result]
