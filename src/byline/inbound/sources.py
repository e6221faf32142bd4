"""Where the app's own API carries a field: ``body:conversation.id``, ``header:``, ``path:`` and so on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from byline.attribution import FIELDS
from byline.inbound.body import at_path
from byline.inbound.request import Request, canonical, parse_cookies, parse_query
from byline.settings import SettingError

_KINDS: Final = ("body", "header", "query", "path", "cookie")


class Source:
    """One place in a request from which one attribution field is read."""

    __slots__ = ("field", "kind", "name", "path", "template")

    def __init__(self, field: str, spec: object) -> None:
        kind, colon, name = spec.partition(":") if isinstance(spec, str) else ("", "", "")
        if not colon or kind not in _KINDS or not name.strip():
            raise SettingError(
                "byline.E012",
                f"fields[{field!r}] is {spec!r}",
                "write where the field stands as body:a.b, header:X-Name, query:name, path:name, "
                "path:/a/{name}/b or cookie:name",
            )
        self.field = field
        self.kind = kind
        self.name = canonical(name.strip()) if kind == "header" else name.strip()
        self.path = tuple(self.name.split(".")) if kind == "body" else ()
        self.template = _template(field, self.name) if kind == "path" and self.name.startswith("/") else None

    def read(self, request: Request, headers: Mapping[str, list[str]], members: Mapping[str, Any]) -> Any:
        """Return the value, ``None`` where the request has none."""
        if self.kind == "body":
            return at_path(members, self.path)
        if self.kind == "header":
            lines = headers.get(self.name)
            return lines[0] if lines else None
        if self.kind == "query":
            return parse_query(request.query()).get(self.name)
        if self.kind == "cookie":
            lines = headers.get("cookie")
            return parse_cookies("; ".join(lines)).get(self.name) if lines else None
        if self.template is not None:
            match = self.template.match(request.path())
            return match[1] if match else None
        return request.path_parameters().get(self.name)


def _template(field: str, path: str) -> re.Pattern[str]:
    before, brace, rest = path.partition("{")
    _, closing, after = rest.partition("}")
    if not brace or not closing or "{" in after:
        raise SettingError(
            "byline.E012",
            f"fields[{field!r}] is the path {path!r}",
            "mark the one part that is the value with braces, e.g. path:/chat/{session_id}/messages",
        )
    others = re.escape(before), re.escape(after).replace(r"\*", "[^/]+")
    return re.compile(f"{others[0]}([^/]+){others[1]}/?\\Z")


def check(fields: Mapping[str, str | Iterable[str]] | None) -> tuple[Source, ...]:
    """Return the sources of the ``fields`` setting. Raises `SettingError`, ``byline.E012`` or ``E013``."""
    sources: list[Source] = []
    for field, specs in (fields or {}).items():
        if field not in FIELDS:
            raise SettingError(
                "byline.E013",
                f"fields names {field!r}, which is no attribution field",
                f"use one of {', '.join(sorted(FIELDS))}",
            )
        sources.extend(Source(field, spec) for spec in ([specs] if isinstance(specs, str) else specs))
    return tuple(sources)
