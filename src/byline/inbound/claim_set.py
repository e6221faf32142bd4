"""One layer of claims: cleaned values under their attribution fields, and what was dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from byline import attribution
from byline.attribution import BROKEN, Rejected, clean_environment, clean_text
from byline.inbound.body import decode_slowly
from byline.inbound.claim_names import CONTROL_KEYS, IGNORED_CONTROLS, LANGFUSE_KEYS, TRACE_KEYS

_MAX_REASONS: Final = 50
_decode = msgspec.json.Decoder().decode

#: What stands between user and session in the user ids of Claude Code.
_SESSION: Final = "_session_"

_SPECIAL: Final = (*LANGFUSE_KEYS, *attribution.MASKS)
_IDS: Final = frozenset({"session_id", "user_id", "trace_id", "parent_span_id", "organization_id", "environment_id"})


class ClaimSet(dict[str, Any]):
    """Cleaned claims of one source; the first value of a field wins.

    ``rejected`` is the request's list of dropped claims: field name and reason, never the value.
    """

    __slots__ = ("rejected",)

    def __init__(self, rejected: list[str]) -> None:
        super().__init__()
        self.rejected = rejected

    def reject(self, field: str, reason: str) -> None:
        """Note that a claim was dropped."""
        entry = f"{field}: {reason}"
        if len(self.rejected) < _MAX_REASONS and entry not in self.rejected:
            self.rejected.append(entry)

    def add(self, field: str, value: object) -> None:
        """Add one claim under its attribution field, or note why not."""
        if value is None:
            return
        try:
            if field == "tags":
                tags, reasons = attribution.clean_tags(_as_list(value))
                for reason in reasons:
                    self.reject("tags", reason)
                if tags:
                    self["tags"] = tuple(dict.fromkeys((*self.get("tags", ()), *tags)))
            elif field == "metadata":
                self._add_metadata(value)
            else:
                text = clean_environment(value) if field == "environment" else clean_text(value)
                if text is not None and field not in self:
                    self[field] = text
        except Rejected as rejected:
            self.reject(field, str(rejected))

    def _add_metadata(self, value: object) -> None:
        if isinstance(value, Mapping) and any(key in value for key in _SPECIAL):
            for key, field in LANGFUSE_KEYS.items():
                if key in value:
                    self.add(field, value[key])
            # First, so that no crowd of others drives them out.
            asked = {key: value[key] for key in attribution.MASKS if key in value}
            value = {**asked, **{key: item for key, item in value.items() if key not in LANGFUSE_KEYS}}
        metadata, dropped = attribution.clean_metadata(value)
        for key, reason in dropped:
            self.reject("metadata" if key == "*" else f"metadata.{key}", reason)
        if metadata:
            self["metadata"] = {**metadata, **self.get("metadata", {})}

    def add_header(self, field: str, kind: str, values: list[str]) -> None:
        """Add a claim that came as header lines of one name."""
        text = values[0] if len(values) == 1 else ",".join(values)
        if kind == "trace" and not text.lstrip().startswith("{") and parse_pairs(text) is None:
            kind = "text"
        if kind == "text" and field in _IDS and "," in text:
            values = split_repeated(values)
            if len(values) > 1:
                self.reject(field, "repeated")
                return
            text = values[0]
        self.add_text(field, kind, text)

    def add_text(self, field: str, kind: str, text: str) -> None:
        """Add a claim of any kind that came as text: from a header, a query or baggage."""
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
            self.add_object(field, kind, parse_pairs(text) or BROKEN)

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
            listed = _as_list(",".join(lines))
            self.add(field, listed if isinstance(listed, list) else [_decode_percent(part.strip()) for part in parts])
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
            self.reject("trace" if kind == "trace" else "metadata", "not an object")
        elif kind == "trace":
            self._add_known(value, TRACE_KEYS, frozenset())
        elif kind == "controls":
            self._add_known(value, CONTROL_KEYS, IGNORED_CONTROLS)
        else:
            self.add(field, value)

    def _add_known(self, value: Mapping[str, Any], known: Mapping[str, str], ignored: frozenset[str]) -> None:
        # In the order of the table, whatever that of the sender is.
        present = list(filter(value.__contains__, known))
        for key in present:
            if key != "user_id":
                self.add(known[key], value[key])
        if len(present) < len(value):
            further = {key: item for key, item in value.items() if key not in known and key not in ignored}
            if further:
                self.add("metadata", further)
        if "user_id" in present:
            # What says it in so many words comes first.
            self._add_user(value["user_id"])

    def _add_user(self, value: object) -> None:
        """Add the user of an Anthropic request, which coding agents let name the session too."""
        if isinstance(value, str) and value.startswith("{"):
            value = decode_json_claim(value)
        if isinstance(value, Mapping):
            self.add("session_id", value.get("session_id"))
            value = value.get("account_uuid") or value.get("device_id") or value.get("user_id")
        elif isinstance(value, str) and _SESSION in value:
            value, _, session = value.rpartition(_SESSION)
            self.add("session_id", session)
        self.add("user_id", value)


def _as_list(tags: object) -> object:
    """Return tags as a list where they are one in JSON, and as they are otherwise."""
    found = decode_json_claim(tags) if isinstance(tags, str) and tags.lstrip().startswith("[") else None
    return found if isinstance(found, list) else tags


def _decode_percent(text: str) -> str:
    # Bytes that are no text must not turn into another text.
    return unquote(text, errors="surrogateescape")


def split_repeated(values: list[str]) -> list[str]:
    """Fold header lines that say the same; a list in one line counts as lines (RFC 9110, 5.2).

    WSGI servers join repeated headers with commas, so that both doors agree only this way.
    """
    if len(values) == 1 and "," not in values[0]:
        return values
    return list(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip())) or [""]


def decode_json_claim(text: str) -> object:
    """Decode JSON text of a header; `BROKEN` where it is not JSON."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return decode_slowly(text)


def parse_pairs(text: str) -> dict[str, str] | None:
    """Read ``key=value`` pairs divided by commas or semicolons; ``None`` when it is none.

    Values may be percent-encoded, as in W3C baggage, or stand in double quotes.
    """
    pairs: dict[str, str] = {}
    for part in text.replace(";", ",").split(","):
        part = part.strip()
        if not part:
            continue
        key, equals, value = part.partition("=")
        key = key.strip()
        value = value.strip().strip('"')
        # "dGVzdA==" is a bare id that happens to end in equals signs.
        if (
            not equals
            or not value
            or value.startswith("=")
            or not key.replace(".", "_").replace("-", "_").isidentifier()
        ):
            return None
        pairs.setdefault(key, unquote(value, errors="surrogateescape"))
    return pairs or None
