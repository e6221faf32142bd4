"""The ``fields`` setting: the parts of a request in which the app's own API carries attribution fields."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from byline.attribution import FIELDS
from byline.inbound.body import value_at_path
from byline.inbound.claim_names import canonical_header_name
from byline.inbound.claim_set import ClaimSet
from byline.inbound.request import Request
from byline.settings import SettingError

_KINDS: Final = ("body", "header", "query", "path", "cookie")


class FieldSource:
    """One part of a request from which one attribution field is read, e.g. ``body:conversation.id``."""

    __slots__ = ("field", "kind", "name", "path", "template", "written")

    def __init__(self, field: str, spec: object) -> None:
        kind, colon, name = spec.partition(":") if isinstance(spec, str) else ("", "", "")
        if not colon or kind not in _KINDS or not name.strip():
            raise SettingError(
                "byline.E012",
                f"fields[{field!r}] is {spec!r}",
                "write body:a.b, header:X-Name, query:name, path:name, path:/a/{name}/b or cookie:name",
            )
        self.field = field
        self.kind = kind
        self.written = name.strip()
        self.name = canonical_header_name(self.written) if kind == "header" else self.written
        self.path = tuple(self.name.split(".")) if kind == "body" else ()
        self.template = _compile_template(field, self.name) if kind == "path" and self.name.startswith("/") else None

    def add_to(
        self, claims: ClaimSet, request: Request, headers: Mapping[str, list[str]], members: Mapping[str, Any]
    ) -> None:
        """Add the value to the claims, if the request has one."""
        if self.kind == "body":
            claims.add(self.field, value_at_path(members, self.path))
        elif self.kind == "header":
            lines = headers.get(self.name)
            if lines:
                claims.add_header(self.field, self._kind_of_text, lines)
        elif self.late:
            value = request.path_parameters().get(self.name)
            # Routers convert parameters to numbers, UUIDs and paths.
            claims.add(self.field, value if value is None else str(value))
        else:
            text = self._read_text(request, headers)
            if text is not None:
                claims.add_text(self.field, self._kind_of_text, text)

    @property
    def late(self) -> bool:
        """Whether the value is known only after the app's router has matched the path."""
        return self.kind == "path" and self.template is None

    @property
    def _kind_of_text(self) -> str:
        return self.field if self.field in ("tags", "metadata") else "text"

    def _read_text(self, request: Request, headers: Mapping[str, list[str]]) -> str | None:
        if self.kind == "query":
            return request.query_parameters().get(self.name)
        if self.kind == "cookie":
            return request.cookies(headers.get("cookie", ())).get(self.name)
        match = self.template.match(request.path()) if self.template is not None else None
        return match[1] if match else None


def _compile_template(field: str, path: str) -> re.Pattern[str]:
    before, brace, rest = path.partition("{")
    _, closing, after = rest.partition("}")
    if not brace or not closing or "{" in after:
        raise SettingError(
            "byline.E012",
            f"fields[{field!r}] is the path {path!r}",
            "put the one part with the value in braces, e.g. path:/chat/{session_id}/messages",
        )
    # A star matches any one part of the path, e.g. a version. Within a part, several stars could match in many ways,
    # and a caller's path would be tried in all of them.
    if any("*" in part and part != "*" for part in path.split("/")):
        raise SettingError(
            "byline.E012",
            f"fields[{field!r}] is the path {path!r}",
            "write a star instead of a whole part of the path, e.g. path:/*/chat/{session_id}",
        )
    before_and_after = [re.escape(part).replace(r"\*", "[^/]+") for part in (before, after)]
    return re.compile(f"{before_and_after[0]}([^/]+){before_and_after[1]}/?\\Z")


def _is_iterable(value: object) -> bool:
    return isinstance(value, Iterable)


def validate_fields(fields: Mapping[str, str | Iterable[str]] | None) -> tuple[FieldSource, ...]:
    """Return the sources of the ``fields`` setting. Raises `SettingError`, ``byline.E012`` or ``E013``."""
    sources: list[FieldSource] = []
    if not isinstance(fields, Mapping | None):
        raise SettingError(
            "byline.E013", f"fields={fields!r} is not a mapping", "pass e.g. {'session_id': 'body:conversation.id'}"
        )
    for field, specs in (fields or {}).items():
        if field not in FIELDS:
            raise SettingError(
                "byline.E013",
                f"fields names {field!r}, which is not an attribution field",
                f"use one of {', '.join(sorted(FIELDS))}",
            )
        several: Iterable[object] = [specs] if isinstance(specs, str) or not _is_iterable(specs) else specs
        sources.extend(FieldSource(field, spec) for spec in several)
    return tuple(sources)
