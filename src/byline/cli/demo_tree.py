"""Prints the demo's traces as a tree: trace, server span, step, generation."""

from __future__ import annotations

import io
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from byline.cli import demo_caller, span_summary
from byline.genai import attributes as names
from byline.testing import ReceivedSpan


def save_picture(spans: Sequence[ReceivedSpan], path: Path) -> None:
    """Write the traces that a backend received as an SVG, which refers to no font or file elsewhere."""
    console = Console(highlight=False, record=True, width=84, file=io.StringIO())
    for trace in _group_by_trace(spans):
        console.print(_trace_tree(trace))
    svg = console.export_svg(title="byline demo", unique_id="byline")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    path.write_text(svg.replace("Fira Code, monospace", "Fira Code, Menlo, Consolas, monospace"), encoding="utf-8")


def print_tree(spans: Sequence[ReceivedSpan], *, framework: str, sent_to: Sequence[str] = ()) -> None:
    """Print the client's request and the traces that a backend received.

    Args:
        spans: All spans of the run.
        framework: The name of the app's web framework.
        sent_to: The endpoints that got the spans as well.
    """
    console = Console(highlight=False)
    console.print(f"\nA [bold]{framework}[/] app got two requests, the second one for a stream. The caller sent:\n")
    sent = [f"{name}: {value}" for name, value in demo_caller.HEADERS.items()]
    sent.append(json.dumps({**demo_caller.BODY, "messages": "…"}, ensure_ascii=False, indent=2))
    console.print(Text(textwrap.indent("\n".join(sent), "    ")))
    console.print("\nWhat arrived at the backend:\n")
    for trace in _group_by_trace(spans):
        console.print(_trace_tree(trace))
        console.print()
    generations = [span for span in spans if span_summary.is_generation(span)]
    sessions = {str(span.attributes[names.SESSION_ID]) for span in generations if names.SESSION_ID in span.attributes}
    session = ", ".join(sorted(sessions)) or "unknown"
    cost = sum(span.attributes.get(names.COST, 0.0) for span in generations)
    console.print(
        Text(
            f"{len(generations)} generations, ${cost:.6f}, session {session}. "
            "Session, user and trace come from the caller, tokens and cost from the gateway."
        )
    )
    hidden = sorted({span.name for span in spans if not _is_shown(span)})
    if hidden:
        console.print(Text(f"Not in the tree: {', '.join(hidden)}."))
    for endpoint in sent_to:
        console.print(Text(f"Sent to {endpoint} as well: look for session {session} there."))
    console.print(Text("Next: byline demo --json for all spans, byline check for your own backend.", style="dim"))


def _group_by_trace(spans: Sequence[ReceivedSpan]) -> Iterator[list[ReceivedSpan]]:
    """Yield the spans of each trace: the caller's trace id if there is one, else the W3C trace id."""
    named = {span.trace_id: span.attributes[names.TRACE_ID] for span in spans if names.TRACE_ID in span.attributes}
    traces: dict[str, list[ReceivedSpan]] = {}
    for span in sorted(spans, key=lambda span: span.start):
        traces.setdefault(named.get(span.trace_id, span.trace_id), []).append(span)
    yield from traces.values()


def _trace_tree(spans: list[ReceivedSpan]) -> Tree:
    # Spans that a framework makes inside a request are not shown; their children move up.
    parents = {span.span_id: span.parent_id for span in spans}
    shown = [span for span in spans if _is_shown(span)]
    ids = {span.span_id for span in shown}
    children: dict[str | None, list[ReceivedSpan]] = {}
    for span in shown:
        parent = span.parent_id
        while parent is not None and parent not in ids:
            parent = parents.get(parent)
        children.setdefault(parent, []).append(span)
    merged: dict[str, Any] = {}
    for span in spans:
        merged = {**span.attributes, **merged}
    line = Text(str(merged.get(names.TRACE_NAME, "trace")), style="bold cyan")
    line.append(f"  trace {merged.get(names.TRACE_ID, spans[0].trace_id)}", style="not bold dim")
    labels = [f"environment {merged[names.ENVIRONMENT]}"] if names.ENVIRONMENT in merged else []
    labels += [f"{name[len(names.METADATA) :]} {merged[name]}" for name in merged if name.startswith(names.METADATA)]
    if labels:
        line.append("\n" + " · ".join(labels), style="not bold default")
    tree = Tree(line, guide_style="dim")
    _add_children(tree, children, None)
    return tree


def _is_shown(span: ReceivedSpan) -> bool:
    return span.kind == "SERVER" or span_summary.is_generation(span) or span_summary.is_step(span)


def _add_children(tree: Tree, children: dict[str | None, list[ReceivedSpan]], parent: str | None) -> None:
    for span in children.get(parent, ()):
        if span_summary.is_step(span):
            line = Text(span.name, style="magenta").append("  step", style="dim")
        else:
            line = _generation_line(span) if span_summary.is_generation(span) else _server_line(span)
            for error in span_summary.describe_error(span):
                line.append(f"\n{error}", style="not bold red")
        _add_children(tree.add(line), children, span.span_id)


def _server_line(span: ReceivedSpan) -> Text:
    attributes = span.attributes
    line = Text(span.name, style="bold")
    line.append(f"  server span · {span_summary.format_duration(span)}", style="not bold dim")
    calls = attributes.get(names.LLM_CALLS)
    if calls:
        tokens = attributes.get(names.LLM_INPUT_TOKENS, 0) + attributes.get(names.LLM_OUTPUT_TOKENS, 0)
        cost = attributes.get(names.LLM_COST)
        totals = [f"{calls} call{'s' * (calls > 1)}", f"{tokens} tokens"]
        totals += [f"${cost:.6f}"] if cost is not None else []
        line.append("\n" + " · ".join(totals), style="not bold default")
    return line


def _generation_line(span: ReceivedSpan) -> Text:
    streamed = " · streamed" if span.attributes.get(names.PARAMETERS + "stream") else ""
    line = Text(span.name, style="bold green")
    line.append(f"  generation · {span_summary.format_duration(span)}{streamed}", style="not bold dim default")
    for parts in (span_summary.describe_call(span), span_summary.describe_caller(span)):
        if parts:
            line.append("\n" + " · ".join(parts), style="not bold default")
    return line
