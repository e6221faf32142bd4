"""The context of a request: claims, accepted attribution and usage totals."""

from __future__ import annotations

import difflib
import itertools
import math
import threading
import time
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from byline import errors, settings
from byline.attribution import EMPTY, FIELDS, Attribution, is_printable, merge, to_trace_id
from byline.fork import fork_safe_lock
from byline.inbound.claim_set import ClaimSet
from byline.inbound.one_pass import read_in_one_pass
from byline.inbound.reader import ClaimReader, LateValues
from byline.inbound.request import Request, path_template, request_of, with_slash
from byline.internal_metrics import increment
from byline.request_spans import RequestSpans
from byline.settings import SettingError

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext

    from byline.inbound.body import BodyBuffer

#: One lock for all contexts: the guarded sections are short and rare.
_lock: Final = fork_safe_lock()
_keys: Final = itertools.count(1)
#: Seconds after the response in which work that the request left behind is still attributed to the request.
DEFAULT_AFTER_RESPONSE: Final = 300.0

_MAX_ROUTE: Final = 180

#: The key under which a middleware keeps the context in the scope or environ of a request.
CONTEXT_KEY: Final = "byline.request_context"


def resolve_after_response(after_response: float | None) -> float:
    """Return the argument in seconds, the setting for its default. Raises `SettingError` ``byline.E010`` if wrong."""
    if after_response == DEFAULT_AFTER_RESPONSE:
        after_response = settings.find("after_response").value
    if after_response is None:
        return math.inf
    if type(after_response) in (int, float) and after_response >= 0:
        return float(after_response)
    raise SettingError("byline.E010", f"after_response={after_response!r}", "pass seconds, or None for no limit")


class UsageTotals:
    """Usage totals of the LLM calls of one request."""

    __slots__ = ("calls", "cost", "errors", "input_tokens", "output_tokens")

    def __init__(self) -> None:
        self.calls = 0
        self.errors = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost: float | None = None

    def add(
        self,
        *,
        calls: int = 1,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cost: float | None = None,
        error: bool = False,
    ) -> None:
        """Count one call, or add the usage of a call that was counted before (``calls=0``). Thread-safe."""
        with _lock:
            self.calls += calls
            self.errors += error
            self.input_tokens += input_tokens
            self.output_tokens += output_tokens
            if cost is not None:
                self.cost = cost + (self.cost or 0.0)


class RequestContext:
    """One request, or one part of a request that `byline.bound` opened.

    All tasks and threads that work for the request share this object, so that a value that is learnt late is
    known everywhere. No claim is parsed before `attribution` is called.

    Attributes:
        parent: The context that `byline.bound` was entered in.
        reader: Reads the claims with the settings of the middleware, ``None`` outside a request.
        key: A number that no other request of this process has, the same for all parts of a request.
        response_sent: Whether the last message of the response has been sent.
        body: The buffer of the request body, ``None`` if the body is not read.
        server_span: The server span of the request, from byline or another instrumentation.
        server_span_ends_first: Whether the server span was made inside the middleware and therefore ends before
            the middleware can add the totals.
        server_span_attributes: The attributes that byline has set on the server span.
        server_span_attribution: The attribution that they were made from.
        span_attributes: The attribution and the attributes that spans of this context get, made once for equal
            attributions.
        claimed_fields: An attribution that was read in one pass, and its fields that have a value, until
            `attribution_attributes` are made of them.
        attribution_attributes: An attribution and its span attributes.
        caller_key: The caller's API key and its name, if ``identity`` has stated them.
        is_isolated: Whether the request must not be filed under the trace of its ``traceparent``.
    """

    # Few requests need more than some of these, and setting all of them would take longer than all else that is done
    # for a request without an LLM call.
    parent: RequestContext | None = None
    response_sent = False
    _expires_at: float | None = None
    body: BodyBuffer | None = None
    server_span: Span | None = None
    server_span_ends_first = False
    server_span_attributes: Mapping[str, Any] = {}
    server_span_attribution: Attribution | None = None
    span_attributes: tuple[Attribution, dict[str, Any]] | None = None
    _spans: RequestSpans | None = None
    _bound: Mapping[str, Any] | None = None
    _merged: tuple[Mapping[str, Any], Attribution, Attribution] | None = None
    _claimed: Attribution | None = None
    claimed_fields: tuple[Attribution, Mapping[str, Any]] | None = None
    attribution_attributes: tuple[Attribution, dict[str, Any]] | None = None
    _settled = False
    _is_sent_by_public = False
    _reading_thread: int | None = None
    _body_was_complete = False
    _usage: UsageTotals | None = None
    _claims_rejected: list[str] | None = None
    _bound_rejected: list[str] | None = None
    _identified: Attribution = EMPTY
    _late_values: LateValues | None = None
    caller_key: tuple[str | None, ...] = ()
    is_isolated = False

    def __init__(
        self,
        reader: ClaimReader | None = None,
        scope_or_environ: MutableMapping[str, Any] | None = None,
        parent: RequestContext | None = None,
        after_response: float = DEFAULT_AFTER_RESPONSE,
    ) -> None:
        self.reader = reader
        self.scope_or_environ = scope_or_environ
        if parent is not None:
            self.parent = parent
        self.key: int = next(_keys) if parent is None else parent.key
        self._after_response = after_response

    def attribution(self) -> Attribution:
        """Return the attribution as far as it is known, reading claims that have arrived since the last call."""
        if self._settled and self._claimed is not None:
            below = self._claimed
        else:
            below = self._read_claims() if self.parent is None else self.parent.attribution()
        bound = self._bound
        if bound is None:
            return below
        merged = self._merged
        if merged is None or merged[0] is not bound or merged[1] is not below:
            # Kept with the values of which it is made: another thread may bind in the meantime.
            merged = self._merged = (bound, below, merge([bound, below]))
        return merged[2]

    def vouched(self) -> Attribution:
        """Return the part of the attribution that the app states: by ``identity``, `bind` or `byline.bound`.

        So does an own service that has signed the part that it states. The rest are claims of the caller.
        """
        if self.parent is None:
            self.attribution()
            below = self._identified
        else:
            below = self.parent.vouched()
        bound = self._bound
        return below if bound is None else merge([bound, below])

    @property
    def is_public(self) -> bool:
        """Whether the middleware of the request is in its public mode."""
        reader = self.root().reader
        return reader is not None and reader.policy.public

    @property
    def has_public_origin(self) -> bool:
        """Whether a public endpoint has read the claims: this one, or that of the service that sent the job."""
        if self.is_public:
            return True
        self.attribution()
        return self.root()._is_sent_by_public

    @property
    def is_identified(self) -> bool:
        """Whether the app states who its users are: by an identity function, or by the public mode."""
        reader = self.root().reader
        return reader is not None and (reader.policy.public or reader.identity is not None)

    def refuse_trace(self, trace_id: int) -> None:
        """File the spans of this job under a trace of its own if they are in this one."""
        self.is_isolated = True
        self.spans().refused_trace_id = trace_id

    def replace_automatic_reader(self, reader: ClaimReader, after_response: float) -> None:
        """Read the claims by the settings of the app's own middleware, inside one that zero code has added."""
        if self.reader is not None and self.reader.is_automatic and self.scope_or_environ is not None:
            # The outer one may have joined the caller's trace.
            refuses_trace = reader.policy.may_isolate and not reader.policy.accepts_trace(self.scope_or_environ)
            with _lock:
                self.reader, self._after_response = reader, after_response
                self._claimed, self._settled, self._merged = None, False, None
                self.is_isolated = self.is_isolated or refuses_trace
            if self._spans is not None:
                self._spans.refresh_policy(self)
        elif reader.policy.public and self.reader is not None and not self.reader.policy.public:
            errors.warn_once(
                "public",
                "byline.E147: public=True of an inner AttributionMiddleware has no effect, because the outermost one "
                "decides, and trusts its callers; pass public=True and identity to the outermost one",
            )

    def bind(self, fields: Mapping[str, Any] | Attribution) -> None:
        """Add fields from app code, which win over claims; later calls win over earlier ones."""
        with _lock:
            rejected = self._bound_rejected or []
            before = list(rejected)
            claims = ClaimSet(rejected)
            claims.add_app_fields(fields)
            _count_rejected(rejected, before)
            self._bound_rejected = rejected or None
            self._bound = dict(merge([claims, self._bound])) if self._bound else claims

    def accept(self, claimed: Attribution, *, public: bool = False) -> None:
        """Set the claims of a job, which has no request to read them from, and whether strangers may have made them."""
        self._claimed, self._settled, self._is_sent_by_public = claimed, True, public

    @property
    def rejected(self) -> list[str]:
        """Field name and reason of every claim that was dropped, never the value."""
        if self.parent is not None:
            return [*self.parent.rejected, *(self._bound_rejected or ())]
        if self._claims_rejected or self._bound_rejected:
            return [*(self._claims_rejected or ()), *(self._bound_rejected or ())]
        return []

    @property
    def totals(self) -> UsageTotals:
        """The usage totals of the whole request, to which its parts add."""
        root = self.root()
        if root._usage is None:
            totals = UsageTotals()
            with _lock:
                # Another thread of the request may have been faster.
                if root._usage is None:
                    root._usage = totals
        return root._usage

    @property
    def has_calls(self) -> bool:
        """Whether the request has made an LLM call."""
        return self._usage is not None

    @property
    def after_response(self) -> float:
        """Seconds after the response in which work that the request left behind is attributed to the request."""
        return self._after_response

    def adopt_server_span(self, span: Span) -> None:
        """Make a span that the app has made inside the middleware the server span of the request."""
        self.server_span = span
        # The span ends before the middleware can add the totals.
        self.server_span_ends_first = True
        if self._spans is not None:
            self._spans.set_server_span(span, self)

    def spans(self) -> RequestSpans:
        """Return the object that the spans of this context share."""
        spans = self._spans
        if spans is None:
            new_spans = RequestSpans(self)
            with _lock:
                # Another thread of the request may have been faster.
                spans = self._spans
                if spans is None:
                    spans = self._spans = new_spans
        return spans

    def end(self, *, is_left: bool = False) -> None:
        """Note that the response, or the block of `byline.bound`, is over.

        Tasks and threads that it left behind still have the context, for a limited time.

        Args:
            is_left: Whether the block was left in another ``contextvars`` context than the one in which it was
                entered. The context stays attached there, and counts no longer.
        """
        self._expires_at = -math.inf if is_left else time.monotonic() + self._after_response
        if self._spans is not None:
            self._spans.expires_at = self._expires_at
            # Spans may end later, when nothing is left of the context.
            self._spans.refresh()

    def leave(self) -> None:
        """Note that a task of the request, which is over, works for other requests: nothing more is attributed to it.

        A block of `byline.bound` that is still open lasts.
        """
        context: RequestContext | None = self
        while context is not None:
            if context._expires_at is not None:
                context._expires_at = min(context._expires_at, 0.0)
                if context._spans is not None:
                    context._spans.expires_at = context._expires_at
            context = context.parent

    @property
    def is_unbound(self) -> bool:
        """Whether `byline.unbound` has made the context, which is no request's."""
        return self._after_response < 0

    @property
    def is_left(self) -> bool:
        """Whether the context counts no longer although it is attached, see `end`."""
        return self._expires_at == -math.inf

    @property
    def expires_at(self) -> float | None:
        """When the context expires, by `time.monotonic`; ``None`` while the request or the block lasts."""
        return self._expires_at

    def is_expired(self) -> bool:
        """Return whether work that starts now in this context is no longer work of the request.

        A part of a request lasts at least as long as its own block, which may outlive the request.
        """
        context: RequestContext | None = self
        expires_at = 0.0
        while context is not None:
            if context._expires_at is None:
                return False
            expires_at = context._expires_at
            context = context.parent
        return time.monotonic() > expires_at

    def is_after_response(self) -> bool:
        """Return whether the response has been sent."""
        root = self.root()
        return root.response_sent or root._expires_at is not None

    def has_left_trace(self, span_context: SpanContext) -> bool:
        """Return whether work in another trace than the request's, after its end, is work for another request.

        A worker that the request has started puts each job into a trace of its own, or of the job's sender. Background
        tasks of a framework run before the end.
        """
        root = self.root()
        if root._expires_at is None or not span_context.is_valid:
            return False
        server_span = root.server_span
        of_request = None if server_span is None else server_span.get_span_context()
        return of_request is not None and of_request.is_valid and of_request.trace_id != span_context.trace_id

    def exported_trace_id(self, app_trace_id: int) -> int:
        """Return the trace under which destinations file the spans of a request, 0 if that is not known yet.

        The rule of `byline.export.trace_view`.

        Args:
            app_trace_id: The trace of these spans in the app, 0 if it is not known.
        """
        named = self.attribution().trace_id
        if named:
            return to_trace_id(named)
        root = self.root()
        if root.is_isolated and app_trace_id:
            spans = root.spans()
            if spans.refused_trace_id == app_trace_id:
                return 0 if spans.first_span is None else to_trace_id(spans.trace_key)
        return app_trace_id

    def is_complete(self) -> bool:
        """Return whether the whole request, body included, has been read by the app."""
        return self.body is None or self.body.is_complete()

    def root(self) -> RequestContext:
        """Return the context of the whole request."""
        context = self
        while context.parent is not None:
            context = context.parent
        return context

    def request(self) -> Request | None:
        """Return the request as its protocol shows it, ``None`` in a job."""
        scope_or_environ = self.root().scope_or_environ
        return None if scope_or_environ is None else request_of(scope_or_environ)

    def route_name(self) -> str:
        """Return method and route, such as ``POST /chat``: the name of a trace that has no other. Empty in a job.

        If neither the framework nor its instrumentation tells the route, the path is made one: ``POST /chat/{id}``.
        """
        request = self.request()
        if request is None:
            return ""
        try:
            route = request.route() or self._instrumented_route() or path_template(request.path())
            is_name = 0 < len(route) <= _MAX_ROUTE and is_printable(route)
            return f"{request.method()} {route}" if is_name else request.method()
        except Exception:
            errors.report_internal_error("route")
            return ""

    def _instrumented_route(self) -> str | None:
        """Return the route on the server span: those of Django, Falcon, Pyramid and aiohttp state one."""
        attributes = getattr(self.root().server_span, "attributes", None) or {}
        route = attributes.get("http.route")
        # Litestar's plugin states method and path.
        return with_slash(route) if isinstance(route, str) and route and " " not in route else None

    def _read_claims(self) -> Attribution:
        reader, scope_or_environ, body = self.reader, self.scope_or_environ, self.body
        if reader is None or scope_or_environ is None:
            return EMPTY
        complete = body is None or body.ended or body.is_complete()
        before = self._claimed
        if before is not None and complete is self._body_was_complete and not reader.late:
            return before
        if reader.reads_in_one_pass:
            fields = read_in_one_pass(scope_or_environ, body if complete else None)
            if fields is not None:
                claimed = Attribution(**fields) if fields else EMPTY
                if before is None:
                    self._claimed, self.claimed_fields = claimed, (claimed, fields)
                else:
                    self._claims_rejected = None
                    if claimed == before:
                        claimed = before
                    else:
                        self._claimed, self.claimed_fields = claimed, (claimed, fields)
                self._body_was_complete = self._settled = complete
                return claimed
        thread = threading.get_ident()
        if self._reading_thread == thread:
            # `identity` or `trust` itself asks for the attribution: answer without asking them again.
            return self._claimed or EMPTY
        self._reading_thread = thread
        try:
            request = request_of(scope_or_environ)
            late_values = reader.read_late_values(request, scope_or_environ) if reader.late else None
            if self._claimed is not None and complete is self._body_was_complete and late_values == self._late_values:
                # Still unknown: a caller could make each span read a large body's claims again.
                return self._claimed
            self._late_values = late_values
            claims = reader.read(request, scope_or_environ, body, late_values)
            claimed, known = claims.attribution, claims.is_final
            _count_rejected(claims.rejected, self._claims_rejected)
            self._claims_rejected = claims.rejected
            self._identified, self._is_sent_by_public = claims.identified, claims.is_sent_by_public
            if claims.caller_key != self.caller_key:
                self.caller_key, self.span_attributes = claims.caller_key, None
        except Exception:
            claimed, known = EMPTY, True
            errors.report_internal_error("inbound")
        finally:
            self._reading_thread = None
        if claimed != self._claimed:
            # Equal claims stay the same object: attributes that are made from them are cached by identity.
            self._claimed = claimed
        self._body_was_complete = complete
        self._settled = known and complete
        return self._claimed


def _count_rejected(reasons: list[str], before: list[str] | None) -> None:
    new = [reason for reason in reasons if reason not in (before or ())]
    if new:
        increment("claims.rejected", len(new))


_current: Final[ContextVar[RequestContext | None]] = ContextVar("byline_request_context", default=None)

#: Return the attached context, also if that has expired.
attached = _current.get
attach = _current.set
detach = _current.reset


def current_context() -> RequestContext | None:
    """Return the current request context; ``None`` outside a request or a job, and long after its end."""
    context = _current.get()
    if context is not None and context.expires_at is not None:
        while context is not None and context.is_left:
            context = context.parent
        if context is None or context.is_expired():
            return None
    return context


def current() -> Attribution:
    """Return the attribution of this request; an empty one outside a request.

    Headers are read at once, the JSON body once the app has read it.

    Example:
        >>> import byline
        >>> with byline.bound(session_id="s-1"):
        ...     byline.current().session_id
        's-1'
    """
    context = current_context()
    return EMPTY if context is None else context.attribution()


def check_fields(function: str, fields: Mapping[str, Any]) -> None:
    """Raise `TypeError` ``byline.E101`` if one of the keyword arguments is not an attribution field."""
    if fields.keys() <= FIELDS:
        return
    for name in fields:
        if name not in FIELDS:
            similar = [f"{name}_id"] if f"{name}_id" in FIELDS else difflib.get_close_matches(name, sorted(FIELDS), 1)
            advice = f"did you mean {similar[0]!r}?" if similar else f"pass one of {', '.join(sorted(FIELDS))}"
            raise TypeError(f"byline.E101: {function}() has no attribution field {name!r}; {advice}")


def bind(**fields: Any) -> None:
    """Add to the attribution of this request from app code, which wins over claims of the client.

    Ids and names replace, tags are added, metadata is merged. A value outside the limits is dropped and its
    field named in ``byline.rejected``. LLM spans that start from now on carry the new values. Outside a
    request and outside `bound` nothing is bound, and a warning (``byline.E020``) is logged once.

    Args:
        **fields: Attribution fields, e.g. ``session_id``, ``user_id``, ``tags``, ``metadata``.

    Raises:
        TypeError: ``byline.E101`` for a name that is not an attribution field.

    Example:
        >>> import byline
        >>> with byline.bound():
        ...     byline.bind(user_id=42, tags=["beta"])
        ...     byline.current().user_id
        '42'
    """
    check_fields("bind", fields)
    context = current_context()
    if context is None:
        errors.warn_once(
            "bind",
            "byline.E020: bind() was called outside a request; put AttributionMiddleware around the code that calls "
            "bind() (in Starlette and FastAPI the middleware added last is the outermost), or use byline.bound()",
        )
        return
    context.bind(fields)
