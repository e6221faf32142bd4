"""What every API shape has in common: how its bodies are read into facts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final

import msgspec

from byline.apis.fields import apply_error, token_count
from byline.apis.provider_names import provider_for_host
from byline.apis.sse import decode_event, iter_events
from byline.call_result import CallResult
from byline.gateways import values

_scan: Final = json.JSONDecoder().raw_decode
_decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

#: Facts of a usage object, each with the paths at which some provider states it.
Usage = Mapping[str, tuple[tuple[str, ...], ...]]


class ApiParser:
    """One API shape. Stateless: everything it finds goes into the facts that it is given.

    Attributes:
        name: The shape's name, e.g. ``openai.chat``.
        operation: The GenAI operation that it is.
        end_mark: What shows a stream's last event, where an SDK ends its span at that one and not at
            the end of the body.
        within: What the path has besides its end.
        needs: Members without which a request is none of this API, but one of another that ends alike.
        bulky: Members of a reply that are content, which nobody but `finish` looks into.
        parameters: Request member → GenAI name of the parameter, and how its value is read.
    """

    name: ClassVar[str]
    operation: ClassVar[str] = "chat"
    end_mark: ClassVar[re.Pattern[bytes] | None] = None
    within: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    bulky: ClassVar[frozenset[str]] = frozenset()
    parameters: ClassVar[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {}
    usage: ClassVar[Usage] = {}

    def read_request(
        self, body: bytes, facts: CallResult, *, path: str, host: str, members: Mapping[str, msgspec.Raw] | None = None
    ) -> bool:
        """Read the model and the parameters that were asked for.

        Args:
            body: The request's body.
            facts: Where they go.
            path: The path of the URL.
            host: Its host.
            members: The body's top-level members, where the caller has looked for them already.

        Returns:
            Whether the body has what a request of this API needs.
        """
        facts.operation = self.operation
        facts.provider = self.provider(host)
        raw = _raw_members(body) if members is None else members
        # Whatever else there is may be long, and says nothing here.
        asked = {name: decode_event(bytes(raw[name])) for name in self._wanted() if name in raw}
        facts.request_model = values.text(asked.get("model")) or self.model_of(path)
        facts.streamed = self.is_streamed(asked, path)
        for member, (name, read) in self.parameters.items():
            value = read(_at(asked, tuple(member.split("."))))
            if value is not None:
                facts.parameters[name] = value
        return self.needs <= raw.keys()

    def _wanted(self) -> set[str]:
        return {"model", "stream", *(member.partition(".")[0] for member in self.parameters)}

    def events(self, stream: bytes) -> Iterator[dict[str, Any]]:
        """Return the events of a stream."""
        return iter_events(stream)

    def read_reply(self, body: bytes, facts: CallResult) -> dict[str, Any] | None:
        """Read a whole reply; return it without its content, ``None`` when it is no JSON object."""
        members = {
            name: decode_event(bytes(value)) for name, value in _raw_members(body).items() if name not in self.bulky
        }
        if not members and decode_event(body) is None:
            return None
        self.take(members, facts)
        self.finish(body, facts)
        return members

    def read_stream(self, head: bytes, tail: bytes, facts: CallResult) -> dict[str, Any] | None:
        """Read the beginning and the end of a stream; return the object that states the usage.

        Where the stream was short ``head`` is empty and ``tail`` is the whole.
        """
        stated: dict[str, Any] | None = None
        for part in (head, tail):
            for event in self.events(part):
                found = self.unwrap(event)
                self.take(found, facts)
                self.finish_event(event, facts)
                if isinstance(found.get("usage") or found.get("usageMetadata"), dict) or "prompt_eval_count" in found:
                    stated = {key: value for key, value in found.items() if key not in self.bulky}
        if stated is None and head:
            # The last event may be longer than what is kept: some repeat the whole answer in it.
            stated = find_usage(tail)
            self.take(stated or {}, facts)
        return stated

    def provider(self, host: str) -> str:
        """Return the provider's name in the GenAI conventions."""
        return provider_for_host(host) or "openai"

    def model_of(self, path: str) -> str | None:  # noqa: ARG002 - for shapes that name it there
        """Return the model that the path names."""
        return None

    def is_streamed(self, members: Mapping[str, Any], path: str) -> bool:  # noqa: ARG002 - likewise
        """Whether a stream is asked for."""
        return members.get("stream") is True

    def unwrap(self, event: dict[str, Any]) -> dict[str, Any]:
        """Return the part of an event that looks like a whole reply."""
        return event

    def take(self, members: Mapping[str, Any], facts: CallResult) -> None:
        """Take id, model, usage and error."""
        facts.response_id = values.text(members.get("id")) or facts.response_id
        facts.response_model = values.text(members.get("model")) or facts.response_model
        self.take_usage(values.mapping(members.get("usage")), facts)
        apply_error(members, facts)

    def take_usage(self, usage: Mapping[str, Any], facts: CallResult) -> None:
        """Take the tokens; what is no sensible number is left out."""
        for fact, paths in self.usage.items():
            for path in paths:
                found = token_count(_at(usage, path))
                if found is not None:
                    setattr(facts, fact, found)
                    break

    def finish(self, body: bytes, facts: CallResult) -> None:
        """Take the finish reasons of a whole reply."""

    def finish_event(self, event: Mapping[str, Any], facts: CallResult) -> None:
        """Take the finish reason of one event."""


def _raw_members(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        return _decode_members(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return {}


def find_usage(tail: bytes) -> dict[str, Any] | None:
    """Return the usage that stands last in the end of a stream whose events are cut off."""
    for name in (b'"usage":', b'"usageMetadata":'):
        at = tail.rfind(name)
        if at >= 0:
            text = tail[at + len(name) :].decode("utf-8", "replace").lstrip()
            try:
                found, _ = _scan(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                return {name.decode().strip('":'): found}
    return None


def _at(members: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    found: Any = members
    for part in path:
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found
