"""The cleaned claims of one source, and the readers of headers, JSON body, query and W3C baggage that fill them."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from byline import attribution
from byline.attribution import FIELDS as ATTRIBUTION_FIELDS
from byline.attribution import INVALID_JSON, TOO_LONG, Attribution, Rejected, clean_environment, clean_id, clean_text
from byline.inbound.body import decode_leniently, value_at_path
from byline.inbound.claim_names import (
    BAGGAGE,
    BODY_CLAIMS,
    CONTROL_KEYS,
    HEADER_CLAIMS,
    IGNORED_CONTROLS,
    LANGFUSE_KEYS,
    QUERY_CLAIMS,
    RESERVED_KEY,
    TRACE_KEYS,
)
from byline.inbound.request import MAX_BAGGAGE, parse_query
from byline.internal_metrics import increment

#: Reasons that a request keeps for its spans.
MAX_REASONS: Final = 50
#: Separates user and session in the user ids of Claude Code.
_SESSION_SEPARATOR: Final = "_session_"
_KEYS_WITH_MEANING: Final = (*LANGFUSE_KEYS, *attribution.MASKS)
_IDS: Final = frozenset({"session_id", "user_id", "trace_id", "parent_span_id", "organization_id", "environment_id"})

_rank_of: Final = itemgetter(0)
_decode: Final = msgspec.json.Decoder().decode


class ClaimSet(dict[str, Any]):
    """Cleaned claims of one source by attribution field; the first value of a field wins.

    ``rejected`` is the request's list of dropped claims: field name and reason, never the value.
    """

    __slots__ = ("_is_from_app", "caller_key", "rejected")

    def __init__(self, rejected: list[str]) -> None:
        super().__init__()
        self.rejected = rejected
        self._is_from_app = False
        #: The caller's API key and its name, if the app has stated them.
        self.caller_key: tuple[str | None, ...] = ()

    def reject(self, field: str, reason: str) -> None:
        """Record that a claim was dropped."""
        # The field may end in a key that the caller has chosen.
        entry = attribution.clean_value(f"{field}: {reason}")
        if entry in self.rejected:
            return
        if len(self.rejected) < MAX_REASONS:
            self.rejected.append(entry)
        else:
            increment("claims.reasons_omitted")

    def add(self, field: str, value: object) -> None:
        """Add one claim under its attribution field, or record why it was dropped."""
        if value is None:
            return
        try:
            if field == "tags":
                tags, reasons = attribution.clean_tags(_parse_tag_list(value))
                for reason in reasons:
                    self.reject("tags", reason)
                if tags:
                    self["tags"] = tuple(dict.fromkeys((*self.get("tags", ()), *tags)))
            elif field == "metadata":
                self._add_metadata(value)
            else:
                if field in _IDS:
                    text = clean_id(value)
                else:
                    text = clean_environment(value) if field == "environment" else clean_text(value)
                if text is not None and field not in self:
                    self[field] = text
        except Rejected as rejected:
            self.reject(field, str(rejected))

    def add_app_fields(self, fields: Mapping[str, Any] | Attribution) -> None:
        """Add fields that the app itself has given; unknown names are dropped and recorded."""
        self._is_from_app = True
        for field, value in fields.items():
            if field in ATTRIBUTION_FIELDS:
                self.add(field, value)
            else:
                self.reject(str(field)[:64], "no attribution field")

    def keep_only(self, accepted: frozenset[str], reason: str) -> None:
        """Drop all claims but those of the accepted fields."""
        for field in [field for field in self if field not in accepted]:
            del self[field]
            self.reject(field, reason)

    def _add_metadata(self, value: object) -> None:
        if isinstance(value, Mapping) and any(key in value for key in _KEYS_WITH_MEANING):
            for key, field in LANGFUSE_KEYS.items():
                if key in value:
                    self.add(field, value[key])
            # The masks first, so that the limit on the number of keys cannot drop them.
            masks = {key: value[key] for key in attribution.MASKS if key in value}
            value = {**masks, **{key: item for key, item in value.items() if key not in LANGFUSE_KEYS}}
        # The keys of claims are texts of JSON or of headers.
        if isinstance(value, Mapping) and not self._is_from_app and any(map(RESERVED_KEY.match, value)):
            for key in filter(RESERVED_KEY.match, value):
                self.reject(f"metadata.{key[:64]}", "the name is reserved")
            value = {key: item for key, item in value.items() if not RESERVED_KEY.match(key)}
        metadata, dropped = attribution.clean_metadata(value)
        for key, reason in dropped:
            self.reject("metadata" if key == "*" else f"metadata.{key}", reason)
        if metadata:
            self["metadata"] = {**metadata, **self.get("metadata", {})}

    def add_header(self, field: str, kind: str, lines: list[str]) -> None:
        """Add a claim from the header lines of one name."""
        text = lines[0] if len(lines) == 1 else ",".join(lines)
        if kind == "trace" and not text.lstrip().startswith("{") and parse_pairs(text) is None:
            kind = "text"
        if kind == "text" and field in _IDS and "," in text:
            lines = split_repeated(lines)
            if len(lines) > 1:
                self.reject(field, "repeated")
                return
            text = lines[0]
        self.add_text(field, kind, text)

    def add_text(self, field: str, kind: str, text: str) -> None:
        """Add a claim of any kind that was sent as text: in a header, a query or baggage."""
        if kind == "text":
            self.add(field, text)
        elif kind == "tags":
            self.add(field, decode_json_claim(text) if text.lstrip().startswith("[") else text)
        elif text.lstrip().startswith("{"):
            self.add_object(field, kind, decode_json_claim(text))
        elif kind == "trace":
            pairs = parse_pairs(text)
            if pairs is None:
                self.add("trace_id", text)
            else:
                self.add_object(field, kind, pairs)
        elif text.strip():
            self.add_object(field, kind, parse_pairs(text) or INVALID_JSON)

    def add_encoded(self, field: str, kind: str, lines: list[str]) -> None:
        """Add a claim of a percent-encoded header: a text, a list of tags, or ``key:value`` entries."""
        parts = [part for line in lines for part in line.split(",") if part.strip()]
        if kind == "text":
            texts = split_repeated(lines)
            if len(texts) > 1:
                self.reject(field, "repeated")
            else:
                self.add(field, _decode_percent(texts[0]))
        elif kind == "tags":
            tags = _parse_tag_list(",".join(lines))
            self.add(field, tags if isinstance(tags, list) else [_decode_percent(part.strip()) for part in parts])
        else:
            pairs = [part.strip().partition(":") for part in parts]
            self.add(field, {_decode_percent(key): _decode_percent(value) for key, colon, value in pairs if colon})

    def add_object(self, field: str, kind: str, value: object) -> None:
        """Add a compound claim: the ``trace`` object, LiteLLM's ``metadata``, or plain metadata."""
        if value is None:
            return
        if kind == "trace" and isinstance(value, str):
            self.add("trace_id", value)
        elif not isinstance(value, Mapping):
            reason = TOO_LONG.reason if value is TOO_LONG else "not an object"
            self.reject("trace" if kind == "trace" else "metadata", reason)
        elif kind == "trace":
            self._add_members(value, TRACE_KEYS, frozenset())
        elif kind == "controls":
            self._add_members(value, CONTROL_KEYS, IGNORED_CONTROLS)
        else:
            self.add(field, value)

    def _add_members(self, members: Mapping[str, Any], known: Mapping[str, str], ignored: frozenset[str]) -> None:
        # In the order of the table, not in that of the sender.
        present = list(filter(members.__contains__, known))
        for key in present:
            if key != "user_id":
                self.add(known[key], members[key])
        if len(present) < len(members):
            metadata = {key: item for key, item in members.items() if key not in known and key not in ignored}
            if metadata:
                self.add("metadata", metadata)
        if "user_id" in present:
            # Last, because trace_user_id is the more specific name.
            self._add_anthropic_user(members["user_id"])

    def _add_anthropic_user(self, value: object) -> None:
        """Add the user id of an Anthropic request, into which coding agents also put the session."""
        if isinstance(value, str) and value.startswith("{"):
            value = decode_json_claim(value)
        if isinstance(value, Mapping):
            self.add("session_id", value.get("session_id"))
            value = value.get("account_uuid") or value.get("device_id") or value.get("user_id")
        elif isinstance(value, str) and _SESSION_SEPARATOR in value:
            value, _, session = value.rpartition(_SESSION_SEPARATOR)
            self.add("session_id", session)
        self.add("user_id", value)

    def add_header_claims(self, headers: Mapping[str, list[str]]) -> None:
        """Add the claims in the headers of a request."""
        present = [(*HEADER_CLAIMS[name], headers[name]) for name in HEADER_CLAIMS.keys() & headers.keys()]
        if len(present) > 1:
            present.sort(key=_rank_of)
        for _, field, lines in present:
            if field.kind == "entry":
                self.add(field.field, {field.name.removeprefix("langfuse_"): lines[0]})
            elif field.encoded:
                self.add_encoded(field.field, field.kind, lines)
            else:
                self.add_header(field.field, field.kind, lines)

    def add_body_claims(self, members: Mapping[str, Any]) -> None:
        """Add the claims in the decoded members of a JSON body."""
        present = [claim for name in BODY_CLAIMS.keys() & members.keys() for claim in BODY_CLAIMS[name]]
        if len(present) > 1:
            present.sort(key=_rank_of)
        for _, field, path in present:
            value = members[path[0]] if len(path) == 1 else value_at_path(members, path)
            if value is None or (field.needs is not None and field.needs not in members):
                continue
            if field.kind == "entry":
                self.add("metadata", {field.name: value})
            elif field.kind == "id":
                self.add(field.field, value.get("id") if isinstance(value, Mapping) else value)
            elif field.kind in ("text", "tags"):
                self.add(field.field, value)
            else:
                self.add_object(field.field, field.kind, value)

    def add_query_claims(self, query: str) -> None:
        """Add the claims in the query of a websocket handshake, on which a browser cannot set headers."""
        values = dict(reversed(parse_query(query)))
        for field in QUERY_CLAIMS:
            text = values.get(field.name)
            if text:
                self.add_text(field.field, field.kind, text)

    def add_baggage_claims(self, lines: list[str]) -> None:
        """Add the claims in W3C baggage."""
        members = ",".join(lines)
        if len(members) > MAX_BAGGAGE:
            # Only whole members, because a truncated id would identify something else.
            members = members[: MAX_BAGGAGE + 1].rpartition(",")[0]
            self.reject("baggage", "too long")
        for member in members.split(","):
            name, equals, value = member.partition(";")[0].partition("=")
            field = BAGGAGE.get(name.strip()) if equals else None
            if field is not None:
                self.add_text(field, "tags" if field == "tags" else "text", _decode_percent(value.strip()))


def _parse_tag_list(tags: object) -> object:
    """Return tags as a list if they are a JSON array, else unchanged."""
    decoded = decode_json_claim(tags) if isinstance(tags, str) and tags.lstrip().startswith("[") else None
    return decoded if isinstance(decoded, list) else tags


def _decode_percent(text: str) -> str:
    # Invalid UTF-8 stays recognisable and is rejected later, instead of becoming another text.
    return unquote(text, errors="surrogateescape")


def split_repeated(lines: list[str]) -> list[str]:
    """Return the distinct values of repeated header lines; a comma separates values too (RFC 9110, 5.2).

    WSGI servers join repeated headers with commas. Splitting them makes ASGI and WSGI agree.
    """
    if len(lines) == 1 and "," not in lines[0]:
        return lines
    return list(dict.fromkeys(part.strip() for line in lines for part in line.split(",") if part.strip())) or [""]


def decode_json_claim(text: str) -> object:
    """Decode a JSON header, `INVALID_JSON` if the text is not JSON."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return decode_leniently(text)


def parse_pairs(text: str) -> dict[str, str] | None:
    """Parse ``key=value`` pairs separated by commas or semicolons; ``None`` if the text is something else.

    Values may be percent-encoded, as in W3C baggage, or in double quotes.
    """
    pairs: dict[str, str] = {}
    for part in text.replace(";", ",").split(","):
        part = part.strip()
        if not part:
            continue
        key, equals, value = part.partition("=")
        key = key.strip()
        value = value.strip().strip('"')
        # "dGVzdA==" is a bare id that ends in equals signs.
        if (
            not equals
            or not value
            or value.startswith("=")
            or not key.replace(".", "_").replace("-", "_").isidentifier()
        ):
            return None
        pairs.setdefault(key, _decode_percent(value))
    return pairs or None
