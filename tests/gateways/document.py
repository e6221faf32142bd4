"""Builds docs/gateways.md from docs/gateways.yaml and the gateways' classes; ``python -m tests.docs`` writes it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from byline.gateways import ALL, Gateway
from byline.inbound.claim_names import CLAIM_NAMES

PAGE = Path(__file__).parents[2] / "docs" / "gateways.md"
#: By gateway name: lists of ``{evidence: text}`` under ``sends``, ``reads`` and ``joins``, and ``remarks``.
DATA: dict[str, dict[str, Any]] = yaml.safe_load(PAGE.with_suffix(".yaml").read_text("utf-8"))

HEAD = """\
<!-- Written by `python -m tests.docs` from docs/gateways.yaml and the classes in byline.gateways. -->
# Gateways

byline recognises gateways with a public host, such as OpenRouter, by that host. Name the gateways that you host
yourself, and those for which you want other settings than the defaults, in code or in the environment:

```python
import byline
from byline.gateways import LiteLLM, OpenRouter

byline.instrument(gateways=[LiteLLM("http://llm.internal:4000"), OpenRouter(key_status=True)])
```

```sh
BYLINE_GATEWAYS="litellm=http://llm.internal:4000, openrouter"
```

These rules hold for all gateways:

- Ids are added only to calls to the gateway's own hosts, or below its base URL. If a redirect leads to another origin,
  the ids are removed. Baggage is never sent.
- Headers and body members that the app has set itself stay as they are. The rest of the body is not re-encoded.
- Trace ids are those of the LLM span, and are sent only if that span is sampled.
- A value that the gateway would refuse is not sent at all, and neither are headers beyond 4 KB in total. The logger
  `byline` says at level DEBUG which field of which gateway is not sent and why, never the value.
- Metadata is never sent under the name of an id, because anybody may have sent that metadata.
- A gateway that is not configured may be recognised by its response headers. byline then reads the response and sends
  that gateway nothing.
- Set `broadcasts=True` if the gateway exports its own traces to the same destination. The gateway's generation is then
  nested under byline's span, in the trace under which byline's destinations export (the caller's own trace id, if there
  is one). Only the gateway's generation carries usage and cost, so that each call is counted once.
- `key_aliases={"0f2c10bf": "team blue"}` names API keys by their SHA-256, or by the first digits of that hash.
- `forward_claims={"tags"}` names fields that the gateway gets although a caller has only claimed them
  ([security.md](security.md#gateways)).

The last column gives the evidence for a row: **tested** (against the real gateway, in CI), **source** (the gateway's
code), **documentation** (the gateway's documentation, and byline's tests follow that) or **inferred** (not documented;
byline detects it from responses).
"""

INBOUND = """\
## Claims in requests to your app

A caller may send a session, a user, a trace, names, tags and metadata under any of these names. Values from the app's
own code and from `identity` win over all of them, followed by the app's own `fields`. Then come headers, the body, the
query of a websocket handshake and W3C baggage, in this order; within each of these the earlier row wins. Dashes and
underscores in header names are equal. If the column "needs" has a name, the row counts only if the body has that member
too.

| in | name | becomes | needs |
|---|---|---|---|
"""

FORMS = {
    "text": "",
    "id": ", also as an object with an `id`",
    "tags": ", a comma list or JSON",
    "metadata": ", an object",
    "trace": ", the trace object",
    "controls": ", an object as LiteLLM's `metadata`",
    "entry": ", one entry",
}


def page() -> str:
    """Return the whole page."""
    return "\n".join([HEAD, *(gateway_section(kind) for kind in ALL), INBOUND + "".join(claim_rows())])


def gateway_rows(kind: type[Gateway]) -> list[tuple[str, str, str]]:
    """Return ``sends``, ``reads`` or ``joins``, the text and the evidence of each row of a gateway."""
    data = DATA[kind.name]
    return [
        (what, text, evidence)
        for what in ("sends", "reads", "joins")
        for row in data[what]
        for evidence, text in row.items()
    ]


def gateway_section(kind: type[Gateway]) -> str:
    """Return the section of one gateway."""
    summary = (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ").replace("``", "`")
    lines = [
        f"## {kind.__name__}",
        "",
        summary,
        "",
        describe_recognition(kind),
        "",
        "| | names | evidence |",
        "|---|---|---|",
    ]
    lines += [f"| {what} | {text} | {evidence} |" for what, text, evidence in gateway_rows(kind)]
    remarks = DATA[kind.name].get("remarks")
    if remarks:
        lines += ["", *(f"- {remark}" for remark in remarks)]
    return "\n".join([*lines, ""])


def describe_recognition(kind: type[Gateway]) -> str:
    """Return the sentence that says how byline recognises a gateway, and its name in the environment."""
    hosts = ", ".join(f"`*{host}`" if host.startswith(".") else f"`{host}`" for host in kind.hosts)
    recognised = f"Recognised by the host {hosts}" if hosts else "Recognised by its base URL"
    by_response = bool(kind.response_headers)
    return f"{recognised}{' and by its response headers' if by_response else ''}. In the environment: `{kind.name}`."


def claim_rows() -> Iterator[str]:
    """Return the rows of the table of claims."""
    for field in CLAIM_NAMES:
        encoded = ", percent-encoded" if field.encoded else ""
        becomes = f"`{field.field}`{FORMS[field.kind]}{encoded}"
        yield f"| {field.where} | `{field.name}` | {becomes} | {f'`{field.needs}`' if field.needs else ''} |\n"
