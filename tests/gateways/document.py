"""``python -m tests.gateways.document`` writes docs/gateways.md from what the gateways' own files say."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

from byline.gateways import ALL, Gateway
from byline.inbound.fields import FIELDS

PAGE = Path(__file__).parents[2] / "docs" / "gateways.md"

HEAD = """\
<!-- Written by `python -m tests.gateways.document` from the classes in byline.gateways. -->
# Gateways

An app names the gateways that it calls, in code or in the environment; those with hosts of their own are known without.

```python
byline.instrument(gateways=[LiteLLM("http://llm.internal:4000"), OpenRouter(key_status=True)])
```

```sh
BYLINE_GATEWAYS="litellm=http://llm.internal:4000, openrouter"
```

What holds for all of them:

- Ids are written only onto calls to the gateway's own hosts, or below its base URL, and are taken back where a redirect
  leads to another origin. Baggage is never sent.
- What the app has set itself stays, headers and members of the body alike. The rest of the body stays byte for byte.
- Trace ids are those of the LLM span, and go out only where that span is sampled.
- A value that a gateway would not take is left out whole, and so is what would make more than 4 KB of headers. A debug
  line of the log `byline` names the gateway, the field and the reason, never the value.
- Metadata never goes out under the name of an id, for it may come from anybody.
- A gateway that nobody named is known by the headers of its replies, where it has some; these are read, and nothing is
  sent to it.
- `broadcasts=True` says that the gateway sends its own traces to the same destination. Its generation then hangs below
  our span in the trace under which byline's destinations file it (the caller's own, where it names one), and it alone
  carries usage and cost, so that a trace counts each call once.
- `key_aliases={"0f2c10bf": "team blue"}` names API keys by their SHA-256, or eight or more digits of it.

How sure each row is: **run for real** against the gateway itself, in CI; **source**: read in the gateway's code;
**documentation**: as its documentation says, and tested against that; **inference**: nobody says so, and byline looks
at run time.
"""

INBOUND = """\
## What is read from requests

A session, a user, a trace, names, tags and metadata may come to the app under any of these names. Code of the app and
`identity` win over all of them, then come the app's own `fields`; then headers, then the body, then the query of a
websocket's handshake, then W3C baggage. Within each the earlier row wins. Dashes and underscores are the same in the
name of a header, and a name that needs another beside it says nothing without.

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
    for field in FIELDS:
        encoded = ", percent-encoded" if field.encoded else ""
        becomes = f"`{field.field}`{WRITTEN[field.kind]}{encoded}"
        yield f"| {field.where} | `{field.name}` | {becomes} | {f'`{field.needs}`' if field.needs else ''} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
