"""Langfuse as a destination, in the cloud or self-hosted."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from byline import settings
from byline.export.decisions import Spans
from byline.export.delivery import messages
from byline.export.delivery.http_client import HttpClient
from byline.export.destination import Destination
from byline.export.langfuse_mapping.observation import drop_mapped, map_span
from byline.export.options import Options
from byline.export.pipeline import SpanTransform
from byline.export.self_test import CheckResult
from byline.export.span_copy import SpanCopy
from byline.genai import attributes as names
from byline.media import MediaBudget
from byline.settings import SettingError
from byline.urls import without_credentials

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from byline.export.langfuse_mapping.media import MediaParts

_PATH: Final = "/api/public/otel"


class Langfuse(Destination):
    """Langfuse, in the cloud or self-hosted.

    Args:
        public_key: ``pk-lf-…``; by default ``LANGFUSE_PUBLIC_KEY``.
        secret_key: ``sk-lf-…``; by default ``LANGFUSE_SECRET_KEY``.
        base_url: ``https://cloud.langfuse.com`` (EU, the default), ``https://us.cloud.langfuse.com``
            or the URL of your own server, with or without ``/api/public/otel``.
        spans: ``"llm"``, ``"all"`` or a function of the finished span.
        media: Whether images, audio and files of captured conversations are uploaded to Langfuse, by default
            ``BYLINE_MEDIA`` or false. At most 20 of 10 MiB for each span, and none with ``privacy``; the others
            are named by type and size.
        **options: The settings of every destination: `byline.export.options.DestinationOptions`. ``unsampled`` is
            ``"record"`` by default, because a gateway sends every call.

    Raises:
        SettingError: ``byline.E041`` if a key is missing or in the place of the other one, ``byline.E152`` for
            ``media`` that is no boolean, and the errors of `Destination`.

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
        media: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        media = settings.find("media").value if media is None else media
        if not isinstance(media, bool):
            raise SettingError("byline.E152", f"media is {type(media).__name__}", "pass True or False")
        public_key = public_key or settings.find("langfuse_public_key").value
        secret_key = secret_key or settings.find("langfuse_secret_key").value
        for variable, key in (("LANGFUSE_PUBLIC_KEY", public_key), ("LANGFUSE_SECRET_KEY", secret_key)):
            if not key:
                raise SettingError("byline.E041", f"{variable} is missing", f"set {variable}, or pass both keys")
        _reject_swapped_keys(public_key, secret_key)
        base = (base_url or settings.find("langfuse_base_url").value).rstrip("/")
        base = base.removesuffix("/v1/traces").removesuffix(_PATH)
        token = base64.b64encode(f"{public_key}:{secret_key}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "x-langfuse-ingestion-version": "4"}
        options.setdefault("unsampled", "record")
        super().__init__(f"{base}{_PATH}/v1/traces", headers=headers, spans=spans, **options)
        self.base_url = base
        self._public_key = public_key
        if media and not self.options.privacy:
            self.media = MediaBudget()

    def credentials(self) -> str:
        """Return the beginning of the public key, which tells projects apart."""
        return f"public key {settings.shorten_public_key(self._public_key)}"

    def trace_url(self, trace_id: str) -> str | None:
        """Return the page of a trace, which Langfuse finds in whichever project has the trace."""
        return f"{without_credentials(self.base_url)}/trace/{trace_id}"

    def transforms(self) -> Sequence[SpanTransform]:
        """Return the mapping to Langfuse's attributes, and the default release and environment if any is set."""
        environment = settings.find("langfuse_environment").value
        release = settings.find("langfuse_release").value
        defaults = {names.ENVIRONMENT: environment} if environment else {}
        all_defaults = {**defaults, names.RELEASE: release} if release else defaults

        def set_defaults(span_copy: SpanCopy) -> None:
            stated = defaults if span_copy.joins_trace else all_defaults
            span_copy.attributes = {**stated, **span_copy.attributes}

        return (set_defaults, map_span, drop_mapped) if all_defaults else (map_span, drop_mapped)

    def media_parts(self) -> MediaParts | None:
        """Return the stage that uploads binary parts to the project, if the destination is told to."""
        if self.media is None:
            return None
        # Few apps upload parts.
        from byline.export.delivery.media_upload import MediaUploader
        from byline.export.langfuse_mapping.media import MediaParts

        uploader = MediaUploader(
            self.label,
            self.base_url,
            self.headers["Authorization"],
            transport=self.transport,
            allow_http=self.options.allow_http,
        )
        return MediaParts(uploader, self.media)

    def check(self) -> list[CheckResult]:
        """Test the credentials, then an export."""
        result, is_reachable = self._check_credentials()
        return [result, *super().check()] if is_reachable else [result]

    def _check_credentials(self) -> tuple[CheckResult, bool]:
        """Return the result, and whether a test export may tell more."""
        name = "Langfuse credentials"
        url = f"{self.base_url}/api/public/projects"
        client = HttpClient(url, {"Authorization": self.headers["Authorization"]}, transport=self.transport)
        response = client.send_request("GET")
        shown = without_credentials(self.base_url)
        client.close()
        if response.status is None:
            advice = messages.advice_for_error(response.reason, shown)
            return CheckResult(name, False, response.reason, f"no Langfuse answers at {shown}: {advice}"), False
        if response.status in (401, 403):
            advice = "the server does not know these keys: check both keys and the region in LANGFUSE_BASE_URL"
            return CheckResult(name, False, f"HTTP {response.status}", advice), False
        try:
            project = json.loads(response.body)["data"][0].get("name", "?")
        except (ValueError, LookupError, TypeError, AttributeError):
            project = None
        if response.status == 200 and project is not None:
            return CheckResult(name, True, f"project {messages.one_line(project)}"), True
        page = ", a web page" if response.is_html_page else ""
        advice = "check LANGFUSE_BASE_URL: it is the URL of Langfuse itself, without the path of a project"
        return CheckResult(name, False, f"HTTP {response.status} from {without_credentials(url)}{page}", advice), True


def _reject_swapped_keys(public_key: str, secret_key: str) -> None:
    """Raise `SettingError` ``byline.E041`` if arguments or variables are swapped."""
    if "://" in public_key:
        raise SettingError("byline.E041", "public_key is a URL", "pass Langfuse(public_key, secret_key, base_url)")
    if public_key.startswith("sk-lf-") or secret_key.startswith("pk-lf-"):
        raise SettingError(
            "byline.E041",
            "the public key is a secret one, or the secret key a public one",
            "set LANGFUSE_PUBLIC_KEY or public_key to pk-lf-…, and LANGFUSE_SECRET_KEY or secret_key to sk-lf-…",
        )
