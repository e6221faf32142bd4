"""The record of a request: what came in, what the app added, and the request's LLM totals."""

from __future__ import annotations

import threading
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from byline import errors
from byline.attribution import EMPTY, Attribution, merge
from byline.fork import fork_safe_lock
from byline.inbound.claim_set import ClaimSet, attribution_fields
from byline.inbound.reader import ClaimReader
from byline.inbound.request import Request, request_of
from byline.usage_totals import UsageTotals

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from byline.inbound.body import BodyBuffer


#: One lock for all records: binding is rare and short.
_bind_lock: Final = fork_safe_lock()


class RequestContext:
    """One request on its way, or one part of it that was bound anew.

    Whatever task or thread works for the request shares this object, so that what is learnt late is
    known everywhere. Nothing is read before `attribution` is asked for.
    """

    __slots__ = (
        "__weakref__",
        "_asked_by",
        "_below",
        "_body_seen",
        "_bound",
        "_bound_rejected",
        "_claimed",
        "_claims_rejected",
        "_merged",
        "_settled",
        "_totals",
        "app_span",
        "app_span_ends_first",
        "app_span_signed",
        "app_span_told",
        "body",
        "family",
        "parent",
        "raw",
        "reader",
        "stamp",
    )

    def __init__(
        self,
        reader: ClaimReader | None = None,
        raw: MutableMapping[str, Any] | None = None,
        parent: RequestContext | None = None,
    ) -> None:
        self.reader = reader
        self.raw = raw
        self.parent = parent
        self.body: BodyBuffer | None = None
        self.app_span: Span | None = None
        self.app_span_ends_first = False
        self.app_span_told: Mapping[str, Any] = {}
        self.app_span_signed: Attribution | None = None
        self.stamp: Any = None
        self.family: Any = None
        self._bound: Mapping[str, Any] | None = None
        self._merged: Attribution | None = None
        self._below: Attribution | None = None
        self._claimed: Attribution | None = None
        self._settled = False
        self._asked_by: int | None = None
        self._body_seen = False
        self._totals: UsageTotals | None = None
        self._claims_rejected: list[str] | None = None
        self._bound_rejected: list[str] | None = None

    def attribution(self) -> Attribution:
        """Return what is known of the request by now, reading on where more has come in."""
        if self._settled and self._claimed is not None:
            # The whole of it has been read.
            below = self._claimed
        else:
            below = self._claims() if self.parent is None else self.parent.attribution()
        if self._bound is None:
            return below
        if self._merged is None or below is not self._below:
            self._below = below
            self._merged = merge([self._bound, attribution_fields(below)])
        return self._merged

    def bind(self, fields: Mapping[str, Any]) -> None:
        """Add fields from app code: they win over every claim, later ones over earlier ones."""
        with _bind_lock:
            rejected = self._bound_rejected or []
            layer = ClaimSet(rejected)
            layer.add_app_fields(fields)
            self._bound_rejected = rejected or None
            self._bound = attribution_fields(merge([layer, self._bound])) if self._bound else layer
            self._merged = None

    @property
    def rejected(self) -> list[str]:
        """Field and reason of every claim that was dropped, never its value."""
        above = self.parent.rejected if self.parent is not None else self._claims_rejected or []
        return [*above, *(self._bound_rejected or [])]

    @property
    def totals(self) -> UsageTotals:
        """The totals of the whole request; a bound part of it counts with it."""
        if self.parent is not None:
            return self.parent.totals
        if self._totals is None:
            self._totals = UsageTotals()
        return self._totals

    @property
    def has_calls(self) -> bool:
        """Whether the request has made any LLM call."""
        return self._totals is not None

    def has_come(self) -> bool:
        """Whether the whole of the request has come in, so that nothing more is to be read of it."""
        return self.body is None or self.body.is_complete()

    def root(self) -> RequestContext:
        """The record of the whole request."""
        record = self
        while record.parent is not None:
            record = record.parent
        return record

    def request(self) -> Request | None:
        """The request as its protocol shows it, ``None`` in a job."""
        raw = self.root().raw
        if raw is None:
            return None
        return request_of(raw)

    def _claims(self) -> Attribution:
        reader, raw, body = self.reader, self.raw, self.body
        if reader is None or raw is None:
            return EMPTY
        complete = body is None or body.is_complete()
        if self._claimed is not None and complete is self._body_seen and not reader.late:
            return self._claimed
        thread = threading.get_ident()
        if self._asked_by == thread:
            # identity or trust asks what is known: no more than that.
            return self._claimed or EMPTY
        self._asked_by = thread
        try:
            claimed, self._claims_rejected, known = reader.read(request_of(raw), raw, body)
        except Exception:
            claimed, known = EMPTY, True
            errors.report_internal_error("inbound")
        finally:
            self._asked_by = None
        if claimed != self._claimed:
            # Equal claims stay the same object, by which everything that is made from them is cached.
            self._claimed = claimed
        self._body_seen = complete
        self._settled = known and complete
        return self._claimed


_current: Final[ContextVar[RequestContext | None]] = ContextVar("byline_record", default=None)

#: The record in force, ``None`` outside a request or a job.
current_context = _current.get
attach = _current.set
detach = _current.reset


def current() -> Attribution:
    """Return the attribution of this request; an empty one outside a request.

    What has not been read yet is read now: headers at once, the JSON body once the app has read it.

    Example:
        >>> import byline
        >>> with byline.bound(session_id="s-1"):
        ...     byline.current().session_id
        's-1'
    """
    record = current_context()
    return EMPTY if record is None else record.attribution()


def bind(**fields: Any) -> None:
    """Add to the attribution of this request from app code, which wins over what the client sent.

    Ids and names replace, tags are added, metadata is merged. A value outside the limits is dropped
    and named in ``byline.rejected``. LLM spans that start from now on carry it. Outside a request
    and outside `bound` there is nothing to add to: a warning says so once.

    Args:
        **fields: Attribution fields, e.g. ``session_id``, ``user_id``, ``tags``, ``metadata``.

    Example:
        >>> import byline
        >>> with byline.bound():
        ...     byline.bind(user_id=42, tags=["beta"])
        ...     byline.current().user_id
        '42'
    """
    record = current_context()
    if record is None:
        errors.warn_once(
            "bind",
            "byline.E020: bind() was called outside a request; put AttributionMiddleware around what calls it (in "
            "Starlette and FastAPI the middleware added last is the outermost), or use byline.bound()",
        )
        return
    record.bind(fields)
