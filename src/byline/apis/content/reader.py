"""What every reader of content has in common. None is asked unless content is to be captured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from byline.apis.content.parts import Message, Part, dump_list, dump_messages
from byline.apis.sse import decode_event, iter_events
from byline.call_result import CallResult
from byline.gateways import values


class Reader:
    """Reads the content of one API shape; a shape overrides what differs."""

    def read_request(self, body: bytes, facts: CallResult) -> None:
        """Read input messages, system instructions and tool definitions."""
        members = values.mapping(decode_event(body))
        facts.input_messages = dump_messages(self.input(members))
        facts.system_instructions = dump_list(self.system(members))
        facts.tool_definitions = dump_list(self.tools(members))

    def read_reply(self, body: bytes, facts: CallResult) -> None:
        """Read the output messages of a whole reply."""
        facts.output_messages = dump_messages(self.output(values.mapping(decode_event(body))))

    def read_stream(self, stream: bytes, facts: CallResult) -> None:
        """Read the output messages of a stream."""
        facts.output_messages = dump_messages(self.gather(iter_events(stream)))

    def input(self, members: Mapping[str, Any]) -> list[Message]:  # noqa: ARG002 - for shapes that have it
        """Return the input messages."""
        return []

    def system(self, members: Mapping[str, Any]) -> list[Part]:  # noqa: ARG002 - likewise
        """Return the system instructions, where they are no message."""
        return []

    def tools(self, members: Mapping[str, Any]) -> list[Any]:  # noqa: ARG002 - likewise
        """Return the tool definitions."""
        return []

    def output(self, members: Mapping[str, Any]) -> list[Message]:  # noqa: ARG002 - likewise
        """Return the output messages of a whole reply."""
        return []

    def gather(self, stream: Iterable[Mapping[str, Any]]) -> list[Message]:
        """Return the output messages of a stream; by default those of its last event that has some."""
        found: list[Message] = []
        for event in stream:
            found = self.output(event) or found
        return found


def items(value: object) -> list[Mapping[str, Any]]:
    """Return the objects of a JSON array, none where it is no array."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
