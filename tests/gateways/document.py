"""``python -m tests.gateways.document`` writes docs/gateways.md from what the gateways' own files say."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

from byline.gateways import ALL, Gateway
from byline.inbound.claim_names import CLAIM_NAMES

PAGE = Path(__file__).parents[2] / "docs" / "gateways.md"

HEAD = """\
<!-- Written by `python -m tests.gateways.document` from the classes in byline.gateways. -->
# Gateways

Gateways with a public host, such as OpenRouter, are known by that. Name those that you run yourself, and those for
which you want other settings than the defaults, in code or in the environment:

```python
import byline
from byline.gateways import LiteLLM, OpenRouter

byline.instrument(gateways=[LiteLLM("http://llm.internal:4000"), OpenRouter(key_status=True)])
```

```sh
BYLINE_GATEWAYS="litellm=http://llm.internal:4000, openrouter"
```

What holds for all of them:

- Ids are written only onto calls to the gateway's own hosts, or below its base URL. Where a redirect leads to another
  origin, they are removed. Baggage is never sent.
- What the app has set itself stays, headers and members of the body alike. The rest of the body stays byte for byte.
- Trace ids are those of the LLM span, and are sent only where that span is sampled.
- A value that a gateway would refuse is left out whole, and so is what would make more than 4 KB of headers. The logger
  `byline` says at level DEBUG which field of which gateway was left out and why, never the value.
- Metadata is never sent under the name of an id, for it may come from anybody.
- A gateway that nobody named may be recognised by the headers of its replies. These are read then, and nothing is sent
  to it.
- `broadcasts=True` says that the gateway sends its own traces to the same destination. Its generation then stands below
  byline's span, in the trace to which byline's destinations send it (the caller's own, if it names one). Only the
  gateway's generation carries usage and cost, so that a trace counts each call once.
- `key_aliases={"0f2c10bf": "team blue"}` gives names to API keys, by their SHA-256 or eight or more digits of it.

The last column says how sure a row is. **run for real**: tested against the gateway itself, in CI. **source**: read in
the gateway's code. **documentation**: as its documentation says, and tested against that. **inference**: nobody says
so, and byline looks at the replies.
"""

INBOUND = """\
## What is read from requests

A caller may send a session, a user, a trace, names, tags and metadata under any of these names. The app's own code and
`identity` win over all of them, then the app's own `fields`. After these come headers, then the body, then the query of
a websocket's handshake, then W3C baggage. Within each of these the earlier row wins. In names of headers, dashes and
underscores are the same. Where the column "beside" has a name, the row counts only if that is there as well.

| where | name | becomes | beside |
|---|---|---|---|
"""

WRITTEN = {
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
    return "\n".join([HEAD, *(section(made) for made in ALL), INBOUND + "".join(inbound())])


def section(made: type[Gateway]) -> str:
    """Return the table of one gateway."""
    lines = [f"## {made.__name__}", "", *about(made), "", "| | what | how sure |", "|---|---|---|"]
    lines += [f"| {what} | {text} | {sure} |" for what, text, sure in made.notes]
    if made.remarks:
        lines += ["", *(f"- {remark}" for remark in made.remarks)]
    return "\n".join([*lines, ""])


def about(made: type[Gateway]) -> Iterator[str]:
    """Return what the gateway is, where it is, and its name in the environment."""
    yield (inspect.getdoc(made) or "").partition("\n\n")[0].replace("\n", " ").replace("``", "`")
    yield ""
    hosts = ", ".join(f"`*{host}`" if host.startswith(".") else f"`{host}`" for host in made.hosts)
    place = f"Known at {hosts}" if hosts else "Known at its base URL"
    shows = made.answered is not Gateway.answered
    yield f"{place}{', and by its replies' if shows else ''}. In the environment: `{made.name}`."


def inbound() -> Iterator[str]:
    """Return the table of what is read from requests."""
    for field in CLAIM_NAMES:
        encoded = ", percent-encoded" if field.encoded else ""
        becomes = f"`{field.field}`{WRITTEN[field.kind]}{encoded}"
        yield f"| {field.where} | `{field.name}` | {becomes} | {f'`{field.needs}`' if field.needs else ''} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
