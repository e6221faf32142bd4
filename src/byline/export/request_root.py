"""The root of a request in the trace of a destination: first question, last answer, error, totals, and name.

Backends list traces by their root, which often is a step or the server span and has none of these. Phoenix shows
nothing of the spans below in its lists. Langfuse's direct write path takes input and output of a trace from the root
alone; of several root generations its legacy write path shows the input of the last one to start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from opentelemetry.sdk.trace import Event
from opentelemetry.trace import Status, StatusCode

from byline.export import chat_messages, conversation
from byline.export.chat_messages import Conversation
from byline.export.redaction import content
from byline.export.span_copy import SpanCopy, find_error
from byline.genai import attributes as names
from byline.genai.span_state import SpanState
from byline.media import Media
from byline.request_spans import RequestSpans

_TRACE_INPUT: Final = "langfuse.trace.input"
_KINDS: Final = (names.OPERATION_NAME, "openinference.span.kind", "langfuse.observation.type", "llm.request.type")
_EMBEDDING: Final = frozenset({"embedding", "embeddings"})
_MAX_OWNERS: Final = 500


class _Source(NamedTuple):
    """A model call whose content is read if a root needs the content."""

    attributes: Mapping[str, Any]
    events: Sequence[Event]
    media: Mapping[str, Media]

    def read(self) -> Conversation:
        return conversation.read_conversation(self.attributes, self.events)


class _Summary:
    """The first question, the last answer and the last error of some model calls."""

    __slots__ = ("end", "error", "input", "input_start", "output", "output_end")

    def __init__(self) -> None:
        self.input: _Source | None = None
        self.input_start = 0
        self.output: _Source | None = None
        self.output_end = 0
        self.end = 0
        #: Text and type of the error, if the last call has failed.
        self.error: tuple[str, str] | None = None


class RequestRoots:
    """Sets first question, last answer, error, totals and name on the roots that one destination gets.

    Args:
        destination_id: The destination, see `ExportDecisions`.
        langfuse: Whether to write Langfuse's attributes.
        openinference: Whether to write OpenInference's.
    """

    def __init__(self, destination_id: int, *, langfuse: bool, openinference: bool) -> None:
        # Each destination has summaries of its own: filters and masks differ.
        self._destination_id = destination_id
        self._langfuse = langfuse
        self._openinference = openinference

    def collect(self, span: SpanCopy) -> None:
        """Record a model call for its part of the request, the parts around that, and its outermost agent."""
        request_spans = span.request_spans
        if request_spans is None or not span.is_model_call or _is_embedding(span.attributes):
            return
        trace_id = span.trace_id
        part: RequestSpans | None = request_spans
        while part is not None:
            self._record(part.in_trace(trace_id).summaries, 0, span)
            part = part.parent
        agent = None if span.state is None else _outermost_agent(span.state)
        if agent is not None:
            self._record(request_spans.root.in_trace(trace_id).summaries, agent.span_id, span)

    def apply(self, span: SpanCopy) -> None:
        """Complete the root of a request, and name its trace."""
        request_spans = span.request_spans
        if request_spans is None:
            return
        root = request_spans.root
        if self._langfuse and root.route and names.TRACE_NAME not in span.attributes and _owns_trace(span, root):
            span.attributes[names.TRACE_NAME] = root.route
        if not span.is_root:
            return
        is_outermost = span.parent is None or span.starts_trace
        if not is_outermost and not self._openinference:
            # The server span below a span of the caller's.
            return
        if span.is_model_call:
            self._set_first_question(span, root)
            return
        owner = span.context.span_id if span.is_llm else 0
        part = request_spans if _is_step_of_part(span, root) else root
        summary = part.in_trace(span.trace_id).summaries.get((self._destination_id, owner))
        if not span.is_llm:
            self._complete(span, root, is_whole=part is root)
        if summary is not None:
            self._summarize(span, summary, is_outermost=is_outermost)

    def _record(self, summaries: dict[tuple[int, int], Any], owner: int, span: SpanCopy) -> None:
        key = (self._destination_id, owner)
        summary = summaries.get(key)
        if summary is None:
            if len(summaries) >= _MAX_OWNERS:
                return
            summary = summaries[key] = _Summary()
        start, end = span.start_time or 0, span.end_time or 0
        masked = content.masked_sides(span.attributes)
        has_input, has_output = conversation.sides(span.attributes, span.events)
        source = _Source(span.attributes, span.events, span.media)
        if has_input and content.INPUT not in masked and (summary.input is None or start < summary.input_start):
            summary.input, summary.input_start = source, start
        if has_output and content.OUTPUT not in masked and end >= summary.output_end:
            summary.output, summary.output_end = source, end
        if end >= summary.end:
            summary.end = end
            error = find_error(span) if span.is_error else None
            summary.error = None if error is None else (error.text, error.kind)

    def _complete(self, span: SpanCopy, root: RequestSpans, *, is_whole: bool) -> None:
        """Set name and totals of a root that is no LLM span."""
        attributes = span.attributes
        usage = root.usage
        if usage is not None and is_whole and names.LLM_CALLS not in attributes:
            attributes.update(names.usage_attributes(usage))
        name = attributes.get(names.TRACE_NAME)
        if self._openinference and isinstance(name, str) and span.is_server_span and span.parent is None:
            # Phoenix names a trace after its root.
            span.name = name

    def _summarize(self, span: SpanCopy, summary: _Summary, *, is_outermost: bool) -> None:
        attributes = span.attributes
        given = None if summary.input is None else summary.input.read()
        returned = given
        if summary.output is not summary.input:
            returned = None if summary.output is None else summary.output.read()
        has_output = summary.output is not None and (summary.error is None or summary.output_end >= summary.end)
        for source in (summary.input, summary.output):
            span.media = span.media if source is None else {**source.media, **span.media}
        if self._langfuse and is_outermost:
            if given is not None:
                span.set_missing(conversation.INPUT, chat_messages.dump_input(given))
            if returned is not None and has_output:
                span.set_missing(conversation.OUTPUT, chat_messages.dump_output(returned))
        if self._openinference:
            if given is not None:
                span.set_missing("input.value", chat_messages.text_of(given.input, "user"))
            if returned is not None and has_output:
                span.set_missing("output.value", chat_messages.text_of(returned.output, "assistant"))
        if summary.error is not None and span.status.description is None:
            # A server span of which only the status code is known says nothing of the provider's error.
            text, kind = summary.error
            span.status = Status(StatusCode.ERROR, text)
            attributes.setdefault(names.ERROR_TYPE, kind)

    def _set_first_question(self, span: SpanCopy, root: RequestSpans) -> None:
        """Set the first question of the trace on a later generation that is a root as well."""
        summary = root.in_trace(span.trace_id).summaries.get((self._destination_id, 0)) if self._langfuse else None
        if summary is not None and summary.input is not None and summary.input_start < (span.start_time or 0):
            question = chat_messages.dump_input(summary.input.read())
            span.media = {**summary.input.media, **span.media}
            span.set_missing(_TRACE_INPUT, question)


def _owns_trace(span: SpanCopy, root: RequestSpans) -> bool:
    """Return whether the request began the trace; in the trace of another process or request byline names nothing."""
    return root.remote_parent is None and not span.attribution.trace_id


def _is_step_of_part(span: SpanCopy, root: RequestSpans) -> bool:
    """Return whether a span is the step of a `byline.bound` part, not of the whole request."""
    step = None if span.is_llm else span.attributes.get(names.STEP_NAME)
    return step is not None and not span.is_server_span and step != root.attribution.span_name


def _is_embedding(attributes: Mapping[str, Any]) -> bool:
    return any(str(attributes.get(name)).lower() in _EMBEDDING for name in _KINDS)


def _outermost_agent(state: SpanState) -> SpanState | None:
    outermost = None
    for ancestor in state.llm_ancestors():
        outermost = ancestor
    return outermost
