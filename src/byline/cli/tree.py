"""Prints traces as a tree: trace, app span, step, generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from byline.spans import attributes as names
from byline.testing import ReceivedSpan

_SHOWN = (
    ("session", names.SESSION_ID),
    ("user", names.USER_ID),
    ("model", names.FACTS["response_model"]),
    ("model", names.REQUEST_MODEL),
    ("in", names.FACTS["input_tokens"]),
    ("out", names.FACTS["output_tokens"]),
    ("cost", names.COST),
    ("calls", names.LLM_CALLS),
    ("cost", names.LLM_COST),
    ("gateway", names.FACTS["gateway"]),
    ("environment", names.ENVIRONMENT),
)


def show(spans: Sequence[ReceivedSpan], *, framework: str) -> None:
    """Print the traces of a demo run."""
    console = Console()
    console.print(f"\nA conversation of two turns with a [bold]{framework}[/] app, as its spans arrived:\n")
    for trace_id in dict.fromkeys(span.trace_id for span in sorted(spans, key=lambda span: span.start)):
        _show_trace(console, [span for span in spans if span.trace_id == trace_id])
    console.print(
        "[dim]Every LLM span carries the session, user and trace that the caller sent; cost and tokens are the "
        "gateway's.\nNext: byline demo --json shows every attribute, byline check tests your own destinations.[/]"
    )


def _show_trace(console: Console, spans: list[ReceivedSpan]) -> None:
    # The framework's own inner spans are left out, and what hangs on them moves up.
    parents = {span.span_id: span.parent_id for span in spans}
    shown = {span.span_id for span in spans if span.kind == "SERVER" or names.OPERATION_NAME in span.attributes}
    children: dict[str | None, list[ReceivedSpan]] = {}
    for span in sorted(spans, key=lambda span: span.start):
        if span.span_id in shown:
            parent = span.parent_id
            while parent is not None and parent not in shown:
                parent = parents.get(parent)
            children.setdefault(parent, []).append(span)
    name = next((span.attributes[names.TRACE_NAME] for span in spans if names.TRACE_NAME in span.attributes), None)
    tree = Tree(Text(name or "trace", style="bold cyan").append(f"  trace {spans[0].trace_id}", style="dim"))
    _add(tree, children, None)
    console.print(tree)
    console.print()


def _add(tree: Tree, children: dict[str | None, list[ReceivedSpan]], parent: str | None) -> None:
    step: Tree | None = None
    for span in children.get(parent, ()):
        node = tree
        step_name = span.attributes.get(names.STEP_NAME)
        # The drain makes a span of the step; on the way there it is an attribute of each generation.
        if step_name and names.OPERATION_NAME in span.attributes:
            step = step or tree.add(Text(step_name, style="magenta").append("  step", style="dim"))
            node = step
        branch = node.add(_line(span))
        _add(branch, children, span.span_id)


def _line(span: ReceivedSpan) -> Text:
    style = "bold green" if names.OPERATION_NAME in span.attributes else "bold"
    line = Text(span.name, style=style).append(f"  {(span.end - span.start) / 1e6:.0f} ms", style="dim")
    told: set[str] = set()
    for label, attribute in _SHOWN:
        value = span.attributes.get(attribute)
        if value is not None and label not in told:
            told.add(label)
            line.append(f"\n{label} ", style="dim").append(_text(label, value))
    return line


def _text(label: str, value: Any) -> str:
    return f"${value:.6f}" if label == "cost" else str(value)
