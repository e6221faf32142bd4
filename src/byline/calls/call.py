"""A call: one HTTP exchange with a model provider or a gateway, and its facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from copy import copy
from typing import Any, Final

import msgspec
from opentelemetry.sdk.trace import Span

from byline import afterwards, counters, guard, record
from byline.calls import dialect, own, placing, rules, sending
from byline.calls.content import Captured
from byline.calls.reading import Reading
from byline.calls.rules import Rules
from byline.calls.seen import Seen
from byline.calls.wire import Wire, recognise
from byline.facts import Facts
from byline.gateways.gateway import Gateway
from byline.gateways.keys import key_of
from byline.gateways.splice import members_of
from byline.locks import make_lock
from byline.spans import carriers, recognition, targets, unsampled

#: One lock for all calls: it is held to see who ends one, and no longer.
_ending: Final = make_lock()


def begin(
    host: str, port: int | None, path: str, headers: Callable[[], dict[str, str]], body: Callable[[], bytes | None]
) -> Call | None:
    """Begin a call if this request is one; ``None`` for every other request, and where anything fails.

    Headers (names in lower case) and body are asked for only once the place says that it is one.
    """
    in_force = rules.in_force
    if in_force is None:
        return None
    wire = recognise(path)
    if wire is None:
        return None
    if sending.is_to(host, path):
        return None
    afterwards.run()
    try:
        content = body()
        facts = Facts(server_address=host, server_port=port)
        # Looked for once: a long prompt takes its time, and the gateway must know them too.
        members = members_of(content) if content else None
        fits = wire.read_request(content or b"", facts, path=path, host=host, members=members or {})
        gateway = in_force.known.find(host, port, path)
        if not fits and gateway is None:
            # Many APIs have an end point that is called "messages".
            return None
        return Call(in_force, wire, gateway, facts, path, headers(), content, members)
    except Exception:
        guard.report("call")
        return None


class Call:
    """One exchange. Every way in which it may end calls `end` or `fail`; the first one counts.

    Attributes:
        headers: Headers to be sent besides the app's own.
        body: The body to be sent in the place of the app's, ``None`` where it stays.
        content: The app's own body.
        span: The LLM span of this call.
    """

    def __init__(
        self,
        in_force: Rules,
        wire: Wire,
        gateway: Gateway | None,
        facts: Facts,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        members: Mapping[str, msgspec.Raw] | None,
    ) -> None:
        self._rules = in_force
        self._wire = wire
        self._open = True
        self.facts = facts
        self.content = body
        captured = Captured(wire.name, facts) if in_force.capture_content else None
        if captured is not None:
            captured.request(body)
        self.facts.key_hash = key_of(headers)
        self._own = False
        self._invocation = placing.invocation()
        self.span = self._find_span()
        self.record = record.get() or (None if self.span is None else targets.owner_of(self.span))
        self.headers, self.body = dialect.write(
            gateway, path, headers, body, members, owner=self.record, span=self.span
        )
        if self.record is not None:
            # Now, for a stream that is dropped ends when the request may be long over.
            self.record.totals.add()
        self._glimpsed = False
        self._path = path
        self._reading = Reading(in_force.known, wire, gateway, facts, captured)

    @property
    def seen(self) -> Seen:
        """What is kept of the reply's body, from the moment of its headers on."""
        return self._reading.seen

    def _find_span(self) -> Span | None:
        found = targets.find()
        if (
            found is not None
            and recognition.is_leaf(found.name, found.attributes or {})
            and not targets.is_engaged(found)
        ):
            targets.engage(found, self)
            targets.seek(None, self._found)
            return found
        traced = self._invocation is not None and not unsampled.is_dropped()
        if not traced and own.is_wanted(self._rules.llm_spans, self._wire.name):
            made = own.start(self._rules.tracer, self.facts)
            if made is not None:
                self._own = True
                targets.engage(made, self)
            targets.seek(None, self._found)
            return made
        targets.seek(own.comes_late(self._wire.name), self._found)
        return None

    def take_back(self, headers: MutableMapping[str, Any]) -> None:
        """Take off what was written besides the app's own headers, where it still stands as it was written."""
        for name, value in self.headers.items():
            if headers.get(name) == value:
                del headers[name]

    def _found(self, span: Span) -> None:
        """Take the span that was made while the exchange was under way, or after it."""
        self.span = span
        if self._open:
            targets.engage(span, self)
        else:
            self._put()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Make a span of ours current while the client is at work, so that its HTTP span hangs below.

        What goes wrong meanwhile ends the call.
        """
        below = self.span if self._own and self.span is not None and not unsampled.is_one(self.span) else None
        try:
            with sending.send(self.facts.server_address or "", self._path, below):
                yield
        except BaseException as error:
            self.fail(error)
            raise

    def answered(self, status: int, headers: Mapping[str, str]) -> None:
        """Take note of the reply's status and headers (names in lower case)."""
        try:
            self._reading.begin(status, headers)
        except Exception:
            guard.report("reply headers")

    def see(self, chunk: bytes) -> bool:
        """See a chunk of the body just before the app does.

        Returns:
            Whether it is enough from now on to put each chunk into ``seen.tail``.
        """
        try:
            reading = self._reading
            simple = reading.seen.see(chunk)
            # Some SDKs end their span at the terminal event, before the body is at its end; and where the
            # app closes a stream early, the span may end before the call does.
            if reading.seen.marked or (not self._glimpsed and reading.is_stream and b"{" in chunk):
                self._glimpsed = True
                reading.glimpse()
                self._put()
            return simple
        except Exception:
            guard.report("stream")
            return False

    def end(self, body: bytes | None = None) -> None:
        """End the call; ``body`` where the client has read the whole of it already."""
        with _ending:
            if not self._open:
                return
            self._open = False
        try:
            self._reading.end(body)
            self._put()
            self._count()
        except Exception:
            guard.report("call")
        finally:
            self._let_go()

    def fail(self, error: BaseException) -> None:
        """End the call with what went wrong on the way."""
        if self.facts.error_type is None:
            self.facts.error_type = type(error).__name__
        self.end()

    def _put(self) -> None:
        shown, gateway = self.facts, self._reading.gateway
        if gateway is None or not gateway.broadcasts:
            placing.put(shown, self.span, self.record, self._invocation, own=self._own)
            return
        shown = copy(shown)
        gateway.settle(shown)
        placing.put(shown, self.span, self.record, self._invocation, own=self._own)
        # An instrumentation writes tokens of its own.
        carriers.leave(self.span, shown.response_id)

    def _count(self) -> None:
        facts = self.facts
        counters.count("calls")
        if self.record is not None:
            self.record.totals.add(
                calls=0,
                input_tokens=facts.input_tokens or 0,
                output_tokens=facts.output_tokens or 0,
                cost=facts.cost,
                error=facts.error_type is not None,
            )

    def _let_go(self) -> None:
        self.seen.clear()
        if self.span is None:
            return
        try:
            if self._own:
                own.end(self.span, self.facts)
            elif self.facts.error_type is None:
                targets.settle(self.span)
            else:
                targets.release(self.span)
        except Exception:
            guard.report("call")
