"""What destinations are told, and what a test of one says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict

from opentelemetry.sdk.trace import ReadableSpan

from byline.export.filters import Where
from byline.export.redaction.redactor import Mask
from byline.export.trace_view import Traces

Spans = Literal["llm", "all"] | Callable[[ReadableSpan], bool]
Unsampled = Literal["record", "skip"]


class Options(TypedDict, total=False):
    """What every kind of destination takes besides its own arguments; `Destination` says what each means."""

    traces: Traces
    unsampled: Unsampled
    sampling: float | None
    keep_errors: bool
    privacy: bool | None
    mask: Mask | None
    organizations: Collection[str] | None
    environments: Collection[str] | None
    keys: Collection[str] | None
    models: Collection[str] | None
    where: Where | None
    conventions: Collection[str]
    spool: str | Path | None
    spool_bytes: int
    label: str | None
    allow_http: Sequence[str]


class CheckResult(NamedTuple):
    """What a test of a destination found, and what to do about it."""

    name: str
    ok: bool
    detail: str
    advice: str = ""
