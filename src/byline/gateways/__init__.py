"""The gateways that byline knows, one file each."""

from __future__ import annotations

from typing import Final

from byline.gateways.gateway import Field, Gateway, Outgoing, Reply

#: Every name that a gateway gives a claim, gathered from the gateways' own files.
FIELDS: Final[tuple[Field, ...]] = ()

__all__ = ["FIELDS", "Field", "Gateway", "Outgoing", "Reply"]
