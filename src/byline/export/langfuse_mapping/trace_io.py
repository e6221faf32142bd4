"""Input and output of a whole trace: the first question and the last answer of the model calls.

Langfuse shows them from the trace's root, which often is a step or the server span and has neither. If a trace
has several root generations, Langfuse's legacy write path shows the input of the last one to start.
"""

from __future__ import annotations

import itertools
from typing import Final

from byline.export.langfuse_mapping import messages
from byline.export.redaction import content
from byline.export.span_copy import SpanCopy

_TRACE_INPUT: Final = "langfuse.trace.input"
_numbers: Final = itertools.count()


class TraceIO:
    """First input and last output of each trace, as one destination may show them: filters differ by destination."""

    def __init__(self) -> None:
        number = next(_numbers)
        self._input_key, self._output_key = f"{messages.INPUT} {number}", f"{messages.OUTPUT} {number}"

    def collect(self, span: SpanCopy) -> None:
        """Record the input of the first model call of a trace, and the output of the last one."""
        if not messages.has_content(span.attributes):
            return
        request_spans = None if span.state is None else span.state.request_spans
        if request_spans is None or not span.is_model_call:
            return
        recorded = request_spans.root.in_trace(span.trace_id).first_and_last
        masked = content.masked_sides(span.attributes)
        start, end = span.start_time or 0, span.end_time or 0
        is_first = self._input_key not in recorded or start < recorded[self._input_key][0]
        if is_first and content.INPUT not in masked and (value := messages.read_input(span.attributes)) is not None:
            recorded[self._input_key] = (start, value)
        is_last = self._output_key not in recorded or end >= recorded[self._output_key][0]
        if is_last and content.OUTPUT not in masked and (value := messages.read_output(span.attributes)) is not None:
            recorded[self._output_key] = (end, value)

    def apply(self, span: SpanCopy) -> None:
        """Set input and output of the trace on its root, unless the root has some."""
        request_spans = None if span.state is None else span.state.request_spans
        if (span.parent is not None and not span.starts_trace) or request_spans is None:
            return
        recorded = request_spans.root.in_trace(span.trace_id).first_and_last
        if not recorded:
            return
        if not span.is_llm:
            for attribute, key in ((messages.INPUT, self._input_key), (messages.OUTPUT, self._output_key)):
                if key in recorded:
                    span.attributes.setdefault(attribute, recorded[key][1])
        elif self._input_key in recorded and span.is_model_call:
            start, first_input = recorded[self._input_key]
            if start < (span.start_time or 0):
                span.attributes.setdefault(_TRACE_INPUT, first_input)
