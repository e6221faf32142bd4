"""The base of the parsers: one class for each API reads request, reply, stream and messages."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final

import msgspec

from byline import errors
from byline.apis.json_body import Members, decode_json, iter_events, parse_array, parse_object
from byline.apis.messages import Message, Part, dump_list, dump_messages, flat_tool, list_objects
from byline.call_result import CallResult
from byline.gateways import values
from byline.media import MediaBudget

#: Request member (a dotted path) → the parameter's GenAI name, and the type of the value.
Parameters = Mapping[str, tuple[str, type[int | float | str | tuple[str, ...]]]]
#: Attribute of a call result → the dotted paths in a usage object at which providers state it.
Usage = Mapping[str, tuple[str, ...]]

#: Requested format or modality → type of output in the GenAI conventions.
_OUTPUT_TYPES: Final = {
    "text": "text",
    "text/plain": "text",
    "json": "json",
    "json_object": "json",
    "json_schema": "json",
    "application/json": "json",
    "image": "image",
    "audio": "speech",
    "speech": "speech",
}
#: The members of which a body that states an error has one.
_ERROR_MEMBERS: Final = frozenset({"error", "type", "detail", "message"})
_MAX_TOKENS: Final = 1_000_000_000
#: Of JSON.
_NUMBERS: Final = (int, float)
#: End of the host → provider.
_PROVIDERS: Final = {
    ".openai.azure.com": "azure.ai.openai",
    ".openai.com": "openai",
    ".inference.ai.azure.com": "azure.ai.inference",
    ".anthropic.com": "anthropic",
    ".aiplatform.googleapis.com": "gcp.vertex_ai",
    # Regions, and the multi-regions aiplatform.us.rep.googleapis.com and aiplatform.eu.rep.googleapis.com.
    "-aiplatform.googleapis.com": "gcp.vertex_ai",
    ".rep.googleapis.com": "gcp.vertex_ai",
    ".googleapis.com": "gcp.gemini",
    ".mistral.ai": "mistral_ai",
    ".groq.com": "groq",
    ".deepseek.com": "deepseek",
    ".x.ai": "x_ai",
    ".cohere.com": "cohere",
    ".cohere.ai": "cohere",
    ".perplexity.ai": "perplexity",
    ".moonshot.ai": "moonshot_ai",
    ".moonshot.cn": "moonshot_ai",
    ".ml.cloud.ibm.com": "ibm.watsonx.ai",
    ".oci.oraclecloud.com": "oracle_cloud.generative_ai",
    # Names that instrumentations use; the conventions have none.
    ".together.xyz": "together",
    ".together.ai": "together",
    ".fireworks.ai": "fireworks",
    ".cerebras.ai": "cerebras",
    ".huggingface.co": "huggingface",
    ".nvidia.com": "nvidia",
    ".sambanova.ai": "sambanova",
    ".models.github.ai": "azure.ai.inference",
}
#: Matches the text of an event that states more than content and model. Parsing the other events of a chat
#: completion of 400 chunks takes 4 ms.
_STATED: Final = re.compile(
    rb'"(?:(?:usage|usageMetadata|response|interaction)"\s*:\s*\{'
    rb'|(?:finish_reason|finishReason|stop_reason|done_reason|message|detail)"\s*:\s*"'
    rb'|(?:error|provider_metadata|eval_count|prompt_eval_count)")'
)
_BASE64_VECTOR: Final = re.compile(rb'"embedding"\s*:\s*"([^"]*)"')
_VECTOR: Final = re.compile(rb"\[\s*-?\d[^\]]*\]")
#: The first embedding is searched within so many bytes: 3,072 numbers of 20 digits.
_VECTOR_BYTES: Final = 64 * 1024
_scan_json: Final = json.JSONDecoder().raw_decode


class ApiParser:
    """The parser of one API. A parser has no state: each value goes into the call result that the caller passes.

    Attributes:
        name: The API's name, e.g. ``openai.chat``.
        operation: The GenAI operation.
        end_mark: Matches the last event of a stream, if an SDK ends its span at that event and not at the
            end of the body.
        default_provider: The provider if the host is none of a known provider; ``None`` for an API that many
            providers offer, which are named by their gateway or host.
        path_pattern: Matches a part that the path has besides its end.
        required_members: Members that every request of this API has. A request without them belongs to
            another API with the same end of the path.
        takes_form: Whether requests may be forms (``multipart/form-data``) instead of JSON.
        is_asked_for_later: Whether apps ask for old responses too, whose usage was stated before. Only those that
            this process has created, and that were not done then, are counted.
        shares_path: Whether known gateways and providers serve another API, which calls no model, at a path
            with the same end.
        parameters: The request parameters.
        output_types: Dotted paths of the request members that state a type of output.
        dimensions: Dotted path of the request member that states the dimensions of embeddings.
        usage: The token counts.
    """

    name: ClassVar[str]
    operation: ClassVar[str] = "chat"
    default_provider: ClassVar[str | None] = None
    end_mark: ClassVar[re.Pattern[bytes] | None] = None
    path_pattern: ClassVar[re.Pattern[str] | None] = None
    required_members: ClassVar[frozenset[str]] = frozenset()
    takes_form: ClassVar[bool] = False
    is_asked_for_later: ClassVar[bool] = False
    shares_path: ClassVar[bool] = False
    parameters: ClassVar[Parameters] = {}
    output_types: ClassVar[tuple[str, ...]] = ()
    dimensions: ClassVar[str | None] = None
    usage: ClassVar[Usage] = {}

    #: `parameters` by the first segment of their paths: rest of the path, name and type.
    _parameters: ClassVar[Mapping[str, list[tuple[str, str, type]]]] = {}
    #: `output_types` likewise: rests of the paths.
    _output_types: ClassVar[Mapping[str, list[str]]] = {}
    #: The attributes of a usage object's members, by the rest of the path: of a count, or of the counts in an object.
    #: Of an attribute that several members may state the preferred one is the last.
    _usage_members: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        """Split the paths of the tables once: most requests and replies have few of the members."""
        super().__init_subclass__(**options)
        parameters: dict[str, list[tuple[str, str, type]]] = {}
        for path, told in cls.parameters.items():
            member, _, rest = path.partition(".")
            parameters.setdefault(member, []).append((rest, *told))
        output_types: dict[str, list[str]] = {}
        for path in cls.output_types:
            member, _, rest = path.partition(".")
            output_types.setdefault(member, []).append(rest)
        cls._parameters, cls._output_types = parameters, output_types
        paths = [(rank, path, attribute) for attribute, paths in cls.usage.items() for rank, path in enumerate(paths)]
        usage_members: dict[str, dict[str, str]] = {}
        for _, path, attribute in sorted(paths, key=lambda each: -each[0]):
            member, _, rest = path.partition(".")
            usage_members.setdefault(member, {})[rest] = attribute
        cls._usage_members = usage_members

    def parse_request(
        self,
        body: bytes,
        result: CallResult,
        *,
        path: str,
        host: str,
        members: Mapping[str, msgspec.Raw] | None = None,
        capture: bool = False,
        media: MediaBudget | None = None,
    ) -> bool:
        """Read model and parameters, and the messages if they are captured.

        Args:
            body: The request's body.
            result: The call result to fill in.
            path: The path of the URL.
            host: The host of the URL.
            members: The body's top-level members, if the caller has split the body already.
            capture: Whether input messages, system instructions and tool definitions are captured.
            media: Room for the bytes of binary parts, ``None`` if nobody uploads them.

        Returns:
            Whether the body has the members that a request of this API needs.
        """
        request = Members(members) if members is not None else parse_object(body) or Members({})
        result.operation = self.operation
        result.provider = self.provider_for(host) or host
        result.request_model = values.text(request.get_string("model")) or self.model_in_path(path)
        result.streamed = self.is_streamed(request, path)
        self._read_parameters(request, result)
        if self.dimensions is not None:
            result.dimensions = token_count(find_value(request, self.dimensions))
        if capture:
            self._capture(lambda: self._capture_request(request, result, media))
        else:
            # These quote the conversation.
            result.parameters.pop("stop_sequences", None)
        return self.has_required_members(request)

    def _read_parameters(self, request: Members, result: CallResult) -> None:
        # A request has few of the members.
        for member in filter(request.raw.__contains__, self._parameters):
            for rest, name, kind in self._parameters[member]:
                value = _parameter_value(find_value(request[member], rest), kind)
                # The conventions leave out the number of choices if the number is one.
                if value is not None and (name != "choice.count" or value != 1):
                    result.parameters[name] = value
        for member in filter(request.raw.__contains__, self._output_types):
            for rest in self._output_types[member]:
                result.output_type = find_output_type(find_value(request[member], rest)) or result.output_type

    def parse_response(
        self, body: bytes, result: CallResult, *, capture: bool = False, media: MediaBudget | None = None
    ) -> Mapping[str, Any] | None:
        """Read a whole reply, and its messages if they are captured.

        Returns:
            The reply's members for a gateway to read; ``None`` if the reply is no JSON.
        """
        reply = parse_object(body)
        if reply is None:
            return None if decode_json(body) is None else {}
        self.apply_reply(reply, result)
        if capture:
            self._capture(lambda: self._capture_output(self.output_messages(reply), result, media))
        stated = self.gateway_members(reply)
        return Members({**stated, **reply.raw}) if stated else reply

    def parse_stream(
        self, head: bytes, tail: bytes, result: CallResult, *, capture: bool = False, media: MediaBudget | None = None
    ) -> Mapping[str, Any] | None:
        """Read beginning and end of a stream, and its messages if they are captured.

        Args:
            head: The beginning; empty if the tail is the whole stream.
            tail: The end.
            result: The call result to fill in. The finish reasons are replaced, because a stream is read
                again as more events arrive.
            capture: Whether the output messages are captured.
            media: Room for the bytes of their binary parts.

        Returns:
            The members that a gateway reads, usage and cost among them; ``None`` if no event states them.
        """
        result.finish_reasons = ()
        raw: dict[str, msgspec.Raw] = {}
        stated: dict[str, msgspec.Raw] = {}

        def is_wanted(text: bytes) -> bool:
            return capture or result.response_model is None or _STATED.search(text) is not None

        def read_events() -> Iterator[Members]:
            for part in (head, tail):
                for event in self.iter_events(part, is_wanted):
                    reply = self.reply_in(event)
                    self.apply_reply(reply, result)
                    stated.update(self.gateway_members(reply))
                    if _states_usage(reply):
                        raw.clear()
                        raw.update(reply.raw)
                    yield event

        events = read_events()
        if capture:
            self._capture(lambda: self._capture_output(self.join_stream(events), result, media))
        for _ in events:
            pass
        if not raw and head:
            # The last event may be longer than the tail: some APIs repeat the whole answer in it.
            raw.update(find_usage(tail))
            self.apply_reply(Members(raw), result)
        raw.update(stated)
        return Members(raw) if raw else None

    def provider_for(self, host: str) -> str | None:
        """Return the provider's name in the GenAI conventions, ``None`` if the host does not tell."""
        return _known_provider(host) or self.default_provider

    def has_required_members(self, request: Members) -> bool:
        """Return whether the body has the members that every request of this API has."""
        return self.required_members <= request.raw.keys()

    def model_in_path(self, path: str) -> str | None:  # noqa: ARG002 - for APIs that name the model in the path
        """Return the model that the path names."""
        return None

    def is_streamed(self, request: Members, path: str) -> bool:  # noqa: ARG002 - likewise
        """Return whether the request asks for a stream."""
        return request.get("stream") is True

    def iter_events(self, stream: bytes, is_wanted: Callable[[bytes], bool]) -> Iterator[Members]:
        """Yield the events of a stream, at least those that are wanted."""
        return iter_events(stream, is_wanted)

    def reply_in(self, event: Members) -> Members:
        """Return the part of an event that has the members of a whole reply."""
        return event

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Read id, model, usage and error."""
        result.response_id = values.text(reply.get_string("id")) or result.response_id
        result.response_model = values.text(reply.get_string("model")) or result.response_model
        self.apply_usage(reply.get_dict("usage"), result)
        apply_error(reply, result)

    def apply_usage(self, usage: Mapping[str, Any], result: CallResult) -> None:
        """Read the token counts; a value that is no token count is left out."""
        for name in filter(usage.__contains__, self._usage_members):
            value, attributes = usage[name], self._usage_members[name]
            if type(value) is not dict:
                set_count(result, attributes.get(""), value)
            else:
                for detail in attributes.keys() & value.keys():
                    set_count(result, attributes[detail], value[detail])

    def gateway_members(self, reply: Members) -> dict[str, msgspec.Raw]:  # noqa: ARG002 - for APIs that have some
        """Return members that a gateway has put into a choice instead of the top of the reply."""
        return {}

    def input_messages(self, request: Members) -> list[Message]:  # noqa: ARG002 - likewise
        """Return the input messages."""
        return []

    def system_instructions(self, request: Members) -> list[Part]:  # noqa: ARG002 - likewise
        """Return the system instructions, if they are not among the messages."""
        return []

    def tool_definitions(self, request: Members) -> list[Any]:
        """Return the tool definitions as the GenAI conventions have them: a function's members beside the type."""
        return [flat_tool(tool) for tool in list_objects(request.get("tools"))]

    def output_messages(self, reply: Members) -> list[Message]:  # noqa: ARG002 - likewise
        """Return the output messages of a whole reply."""
        return []

    def join_stream(self, events: Iterable[Members]) -> list[Message]:
        """Return the output messages of a stream; by default those of the last event that has some."""
        messages: list[Message] = []
        for event in events:
            messages = self.output_messages(event) or messages
        return messages

    def _capture(self, capture_messages: Callable[[], None]) -> None:
        try:
            capture_messages()
        except Exception:
            errors.report_internal_error("content")

    def _capture_request(self, request: Members, result: CallResult, media: MediaBudget | None) -> None:
        result.input_messages = dump_messages(self.input_messages(request), media)
        result.system_instructions = dump_list(self.system_instructions(request))
        result.tool_definitions = dump_list(self.tool_definitions(request))

    def _capture_output(self, messages: list[Message], result: CallResult, media: MediaBudget | None) -> None:
        result.output_messages = dump_messages(messages, media)


@functools.lru_cache(maxsize=256)
def _known_provider(host: str) -> str | None:
    dotted = "." + host
    return next((name for end, name in _PROVIDERS.items() if dotted.endswith(end)), None)


def find_value(value: Any, path: str) -> Any:
    """Return the value at a dotted path in a value, which may be empty; ``None`` if there is none."""
    for name in path.split(".") if path else ():
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def find_usage(tail: bytes) -> dict[str, msgspec.Raw]:
    """Return the last usage object in the end of a stream, even if the last event is cut off."""
    for name in ("usage", "usageMetadata"):
        _, found, rest = tail.rpartition(b'"%s":' % name.encode())
        if found:
            text = rest.decode("utf-8", "replace").lstrip()
            try:
                usage, end = _scan_json(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(usage, dict):
                return {name: msgspec.Raw(text[:end].encode())}
    return {}


def find_output_type(stated: object) -> str | None:
    """Return the type of output for a format, for a list of modalities, or for a JSON schema."""
    if isinstance(stated, Mapping):
        return "json"
    several = stated if isinstance(stated, list) else [stated]
    types = [_OUTPUT_TYPES.get(item.partition(";")[0].lower()) for item in several if isinstance(item, str)]
    # Beside an image or speech there mostly is text.
    return next((each for each in types if each not in (None, "text")), types[0] if types else None)


def vector_length(raw: msgspec.Raw | None) -> int | None:
    """Return the number of dimensions of the first embedding in a member of a reply, without decoding the member."""
    text = b"" if raw is None else bytes(memoryview(raw)[:_VECTOR_BYTES])
    encoded = _BASE64_VECTOR.search(text)
    if encoded is not None:
        # Four bytes each.
        return (len(encoded[1].rstrip(b"=")) * 3 // 4) // 4 or None
    vector = _VECTOR.search(text)
    return None if vector is None else vector[0].count(b",") + 1


def token_count(value: object) -> int | None:
    """Return a number of tokens, ``None`` for a value that cannot be one."""
    return value if type(value) is int and 0 <= value <= _MAX_TOKENS else None


def set_count(result: CallResult, attribute: str | None, stated: object) -> None:
    """Set a token count; keep the count if the value cannot be one, or if there is no attribute for it."""
    if attribute and type(stated) is int and 0 <= stated <= _MAX_TOKENS:
        setattr(result, attribute, stated)


def _parameter_value(value: Any, kind: type) -> Any:
    """Return a parameter's value as its type, ``None`` if the value cannot be one."""
    if kind is str or value is None:
        return values.text(value)
    if kind is tuple:
        several = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        return tuple(item for item in several[:16] if isinstance(item, str) and 0 < len(item) <= 200) or None
    if type(value) not in _NUMBERS:
        return None
    if kind is float:
        return float(value) if abs(value) < 1e12 else None
    # Some SDKs write 5 as 5.0.
    return int(value) if value == value // 1 and abs(value) < 2**63 else None


def add_finish_reason(reason: object, result: CallResult) -> None:
    """Add the finish reason of one choice."""
    text = values.text(reason)
    if text is not None:
        result.finish_reasons = (*result.finish_reasons, text)[:16]


def set_finish_reason(reason: object, result: CallResult) -> None:
    """Set the finish reason of an API that has one choice."""
    text = values.text(reason)
    if text is not None:
        result.finish_reasons = (text,)


def apply_error(reply: Members, result: CallResult) -> None:
    """Read the error that a body states, in the form of any provider."""
    if _ERROR_MEMBERS.isdisjoint(reply.raw):
        return
    error = reply.get("error")
    if error is None and reply.get_string("type") != "error":
        error = reply.get_string("detail") or (None if "choices" in reply else reply.get_string("message"))
        if error is None or "id" in reply:
            return
    kind: object = None
    message: object = error
    if isinstance(error, Mapping):
        kind = error.get("type") or error.get("status") or error.get("code")
        message = error.get("message")
    result.error_type = values.text(str(kind)) if isinstance(kind, str | int) else result.error_type
    result.error_type = result.error_type or "error"
    if isinstance(message, str) and message:
        result.error_message = message[:500]


def apply_stated_cost(reply: Mapping[str, Any], result: CallResult) -> None:
    """Read the cost that a provider states: ``usage.cost``, a number or an object with the total, or xAI's ticks."""
    usage = values.mapping(reply.get("usage"))
    stated = usage.get("cost")
    cost = stated.get("total_cost") if isinstance(stated, Mapping) else stated
    if cost is None:
        cost = values.ticks(usage.get("cost_in_usd_ticks"))
    if isinstance(cost, int | float) and not isinstance(cost, bool) and 0 <= cost <= values.MAX_COST:
        # This may replace the estimate for the first events of a stream.
        result.cost, result.cost_source, result.cost_details = float(cost), "response", {}


def parse_error(status: int, body: bytes, result: CallResult) -> None:
    """Read class and detail of an error reply of any provider; without a class the status becomes the class."""
    items = parse_array(body)
    apply_error(parse_object(items[0] if items else body) or Members({}), result)
    if result.error_type is None or result.error_type == "error":
        result.error_type = str(status)


def _states_usage(reply: Members) -> bool:
    return reply.has_object("usage") or reply.has_object("usageMetadata") or "prompt_eval_count" in reply
