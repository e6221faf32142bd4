"""Replicate's predictions, which run models of every kind."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final

from byline.apis.json_body import Members
from byline.apis.messages import Message, Part, build_message, system_parts, text_part, user_messages
from byline.apis.openai_media import seconds
from byline.apis.parser import ApiParser, Usage, set_finish_reason
from byline.call_result import CallResult

_FINAL_STATUSES: Final = frozenset({"succeeded", "failed", "canceled", "aborted"})
_MODEL: Final = re.compile(r"/models/([^/]+/[^/]+)/predictions\Z")


class Predictions(ApiParser):
    """``/v1/models/{owner}/{name}/predictions``, ``/v1/deployments/…`` and ``/v1/predictions``.

    The usage is in seconds of computing; language models count tokens as well.
    """

    name: ClassVar[str] = "replicate.predictions"
    operation: ClassVar[str] = "generate_content"
    path_pattern: ClassVar[re.Pattern[str] | None] = re.compile(
        r"/v1/(?:(?:models|deployments)/[^/]+/[^/]+/)?predictions(?:/[^/]+)?\Z"
    )
    required_members: ClassVar[frozenset[str]] = frozenset({"input"})
    usage: ClassVar[Usage] = {"input_tokens": ("input_token_count",), "output_tokens": ("output_token_count",)}

    def parse_request(self, body: bytes, result: CallResult, **given: Any) -> bool:
        """Read the request; at a host that is not Replicate's, a path without model and owner may be anybody's."""
        fits = super().parse_request(body, result, **given)
        path = given["path"]
        return fits and (result.provider == "replicate" or "/models/" in path or "/deployments/" in path)

    def provider_for(self, host: str) -> str | None:
        """Return Replicate at its own host."""
        return "replicate" if ("." + host).endswith(".replicate.com") else super().provider_for(host)

    def model_in_path(self, path: str) -> str | None:
        """Return owner and name."""
        found = _MODEL.search(path)
        return None if found is None else found[1]

    def is_streamed(self, request: Members, path: str) -> bool:  # noqa: ARG002 - a stream is another request
        """Return that the reply is no stream."""
        return False

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Read also the status, which stands for a finish reason, and the metrics of a prediction that is done."""
        super().apply_reply(reply, result)
        status = reply.get_string("status")
        if status in _FINAL_STATUSES:
            set_finish_reason(status, result)
        metrics = reply.get_dict("metrics")
        self.apply_usage(metrics, result)
        result.compute_seconds = seconds(metrics.get("predict_time"))

    def input_messages(self, request: Members) -> list[Message]:
        """Return the prompt."""
        prompt = request.get_dict("input").get("prompt")
        return user_messages(prompt) if isinstance(prompt, str) else []

    def system_instructions(self, request: Members) -> list[Part]:
        """Return the system prompt."""
        return system_parts(request.get_dict("input").get("system_prompt"))

    def output_messages(self, reply: Members) -> list[Message]:
        """Return a text; files are left out."""
        output = reply.get("output")
        pieces = output if isinstance(output, list) else [output]
        texts = [piece for piece in pieces if isinstance(piece, str) and not piece.startswith(("https://", "data:"))]
        return [build_message("assistant", [text_part("".join(texts))])] if texts else []


class RetrievedPrediction(Predictions):
    """``GET /v1/predictions/{id}``: a prediction that took longer than its caller had waited."""

    operation: ClassVar[str] = "fetch_response"
    is_asked_for_later: ClassVar[bool] = True

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Read a final reply only."""
        if reply.get_string("status") in _FINAL_STATUSES:
            super().apply_reply(reply, result)
            result.request_model = result.response_model

    def parse_request(self, body: bytes, result: CallResult, **given: Any) -> bool:
        """Take the request."""
        super().parse_request(body, result, **given)
        return True
