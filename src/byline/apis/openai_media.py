"""OpenAI's images, speech and transcriptions, which others offer too. Audio and files in forms are never recorded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

import msgspec

from byline.apis.json_body import Members
from byline.apis.messages import Message, Part, build_message, list_objects, system_parts, text_part, user_messages
from byline.apis.openai import USAGE, OpenAIParser, content_parts, made_image
from byline.apis.parser import Usage, find_value
from byline.call_result import CallResult
from byline.media import MediaBudget

#: Fields of ``multipart/form-data`` that are read. The value of none of them has several lines, but a prompt's.
_FIELDS: Final = ("model", "prompt", "n", "stream", "temperature", "response_format")
_FIELD: Final = re.compile(
    rb'\r\nContent-Disposition: form-data; name="(%s)"\r\n(?:[A-Za-z-]+:[^\r\n]*\r\n)*\r\n(.{0,32768}?)\r\n--'
    % "|".join(_FIELDS).encode(),
    re.IGNORECASE | re.DOTALL,
)
_LITERAL: Final = re.compile(r"true|false|-?\d{1,15}(?:\.\d{1,15})?")
#: Clients write the fields before or after the files, which may have 25 MB.
_SEARCHED: Final = 64 * 1024
_MAX_SECONDS: Final = 1e7
#: Images of a request or reply that are shown.
_MAX_IMAGES: Final = 20


def form_members(fields: Mapping[str, str]) -> dict[str, msgspec.Raw]:
    """Return the fields of a form as members of JSON: numbers and booleans as such, all others as texts."""
    return {
        name: msgspec.Raw(value.encode() if _LITERAL.fullmatch(value) else msgspec.json.encode(value))
        for name, value in fields.items()
        if name in _FIELDS
    }


def find_form_fields(body: bytes) -> dict[str, str]:
    """Return the fields of an encoded form that are read."""
    parts = (body,) if len(body) <= 2 * _SEARCHED else (body[:_SEARCHED], body[-_SEARCHED:])
    found = (match for part in parts for match in _FIELD.finditer(b"\r\n" + part))
    return {match[1].decode(): match[2].decode("utf-8", "replace") for match in found}


class Images(OpenAIParser):
    """``/images/generations``."""

    name: ClassVar[str] = "openai.images"
    required_members: ClassVar[frozenset[str]] = frozenset({"prompt"})
    operation: ClassVar[str] = "generate_content"
    usage: ClassVar[Usage] = USAGE

    def parse_request(self, body: bytes, result: CallResult, **given: Any) -> bool:
        """Set the type of output, which no member states."""
        fits = super().parse_request(body, result, **given)
        result.output_type = "image"
        return fits

    def input_messages(self, request: Members) -> list[Message]:
        """Return the prompt."""
        return user_messages(request.get("prompt"))

    def output_messages(self, reply: Members) -> list[Message]:
        """Return one message with the images, each before the prompt as the model has revised it."""
        parts: list[Part] = []
        for image in list_objects(reply.get("data"))[:_MAX_IMAGES]:
            parts.append(made_image(image.get("b64_json"), reply.get("output_format"), uri=image.get("url")))
            if isinstance(image.get("revised_prompt"), str):
                parts.append(text_part(image["revised_prompt"]))
        return [build_message("assistant", parts)] if parts else []

    def join_stream(self, events: Iterable[Members]) -> list[Message]:
        """Return one message with the images that are complete."""
        parts = [
            made_image(event.get("b64_json"), event.get("output_format"))
            for event in events
            if (event.get_string("type") or "").endswith(".completed")
        ]
        return [build_message("assistant", parts[:_MAX_IMAGES])] if parts else []


class EditedImages(Images):
    """``/images/edits``, whose requests are forms or JSON. Only JSON has images that are captured."""

    takes_form: ClassVar[bool] = True

    def input_messages(self, request: Members) -> list[Message]:
        """Return the prompt and the images."""
        images = list_objects(request.get("images"))[:_MAX_IMAGES]
        parts = content_parts([{**image, "type": "input_image"} for image in images])
        return [build_message("user", [*system_parts(request.get("prompt")), *parts])]


class Speech(OpenAIParser):
    """``/audio/speech``: only a stream of events states the usage. Models without tokens cost by the character."""

    name: ClassVar[str] = "openai.speech"
    required_members: ClassVar[frozenset[str]] = frozenset({"input"})
    operation: ClassVar[str] = "generate_content"
    usage: ClassVar[Usage] = USAGE

    def parse_request(self, body: bytes, result: CallResult, **given: Any) -> bool:
        """Set the type of output, and the characters that are to be spoken."""
        fits = super().parse_request(body, result, **given)
        result.output_type = "speech"
        text = Members(given.get("members") or {}).get_string("input")
        result.input_characters = None if text is None else len(text)
        return fits

    def input_messages(self, request: Members) -> list[Message]:
        """Return the text that is to be spoken."""
        return user_messages(request.get("input"))

    def system_instructions(self, request: Members) -> list[Part]:
        """Return the instructions."""
        return system_parts(request.get("instructions"))


class Transcriptions(OpenAIParser):
    """``/audio/transcriptions`` and ``/audio/translations``: the usage is in tokens or in seconds of audio."""

    name: ClassVar[str] = "openai.transcriptions"
    required_members: ClassVar[frozenset[str]] = frozenset({"model"})
    operation: ClassVar[str] = "generate_content"
    takes_form: ClassVar[bool] = True
    #: The formats here are those of the transcript.
    output_types: ClassVar[tuple[str, ...]] = ()
    usage: ClassVar[Usage] = {
        **USAGE,
        "input_text_tokens": ("input_token_details.text_tokens",),
        "input_audio_tokens": ("input_token_details.audio_tokens",),
    }

    def parse_request(self, body: bytes, result: CallResult, **given: Any) -> bool:
        """Set the type of output, which no member states."""
        fits = super().parse_request(body, result, **given)
        result.output_type = "text"
        return fits

    def parse_response(
        self, body: bytes, result: CallResult, *, capture: bool = False, media: MediaBudget | None = None
    ) -> Mapping[str, Any] | None:
        """Read a whole reply, which is plain text in some formats."""
        reply = super().parse_response(body, result, capture=capture, media=media)
        if reply is None and capture:
            text = body.decode("utf-8", "replace")
            self._capture(lambda: self._capture_output(_spoken(text), result, media))
        return reply or {}

    def apply_usage(self, usage: Mapping[str, Any], result: CallResult) -> None:
        """Read the tokens, or the seconds of audio."""
        super().apply_usage(usage, result)
        if find_value(usage, "type") == "duration":
            result.audio_seconds = seconds(usage.get("seconds"))

    def input_messages(self, request: Members) -> list[Message]:
        """Return the prompt, which may guide the model; the audio is left out."""
        prompt = request.get_string("prompt")
        return user_messages(prompt) if prompt else []

    def output_messages(self, reply: Members) -> list[Message]:
        """Return the transcript."""
        return _spoken(reply.get_string("text") or "")

    def join_stream(self, events: Iterable[Members]) -> list[Message]:
        """Return the transcript of the last event; of a stream that broke off, the part that arrived."""
        pieces: list[str] = []
        whole = None
        for event in events:
            whole = event.get_string("text") or whole
            pieces.append(event.get_string("delta") or "")
        return _spoken(whole or "".join(pieces))


def seconds(stated: object) -> float | None:
    """Return a number of seconds, ``None`` for a value that cannot be one."""
    if isinstance(stated, bool) or not isinstance(stated, int | float):
        return None
    return float(stated) if 0 <= stated <= _MAX_SECONDS else None


def _spoken(text: str) -> list[Message]:
    return [build_message("assistant", [text_part(text)])] if text else []
