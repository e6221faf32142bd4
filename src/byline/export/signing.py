"""Gives every exported span of a request the request's own values, equal on all of them.

Langfuse overwrites what it knows of a trace with the blanks of whichever span comes last, and counts
a session's cost on those spans alone that carry the session.
"""

from __future__ import annotations

from typing import Any, Final

from byline.attribution import EMPTY, Attribution
from byline.export.draft import Draft
from byline.export.kin import Family
from byline.spans import attributes as names
from byline.spans.attributes import of_attribution

#: Of one span alone, not of its trace.
_OWN: Final = frozenset({names.GENERATION_NAME, names.STEP_NAME})
#: A session on a span that is no LLM span does not make it one.
_OF_LLM_SPANS: Final = frozenset({names.CONVERSATION_ID})
_OF_TRACE: Final = (
    names.SESSION_ID,
    names.USER_ID,
    names.TRACE_NAME,
    names.TAGS,
    names.RELEASE,
    names.VERSION,
    names.ENVIRONMENT,
    "langfuse.trace.public",
    "langfuse.public",
)

#: Attribute → attribution field, for spans of which nothing else is known.
_FIELDS: Final = {attributes[0]: field for field, attributes in names.ATTRIBUTION.items()}


def attribution_from(attributes: dict[str, Any]) -> Attribution:
    """Read an attribution back from the attributes of a span that was signed."""
    found: dict[str, Any] = {}
    for name, field in _FIELDS.items():
        value = attributes.get(name)
        if value:
            found[field] = tuple(str(tag) for tag in value) if field == "tags" and not isinstance(value, str) else value
    if isinstance(found.get("tags"), str):
        found["tags"] = (found["tags"],)
    metadata = {
        key[len(names.METADATA) :]: value for key, value in attributes.items() if key.startswith(names.METADATA)
    }
    return Attribution(**found, metadata=metadata) if found or metadata else EMPTY


def sign(draft: Draft) -> None:
    """Put the attribution of its request onto a span.

    What the app or an instrumentation has set itself stays; what was known earlier of the request and
    has changed since gives way.
    """
    attributes = draft.attributes
    family = None if draft.kin is None else draft.kin.family
    stale: dict[str, set[Any]] = {}
    for past in () if family is None else family.past:
        for name, value in of_attribution(past).items():
            stale.setdefault(name, set()).add(value)
    for name, value in of_attribution(draft.attribution).items():
        if name in _OWN or (name in _OF_LLM_SPANS and not draft.is_llm):
            continue
        present = attributes.get(name)
        if present is None or (name in stale and present in stale[name]):
            attributes[name] = value
    if family is not None:
        _spread(draft, family)


def _spread(draft: Draft, family: Family) -> None:
    """Let what one span says of the trace be said by the others of it.

    Under a trace that the caller names, by all of the request. Else by those of one part alone, as it
    was bound, and what is said outside of any part by the parts too.
    """
    named = draft.attribution.trace_id
    own = (family.root if named else family).said.setdefault(named, {})
    outer = {} if named or family.root is family else family.root.said.get(None, {})
    for name in _OF_TRACE:
        if name in draft.attributes:
            own.setdefault(name, draft.attributes[name])
        elif name in own or name in outer:
            draft.attributes[name] = own.get(name, outer.get(name))
