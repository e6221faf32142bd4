"""What strangers send has a budget of bytes and of CPU: each test spends one. docs/security.md has the numbers."""

from __future__ import annotations

import gc
import json
import sys
from typing import Any

import pytest

import byline
from byline.inbound import body as body_module
from byline.inbound.body import MAX_BUFFERED, BodyBuffer
from byline.inbound.reader import ClaimReader
from byline.request_context import RequestContext
from byline.settings import SettingError
from tests.support import Sent, accepted, claim, scope_of

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _no_bodies_of_other_tests() -> None:
    gc.collect()


def unfinished(mebibytes: int) -> BodyBuffer:
    """Return a JSON body of which the last part never comes."""
    body = BodyBuffer(16 * MIB, 16 * MIB)
    for _ in range(mebibytes):
        body.append(b" " * MIB, last=False)
    return body


def kept(bodies: list[BodyBuffer]) -> int:
    return sum(len(chunk) for body in bodies for chunk in body.chunks)


def test_unfinished_bodies_share_one_budget() -> None:
    """Forty callers that send 15 MiB each, and then wait, would take 600 MiB."""
    bodies = [unfinished(15) for _ in range(40)]
    assert 48 * MIB < kept(bodies) <= MAX_BUFFERED
    assert byline.stats()["bodies.over_budget"] == sum(body.overflow for body in bodies) == 36
    # Short bodies are read all the same.
    small = BodyBuffer(16 * MIB, 2)
    small.append(b"{}", last=True)
    assert not small.overflow
    del bodies
    gc.collect()
    assert kept([unfinished(15)]) == 15 * MIB


def test_tiny_chunks_count_with_the_memory_that_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of two bytes takes 48 more: bodies of 64 MiB would take 1.3 GB."""
    monkeypatch.setattr(body_module, "MAX_BUFFERED", MIB)
    body = BodyBuffer(16 * MIB, 16 * MIB)
    most = 0
    for number in range(MIB):
        body.append(number.to_bytes(2, "big"), last=False)
        if body.overflow:
            break
        if number % 1000 == 0:
            most = sys.getsizeof(body.chunks) + sum(map(sys.getsizeof, body.chunks))
    assert body.overflow
    assert not body.chunks
    assert MIB // 2 < most < 1.2 * MIB
    assert byline.stats()["bodies.over_budget"] == 1


def test_a_body_that_is_decoded_gives_its_budget_back() -> None:
    decoder = ClaimReader()._body_decoder
    data = json.dumps({"user": "ada", "messages": ["x" * 15 * MIB]}).encode()
    for _ in range(20):
        body = BodyBuffer(16 * MIB, len(data))
        body.append(data, last=True)
        members = body.decode(decoder)
        assert members is not None
        assert members["user"] == "ada"
    assert body_module._budget.take(MAX_BUFFERED - 15 * MIB)
    body_module._budget.give_back(MAX_BUFFERED - 15 * MIB)
    assert "bodies.over_budget" not in byline.stats()


def test_an_anonymous_request_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each span asks `identity` again, but the claims are read again only after it has an answer."""
    reads: list[Any] = []
    read = ClaimReader.read

    def counted(self: ClaimReader, *arguments: Any) -> Any:
        reads.append(arguments)
        return read(self, *arguments)

    monkeypatch.setattr(ClaimReader, "read", counted)
    scope = scope_of(Sent(headers=[("x-session-id", "s")]))
    context = RequestContext(ClaimReader(identity=lambda scope: scope.get("user")), scope)
    for _ in range(100):
        assert context.attribution() == byline.Attribution(session_id="s")
    assert len(reads) == 1
    scope["user"] = {"user_id": "ada"}
    for _ in range(100):
        assert context.attribution() == byline.Attribution(session_id="s", user_id="ada")
    assert len(reads) == 2


@pytest.mark.parametrize("path", ["/a*b/{id}", "/**/{id}", "/{id}*", "/a/*.{id}", "/*{id}"])
def test_a_path_template_matches_in_one_way_only(path: str) -> None:
    """`/**` and `/a*b*c*` took 13 seconds for a path of 500 characters."""
    with pytest.raises(SettingError, match=r"byline\.E012.*a star instead of a whole part"):
        ClaimReader(fields={"session_id": f"path:{path}"})


def test_a_long_path_is_matched_at_once() -> None:
    fields = {"session_id": "path:/" + "*/" * 20 + "{id}/end"}
    assert accepted("asgi", Sent(path="/a" * 30_000), fields=fields).known() == {}
    assert accepted("asgi", Sent(path="/" + "a/" * 20 + "s/end"), fields=fields).known() == {"session_id": "s"}


def test_reasons_for_dropped_claims_are_few() -> None:
    """They are on each span."""
    many = claim({"metadata": {f"k{number}\x00": "v" for number in range(40)} | {f"caller_{n}": 1 for n in range(400)}})
    rejected = accepted("asgi", many).rejected
    assert len(rejected) <= 50
    hostile = accepted("asgi", claim({"metadata": {"caller_\x1b[31m\u202e": 1}}))
    assert hostile.rejected == ["metadata.caller_[31m: the name is reserved"]
