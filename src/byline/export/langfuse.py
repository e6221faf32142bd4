"""Langfuse as a destination: cloud regions and own servers."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import requests

from byline import settings
from byline.export.delivery import messages, tls
from byline.export.destination import Destination
from byline.export.exporter import SpanTransform
from byline.export.langfuse_mapping.observation import map_span
from byline.export.options import CheckResult, Options, Spans
from byline.export.span_copy import SpanCopy
from byline.genai import attributes as names
from byline.settings import SettingError

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
        SettingError: ``byline.E041`` where a key is missing or is not what it should be, and whatever
            `Destination` raises.

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
        _check_order(public_key, secret_key)
        base = (base_url or settings.find("langfuse_base_url").value).rstrip("/")
        base = base.removesuffix("/v1/traces").removesuffix(_PATH)
        token = base64.b64encode(f"{public_key}:{secret_key}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "x-langfuse-ingestion-version": "4"}
        options.setdefault("unsampled", "record")
        super().__init__(f"{base}{_PATH}/v1/traces", headers=headers, spans=spans, **options)
        self.base_url = base
        self._public_key = public_key

    def credentials(self) -> str:
        """Say which keys are in force, by so much of the public one as tells projects apart."""
        return f"public key {settings.shorten(self._public_key)}"

    def rewrites(self) -> Sequence[SpanTransform]:
        """Say of each span what it is to Langfuse, and the environment's values where it says none."""
        defaults = {
            names.ENVIRONMENT: settings.find("langfuse_environment").value,
            names.RELEASE: settings.find("langfuse_release").value,
        }
        defaults = {name: value for name, value in defaults.items() if value}

        def fill(draft: SpanCopy) -> None:
            draft.attributes = {**defaults, **draft.attributes}

        return (fill, map_span) if defaults else (map_span,)

    def check(self) -> list[CheckResult]:
        """Test the credentials, then an export."""
        result, goes_on = self._check_credentials()
        return [result, *super().check()] if goes_on else [result]

    def _check_credentials(self) -> tuple[CheckResult, bool]:
        """Return what was found, and whether an export may tell more."""
        name = "Langfuse credentials"
        try:
            answer = requests.get(
                f"{self.base_url}/api/public/projects",
                headers={"Authorization": self.headers["Authorization"]},
                timeout=10,
                verify=tls.ca_file(),
                cert=tls.client_cert(),
                # Else requests would put in what stands in ~/.netrc for the host.
                auth=lambda request: request,
                # Elsewhere the keys are nobody's business.
                allow_redirects=False,
            )
        except OSError as error:
            told = messages.describe_error(error)
            advice = f"no Langfuse answers at {self.base_url}: {messages.advice_for_error(told, self.base_url)}"
            return CheckResult(name, False, told, advice), False
        if answer.status_code in (401, 403):
            advice = "these keys are not of this server: check both keys and the region in LANGFUSE_BASE_URL"
            return CheckResult(name, False, f"HTTP {answer.status_code}", advice), False
        try:
            project = answer.json()["data"][0].get("name", "?")
        except (ValueError, LookupError, TypeError, AttributeError):
            project = None
        if answer.status_code == 200 and project is not None:
            return CheckResult(name, True, f"project {project}"), True
        what = ", a web page" if messages.is_html_page(answer) else ""
        advice = "check LANGFUSE_BASE_URL: it is the address of Langfuse alone, without a project's path"
        return CheckResult(name, False, f"HTTP {answer.status_code} from {answer.url}{what}", advice), True


def _check_order(public_key: str, secret_key: str) -> None:
    """Raise `SettingError` ``byline.E041`` where arguments or variables have each other's values."""
    if "://" in public_key:
        raise SettingError("byline.E041", "public_key is a URL", "pass Langfuse(public_key, secret_key, base_url)")
    if public_key.startswith("sk-lf-") or secret_key.startswith("pk-lf-"):
        raise SettingError(
            "byline.E041",
            "the public key is a secret one, or the secret key a public one",
            "give pk-lf-… as LANGFUSE_PUBLIC_KEY or public_key, and sk-lf-… as LANGFUSE_SECRET_KEY or secret_key",
        )
