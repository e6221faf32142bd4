"""Uploads binary parts through Langfuse's media API.

``POST /api/public/media`` links a part to its observation, and returns a signed URL unless Langfuse has the bytes
already; the bytes are put there, and ``PATCH /api/public/media/{id}`` tells Langfuse that they have arrived. Source:
Langfuse's ``fern/apis/server/definition/media.yml`` and its SDK's ``media_manager.py``.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from datetime import datetime, timezone
from typing import Any, Final
from urllib.parse import SplitResult

from byline import errors, internal_metrics, settings
from byline.export.delivery import messages
from byline.export.delivery.http_client import HttpClient, HttpResponse
from byline.export.delivery.transport import Transport
from byline.media import Media
from byline.urls import is_loopback, split_url, without_credentials

#: The types that Langfuse 4.16 accepts.
CONTENT_TYPES: Final = frozenset(
    {
        *(f"image/{kind}" for kind in ("png", "jpeg", "jpg", "webp", "gif", "svg+xml", "tiff", "bmp", "avif", "heic")),
        *(f"audio/{kind}" for kind in ("mpeg", "mp3", "wav", "ogg", "oga", "aac", "mp4", "flac", "opus", "webm")),
        *(f"video/{kind}" for kind in ("mp4", "webm", "ogg", "mpeg", "quicktime", "x-msvideo", "x-matroska")),
        *(f"text/{kind}" for kind in ("plain", "html", "css", "csv", "markdown")),
        *(f"application/{kind}" for kind in ("pdf", "msword", "vnd.ms-excel", "zip", "json", "xml", "octet-stream")),
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    }
)
_PATH: Final = "/api/public/media"
#: Seconds for one part, all of its requests together.
_TIMEOUT: Final = 10.0
#: Seconds without any upload after a failure that concerns all parts.
_PAUSE: Final = 60.0
_MAX_LINKS: Final = 4096


class MediaUploader:
    """Uploads the binary parts of one Langfuse project, one after the other, on the thread that calls.

    Args:
        name: The destination's name in counters and messages.
        base_url: The URL of Langfuse.
        authorization: The header of the project's keys, which is sent to Langfuse alone.
        transport: TLS and proxy.
        allow_http: Hosts that may get parts unencrypted.
        is_behind: Whether the destination has no time for uploads, because many spans wait.
        clock: Tells the time.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        authorization: str,
        *,
        transport: Transport,
        allow_http: Collection[str] = (),
        is_behind: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._base_url = base_url
        self._authorization = authorization
        self._transport = transport
        self._allow_http = allow_http
        self.is_behind = is_behind
        self._clock = clock
        self._paused_until = 0.0
        self._deadline: float | None = None
        #: The client of the request in flight.
        self._client: HttpClient | None = None
        #: Parts that are linked to a trace. A conversation repeats its images in every request.
        self._links: OrderedDict[tuple[str, str], None] = OrderedDict()

    def set_deadline(self, until: float) -> None:
        """End every request by a moment of the monotonic clock, also the one in flight. Safe from any thread."""
        self._deadline = until
        client = self._client
        if client is not None:
            client.set_deadline(until)

    def upload(self, media: Media, *, media_id: str, trace_id: str, observation_id: str, field: str) -> bool:
        """Upload a part unless Langfuse has it. Returns whether its reference can be shown; counts both outcomes.

        Args:
            media: The part.
            media_id: Its id in Langfuse.
            trace_id: The trace, as hex digits like the next one.
            observation_id: The observation that shows the part.
            field: ``input`` or ``output``.
        """
        link = (trace_id, media_id)
        if link in self._links:
            return True
        is_uploaded = False
        if media.content_type in CONTENT_TYPES and self._clock() >= self._paused_until and not self.is_behind():
            try:
                is_uploaded = self._upload(
                    media,
                    media_id,
                    {"traceId": trace_id, "observationId": observation_id, "field": field},
                )
            except Exception:
                errors.report_internal_error("media")
        if is_uploaded:
            self._links[link] = None
            while len(self._links) > _MAX_LINKS:
                self._links.popitem(last=False)
        internal_metrics.increment(f"{self._name}.media.{'uploaded' if is_uploaded else 'left_out'}")
        return is_uploaded

    def _upload(self, media: Media, media_id: str, place: dict[str, str]) -> bool:
        until = self._clock() + _TIMEOUT
        data = media.decode()
        described = {"contentType": media.content_type, "contentLength": len(data), "sha256Hash": media.sha256}
        response = self._call("POST", _PATH, {**place, **described}, until)
        stated = _object_in(response)
        if response.status not in (200, 201) or stated.get("mediaId") != media_id:
            return self._fail(response, "Langfuse", pauses=response.status != 400)
        upload_url = stated.get("uploadUrl")
        if upload_url is None:
            return True
        url = split_url(upload_url)
        if url is None or not self._may_get_bytes(url):
            return False
        stored = self._put(upload_url, url, data, media, until)
        is_stored = stored.status in (200, 201, 204)
        report = {
            "uploadedAt": datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            # Langfuse shows parts with 200 or 201 alone.
            "uploadHttpStatus": 200 if stored.status == 204 else stored.status or 500,
            "uploadHttpError": None if is_stored else stored.summary[:200],
        }
        told = self._call("PATCH", f"{_PATH}/{media_id}", report, until)
        if not is_stored:
            return self._fail(stored, url.hostname or "")
        return told.is_accepted or self._fail(told, "Langfuse")

    def _may_get_bytes(self, url: SplitResult) -> bool:
        """Return whether the host that Langfuse names may get parts: over TLS, or where spans go unencrypted too."""
        own, host = split_url(self._base_url), url.hostname or ""
        if url.scheme == "https":
            return True
        allowed = {*self._allow_http, *settings.find("allow_http").value}
        is_near = own is not None and (is_loopback(own.hostname or "") if is_loopback(host) else own.hostname == host)
        if host in allowed or (is_near and own is not None and own.scheme == "http"):
            return True
        self._paused_until = self._clock() + _PAUSE
        errors.warn_once(
            f"media.http.{self._name}",
            "byline.E153: %s stores media at %s, which would get them unencrypted; images and other binary parts are "
            "left out. Let Langfuse name an https:// URL, or pass allow_http=[%r] to the destination",
            self._name,
            host,
            host,
        )
        return False

    def _put(self, upload_url: str, url: SplitResult, data: bytes, media: Media, until: float) -> HttpResponse:
        headers = {"content-type": media.content_type}
        if not (url.hostname or "").endswith("storage.googleapis.com"):
            # Google's store refuses headers that are not signed.
            headers |= {"x-ms-blob-type": "BlockBlob", "x-amz-checksum-sha256": media.sha256}
        transport = self._transport
        own = split_url(self._base_url)
        if own is None or own.netloc != url.netloc:
            # The client certificate is meant for Langfuse.
            transport = Transport(proxy=transport.proxy, more_authorities=transport.ca_file)
        return self._request(HttpClient(upload_url, headers, transport=transport), "PUT", data, until)

    def _call(self, method: str, path: str, body: dict[str, Any], until: float) -> HttpResponse:
        headers = {"authorization": self._authorization, "content-type": "application/json"}
        client = HttpClient(self._base_url + path, headers, transport=self._transport)
        return self._request(client, method, json.dumps(body).encode(), until)

    def _request(self, client: HttpClient, method: str, data: bytes, until: float) -> HttpResponse:
        client.timeout = min(client.timeout, max(until - self._clock(), 0.0))
        # Before the look at the deadline, which another thread may set now.
        self._client = client
        if self._deadline is not None:
            client.set_deadline(self._deadline)
        try:
            return client.send_request(method, data)
        finally:
            self._client = None
            client.close()

    def _fail(self, response: HttpResponse, place: str, *, pauses: bool = True) -> bool:
        messages.debug_print(f"{self._name}: media refused by {place}: {response.summary}")
        if pauses:
            self._paused_until = self._clock() + _PAUSE
            errors.warn_once(
                f"media.{self._name}",
                "byline.E154: %s takes no media at the moment (%s from %s); images and other binary parts are left out "
                "for a minute. Check that %s has a bucket for media, and that this machine can reach the bucket",
                self._name,
                response.summary,
                place,
                without_credentials(self._base_url),
            )
        return False


def _object_in(response: HttpResponse) -> dict[str, Any]:
    try:
        stated = json.loads(response.body)
    except ValueError:
        return {}
    return stated if isinstance(stated, dict) else {}
