"""The testing gateway answers real SDKs as OpenRouter and the providers do, and fails on demand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai

from byline import SettingError
from byline.testing import Gateway

MESSAGES: Any = [{"role": "user", "content": "Who wrote this?"}]
TOOLS: Any = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as gateway:
        yield gateway


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.base_url, api_key="testing", max_retries=0, timeout=20) as client:
        yield client


@pytest.fixture
def claude(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key="testing", max_retries=0, timeout=20) as client:
        yield client


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(model="openai/gpt-4o", messages=MESSAGES, **more)


def post(gateway: Gateway, path: str, **more: Any) -> httpx2.Response:
    return httpx2.post(gateway.url + path, timeout=20, **more)


class TestAnswers:
    def test_chat_states_usage_and_cost_as_openrouter_does(self, client: openai.OpenAI) -> None:
        """The usage object has all members, and the cost is the total of its parts."""
        reply = client.chat.completions.with_raw_response.create(model="openai/gpt-4o", messages=MESSAGES)
        body = reply.parse().to_dict()
        usage: Any = body["usage"]
        assert reply.headers["x-generation-id"] == body["id"]
        assert str(body["id"]).startswith("gen-")
        assert body["provider"] == "OpenAI"
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        assert usage["prompt_tokens_details"].keys() >= {"cached_tokens", "cache_write_tokens", "audio_tokens"}
        assert usage["completion_tokens_details"]["reasoning_tokens"] == 0
        details = usage["cost_details"]
        assert details["upstream_inference_cost"] is None
        assert usage["cost"] == pytest.approx(
            details["upstream_inference_prompt_cost"] + details["upstream_inference_completions_cost"]
        )

    def test_longer_prompts_have_more_tokens(self, client: openai.OpenAI) -> None:
        long: Any = [{"role": "user", "content": "word " * 400}]
        short = ask(client).usage
        longer = client.chat.completions.create(model="m", messages=long).usage
        assert longer is not None
        assert longer.prompt_tokens > 10 * short.prompt_tokens

    def test_stream_begins_with_a_comment_and_ends_with_usage_and_cost(self, gateway: Gateway) -> None:
        body = {"model": "m", "messages": MESSAGES, "stream": True}
        lines = post(gateway, "/api/v1/chat/completions", json=body).text.split("\n\n")
        assert lines[0] == ": OPENROUTER PROCESSING"
        assert lines[-2] == "data: [DONE]"
        assert '"cost": ' in lines[-3]
        assert not any('"cost": ' in line for line in lines[:-3])

    def test_chunks_of_a_stream_are_the_whole_answer(self, client: openai.OpenAI) -> None:
        whole = ask(client).choices[0].message.content
        chunks = list(ask(client, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
        assert len({chunk.id for chunk in chunks}) == 1

    @pytest.mark.parametrize("streamed", [False, True])
    def test_a_tool_is_called_once_and_its_result_gets_an_answer(self, client: openai.OpenAI, streamed: bool) -> None:
        """The model answers in text after the tool's result."""
        if streamed:
            with client.chat.completions.stream(model="m", messages=MESSAGES, tools=TOOLS) as stream:
                message: Any = stream.get_final_completion().choices[0].message
        else:
            message = ask(client, tools=TOOLS).choices[0].message
        assert [call.function.name for call in message.tool_calls] == ["look_up"]
        history: Any = [*MESSAGES, {"role": "tool", "tool_call_id": "call_1", "content": "Ada"}]
        answer = client.chat.completions.create(model="m", messages=history, tools=TOOLS)
        assert answer.choices[0].finish_reason == "stop"

    def test_responses_whole_and_streamed(self, client: openai.OpenAI) -> None:
        """The SDK's own accumulator accepts the events."""
        whole = client.responses.create(model="m", input="Who?")
        with client.responses.stream(model="m", input="Who?") as stream:
            streamed = stream.get_final_response()
        assert whole.output_text == streamed.output_text != ""
        assert whole.usage is not None
        assert whole.usage.input_tokens > 0
        assert whole.to_dict()["usage"].keys() >= {"cost", "cost_details"}  # type: ignore[attr-defined]

    def test_responses_call_tools(self, client: openai.OpenAI) -> None:
        tool: Any = {"type": "function", "name": "look_up", "parameters": {}, "strict": False}
        with client.responses.stream(model="m", input="Who?", tools=[tool]) as stream:
            (output,) = stream.get_final_response().output
        assert output.type == "function_call"
        assert output.name == "look_up"

    def test_text_completions_and_embeddings(self, client: openai.OpenAI) -> None:
        assert client.completions.create(model="m", prompt="Who?").choices[0].text
        assert list(client.completions.create(model="m", prompt="Who?", stream=True))[-1].usage is not None
        assert len(client.embeddings.create(model="m", input=["a", "b"]).data) == 2

    def test_anthropic_messages(self, claude: anthropic.Anthropic) -> None:
        """Whole, streamed, and with a tool; without cost, because Anthropic states none."""
        whole = claude.messages.create(model="claude", max_tokens=9, messages=MESSAGES)
        with claude.messages.stream(model="claude", max_tokens=9, messages=MESSAGES) as stream:
            streamed = stream.get_final_message()
        assert [block.to_dict() for block in whole.content] == streamed.to_dict()["content"]
        assert whole.usage.output_tokens == streamed.usage.output_tokens > 0
        assert "cost" not in whole.usage.to_dict()
        tools: Any = [{"name": "look_up", "input_schema": {"type": "object"}}]
        with claude.messages.stream(model="claude", max_tokens=9, messages=MESSAGES, tools=tools) as stream:
            called = stream.get_final_message()
        assert called.stop_reason == "tool_use"
        assert called.content[0].type == "tool_use"

    def test_messages_through_the_gateway_state_a_cost(self, gateway: Gateway) -> None:
        body = {"model": "claude", "max_tokens": 9, "messages": MESSAGES}
        reply = post(gateway, "/api/v1/messages", json=body)
        assert reply.json()["usage"]["cost"] > 0
        assert reply.headers["x-generation-id"] == reply.json()["id"]

    def test_gemini(self, gateway: Gateway) -> None:
        with genai.Client(api_key="testing", http_options={"base_url": gateway.url}) as client:
            whole = client.models.generate_content(model="gemini-9", contents="Who?")
            chunks = list(client.models.generate_content_stream(model="gemini-9", contents="Who?"))
        assert "".join(chunk.text or "" for chunk in chunks) == whole.text
        assert whole.model_version == "gemini-9"
        assert chunks[-1].usage_metadata == whole.usage_metadata

    def test_gemini_streams_a_json_array_without_sse(self, gateway: Gateway) -> None:
        reply = post(gateway, "/v1beta/models/gemini-9:streamGenerateContent", json={"contents": []})
        assert [part["responseId"] for part in reply.json()]

    def test_get_of_models_key_and_generation(self, client: openai.OpenAI, gateway: Gateway) -> None:
        assert [model.id for model in client.models.list()] == ["openai/gpt-4o"]
        key = httpx2.get(f"{gateway.base_url}/key").json()["data"]
        assert key["usage"] + key["limit_remaining"] == key["limit"]
        reply = ask(client, extra_body={"session_id": "s-1", "user": "ada"})
        known = httpx2.get(f"{gateway.base_url}/generation", params={"id": reply.id}).json()["data"]
        assert known["total_cost"] == reply.usage.cost
        assert (known["session_id"], known["external_user"]) == ("s-1", "ada")
        assert httpx2.get(f"{gateway.base_url}/generation?id=gen-0").status_code == 404

    def test_routing_metadata_is_sent_on_request(self, client: openai.OpenAI) -> None:
        wanted = {"X-OpenRouter-Metadata": "enabled"}
        assert "openrouter_metadata" not in ask(client).to_dict()
        assert ask(client, extra_headers=wanted).to_dict()["openrouter_metadata"]["attempt"] == 1
        *others, last = [chunk.to_dict() for chunk in ask(client, stream=True, extra_headers=wanted)]
        assert "openrouter_metadata" in last
        assert not any("openrouter_metadata" in chunk for chunk in others)

    def test_the_response_cache_answers_equal_bodies_without_cost(self, client: openai.OpenAI) -> None:
        """A hit has a new id and costs nothing; another body is a miss."""
        create = client.chat.completions.with_raw_response.create
        wanted = {"X-OpenRouter-Cache": "true"}
        first, second = (create(model="m", messages=MESSAGES, extra_headers=wanted) for _ in range(2))
        other = create(model="m", messages=MESSAGES, user="ada", extra_headers=wanted)
        status = "x-openrouter-cache-status"
        assert [reply.headers[status] for reply in (first, second, other)] == ["MISS", "HIT", "MISS"]
        assert second.headers["x-openrouter-cache-source-id"] == first.parse().id != second.parse().id
        usage: Any = second.parse().usage
        assert (usage.total_tokens, usage.cost) == (0, 0.0)

    def test_bodies_that_are_not_json_objects_are_refused(self, gateway: Gateway) -> None:
        for body in (b"", b"{", b"[]"):
            assert post(gateway, "/v1/chat/completions", content=body).status_code == 400
        assert post(gateway, "/v1/nothing", json={}).status_code == 404


class TestRecords:
    def test_requests_are_recorded_unmodified(self, client: openai.OpenAI, gateway: Gateway) -> None:
        """Method, path, header names in lower case, and the bytes of the body."""
        ask(client, extra_headers={"X-Session-Id": "s-1"})
        (request,) = gateway.requests
        assert (request.method, request.path) == ("POST", "/api/v1/chat/completions")
        assert request.headers["x-session-id"] == "s-1"
        assert len(request.body) == int(request.headers["content-length"])
        assert request.json()["messages"] == MESSAGES

    def test_chunked_bodies_are_read_whole(self, gateway: Gateway) -> None:
        post(gateway, "/v1/embeddings", content=iter([b'{"input":', b'"abc"}']))
        assert gateway.requests[0].json() == {"input": "abc"}


class TestMisbehaves:
    def test_fail_sends_the_error_format_of_each_api(
        self, client: openai.OpenAI, claude: anthropic.Anthropic, gateway: Gateway
    ) -> None:
        gateway.fail(429, times=2, headers={"retry-after": "7"})
        with pytest.raises(openai.RateLimitError) as limited:
            ask(client)
        assert limited.value.response.headers["retry-after"] == "7"
        with pytest.raises(anthropic.RateLimitError) as refused:
            claude.messages.create(model="claude", max_tokens=9, messages=MESSAGES)
        assert refused.value.type == "rate_limit_error"
        assert ask(client).choices

    def test_get_requests_do_not_use_up_failures(self, client: openai.OpenAI, gateway: Gateway) -> None:
        gateway.fail(500)
        assert list(client.models.list())
        with pytest.raises(openai.InternalServerError):
            ask(client)

    def test_breaks_a_stream_with_an_error_in_it(self, client: openai.OpenAI, gateway: Gateway) -> None:
        gateway.fail(502, after=3)
        stream = ask(client, stream=True)
        assert [next(stream).choices[0].delta.content for _ in range(2)] == ["This", " is"]
        with pytest.raises(openai.APIError, match="told to fail"):
            next(stream)

    def test_breaks_an_anthropic_stream_with_an_error_in_it(
        self, claude: anthropic.Anthropic, gateway: Gateway
    ) -> None:
        gateway.fail(529, after=4)
        with (
            pytest.raises(anthropic.APIStatusError, match="told to fail"),
            claude.messages.stream(model="claude", max_tokens=9, messages=MESSAGES) as stream,
        ):
            stream.get_final_message()

    @pytest.mark.parametrize("after", [None, 3])
    def test_closes_the_connection(self, client: openai.OpenAI, gateway: Gateway, after: int | None) -> None:
        gateway.fail(0, after=after)
        with pytest.raises(openai.APIConnectionError):
            list(ask(client, stream=True))

    @pytest.mark.parametrize(
        ("body", "kind", "expected"),
        [
            ({"choices": []}, "application/json", b'{"choices": []}'),
            ("{no json", "application/json", b"{no json"),
            (b"\xff", "application/json", b"\xff"),
            ([b"data: 1\n\n", b"data: 2\n\n"], "text/event-stream", b"data: 1\n\ndata: 2\n\n"),
        ],
    )
    def test_answer_sends_the_given_body(self, gateway: Gateway, body: Any, kind: str, expected: bytes) -> None:
        gateway.answer(body, status=201, headers={"x-more": "1"})
        reply = post(gateway, "/anything", json={})
        assert (reply.status_code, reply.content) == (201, expected)
        assert (reply.headers["content-type"], reply.headers["x-more"]) == (kind, "1")

    def test_headers_of_every_reply_can_be_set(self, client: openai.OpenAI, gateway: Gateway) -> None:
        gateway.headers["x-ratelimit-remaining-requests"] = "41"
        reply = client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
        assert reply.headers["x-ratelimit-remaining-requests"] == "41"

    def test_hangs_until_released(self, client: openai.OpenAI, gateway: Gateway) -> None:
        gateway.hang()
        replies: list[Any] = []
        asking = threading.Thread(target=lambda: replies.append(ask(client)))
        asking.start()
        gateway.wait_for(1)
        assert replies == []
        gateway.release()
        asking.join(20)
        assert replies[0].choices

    def test_streams_wait_and_go_on_chunk_by_chunk(self, gateway: Gateway) -> None:
        gateway.hold(after=1)
        body = {"model": "m", "messages": MESSAGES, "stream": True}
        with httpx2.stream("POST", f"{gateway.base_url}/chat/completions", json=body, timeout=20) as reply:
            lines = reply.iter_lines()
            assert next(lines) == ": OPENROUTER PROCESSING"
            gateway.step()
            assert next(line for line in lines if line).startswith("data: {")
            gateway.release()
            assert [line for line in lines if line][-1] == "data: [DONE]"

    def test_stop_ends_hanging_requests(self, client: openai.OpenAI, gateway: Gateway) -> None:
        gateway.hang()
        errors: list[Exception] = []

        def call() -> None:
            try:
                ask(client)
            except openai.APIConnectionError as error:
                errors.append(error)

        asking = threading.Thread(target=call)
        asking.start()
        gateway.wait_for(1)
        gateway.stop()
        asking.join(20)
        assert len(errors) == 1

    def test_the_timeout_error_has_the_number_of_requests(self, gateway: Gateway) -> None:
        with pytest.raises(TimeoutError, match="0 of 1 requests"):
            gateway.wait_for(1, timeout=0.01)


def test_a_taken_port_is_an_error_with_advice(gateway: Gateway) -> None:
    with pytest.raises(SettingError) as raised:
        Gateway(gateway.port)
    assert raised.value.id == "byline.E050"


def test_a_gateway_that_was_never_started_can_be_stopped() -> None:
    gateway = Gateway()
    gateway.stop()
    assert not gateway.serving
