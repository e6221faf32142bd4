"""Prints traces as a tree: trace, app span, step, generation."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from byline.cli import caller, words
from byline.genai import attributes as names
from byline.testing import ReceivedSpan


def print_tree(spans: Sequence[ReceivedSpan], *, framework: str, sent_to: Sequence[str] = ()) -> None:
    """Print what the caller sent and the traces that came of it.

    Args:
        spans: All spans of the run.
        framework: What the app was made with.
        sent_to: The endpoints that got the spans as well.
    """
    console = Console(highlight=False)
    console.print(f"\nA [bold]{framework}[/] app was asked twice, the second time for a stream. The caller sent:\n")
    sent = [f"{name}: {value}" for name, value in caller.HEADERS.items()]
    sent.append(json.dumps({**caller.BODY, "messages": "…"}, ensure_ascii=False, indent=2))
    console.print(Text(textwrap.indent("\n".join(sent), "    ")))
    console.print("\nWhat arrived at the backend:\n")
    for trace in _traces(spans):
        console.print(_tree(trace))
        console.print()
    generations = [span for span in spans if words.is_generation(span)]
    sessions = {str(span.attributes[names.SESSION_ID]) for span in generations if names.SESSION_ID in span.attributes}
    session = ", ".join(sorted(sessions)) or "unknown"
    cost = sum(span.attributes.get(names.COST, 0.0) for span in generations)
    console.print(
        Text(
            f"{len(generations)} generations, ${cost:.6f}, session {session}. "
            "Session, user and trace are the caller's; tokens and cost are the gateway's."
        )
    )
    for endpoint in sent_to:
        console.print(Text(f"Sent to {endpoint} as well: look for session {session} there."))
    console.print(Text("Next: byline demo --json for every attribute, byline check for your own backend.", style="dim"))


def _traces(spans: Sequence[ReceivedSpan]) -> Iterator[list[ReceivedSpan]]:
    """Yield the spans of each trace that the caller named; those of W3C traces where it named none."""
    named = {span.trace_id: span.attributes[names.TRACE_ID] for span in spans if names.TRACE_ID in span.attributes}
    found: dict[str, list[ReceivedSpan]] = {}
    for span in sorted(spans, key=lambda span: span.start):
        found.setdefault(named.get(span.trace_id, span.trace_id), []).append(span)
    yield from found.values()


def _tree(spans: list[ReceivedSpan]) -> Tree:
    # The framework's own inner spans are left out, and what hangs on them moves up.
    parents = {span.span_id: span.parent_id for span in spans}
    shown = [span for span in spans if span.kind == "SERVER" or words.is_generation(span) or words.is_step(span)]
    ids = {span.span_id for span in shown}
    children: dict[str | None, list[ReceivedSpan]] = {}
    for span in shown:
        parent = span.parent_id
        while parent is not None and parent not in ids:
            parent = parents.get(parent)
        children.setdefault(parent, []).append(span)
    told: dict[str, Any] = {}
    for span in spans:
        told = {**span.attributes, **told}
    line = Text(str(told.get(names.TRACE_NAME, "trace")), style="bold cyan")
    line.append(f"  trace {told.get(names.TRACE_ID, spans[0].trace_id)}", style="not bold dim")
    labels = [f"environment {told[names.ENVIRONMENT]}"] if names.ENVIRONMENT in told else []
    labels += [f"{name[len(names.METADATA) :]} {told[name]}" for name in told if name.startswith(names.METADATA)]
    if labels:
        line.append("\n" + " · ".join(labels), style="not bold default")
    tree = Tree(line, guide_style="dim")
    _add(tree, children, None)
    return tree


def _add(tree: Tree, children: dict[str | None, list[ReceivedSpan]], parent: str | None) -> None:
    for span in children.get(parent, ()):
        if words.is_step(span):
            line = Text(span.name, style="magenta").append("  step", style="dim")
        else:
            line = _generation(span) if words.is_generation(span) else _app_span(span)
        _add(tree.add(line), children, span.span_id)


def _app_span(span: ReceivedSpan) -> Text:
    attributes = span.attributes
    line = Text(span.name, style="bold").append(f"  app span · {words.milliseconds(span)}", style="not bold dim")
    calls = attributes.get(names.LLM_CALLS)
    if calls:
        tokens = attributes.get(names.LLM_INPUT_TOKENS, 0) + attributes.get(names.LLM_OUTPUT_TOKENS, 0)
        cost = attributes.get(names.LLM_COST)
        totals = f"\n{calls} call{'s' * (calls > 1)} · {tokens} tokens" + (
            f" · ${cost:.6f}" if cost is not None else ""
        )
        line.append(totals, style="not bold default")
    return _with_error(line, span)


def _generation(span: ReceivedSpan) -> Text:
    streamed = " · streamed" if span.attributes.get(names.PARAMETERS + "stream") else ""
    line = Text(span.name, style="bold green")
    line.append(f"  generation · {words.milliseconds(span)}{streamed}", style="not bold dim default")
    for part in (words.facts(span), words.who(span)):
        if part:
            line.append("\n" + " · ".join(part), style="not bold default")
    return _with_error(line, span)


def _with_error(line: Text, span: ReceivedSpan) -> Text:
    failed = words.error(span)
    return line if failed is None else line.append(f"\n{failed}", style="not bold red")
