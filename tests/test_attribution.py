"""The attribution record: kept values, dropped values and their reasons, and merging."""

from __future__ import annotations

import enum
import math
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from byline import attribution
from byline.attribution import EMPTY, FIELDS, INVALID_JSON, SCALARS, Attribution, Rejected, clean_id, clean_value, merge
from byline.inbound.claim_set import ClaimSet
from byline.inbound.trust import GROUP_OF, GROUPS


class Plan(str, enum.Enum):
    PRO = "pro"


class Number(enum.IntEnum):
    SEVEN = 7


TEXTS: dict[str, tuple[object, str | None]] = {
    "text": ("s-1", "s-1"),
    "spaces around": ("  s 1 ", "s 1"),
    "200 characters": ("x" * 200, "x" * 200),
    "200 characters of three bytes": ("日" * 200, "日" * 200),
    "number": (42, "42"),
    "negative number": (-1, "-1"),
    "zero": (0, "0"),
    "enumeration of texts": (Plan.PRO, "pro"),
    "enumeration of numbers": (Number.SEVEN, "7"),
    "UUID": (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    "nothing": (None, None),
    "empty": ("", None),
    "blank": ("   ", None),
    "emoji": ("👩\u200d💻 pipeline", "👩\u200d💻 pipeline"),
    "Tamil with a joiner": ("க்\u200cஷ", "க்\u200cஷ"),
    "ideographic space": ("要約\u3000段階", "要約\u3000段階"),
    "arrow": ("a → b", "a → b"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_ids_and_names_that_are_kept(case: str) -> None:
    given, kept = TEXTS[case]
    assert attribution.clean_text(given) == kept
    assert type(attribution.clean_text(given)) in (str, type(None))


BAD_TEXTS: dict[str, tuple[object, str]] = {
    "201 characters": ("x" * 201, "too long"),
    "5,000 characters": ("x" * 5000, "too long"),
    "10,000 digits": (10**10_000, "too long"),
    "201 digits": (10**200, "too long"),
    "newline": ("a\nb", "not printable"),
    "newline at the end": ("a\n", "not printable"),
    "tab": ("a\tb", "not printable"),
    "zero byte": ("a\x00b", "not printable"),
    "delete": ("a\x7f", "not printable"),
    "escape sequence": ("\x1b[31mred", "not printable"),
    "lone surrogate": ("a\ud800", "not printable"),
    "right-to-left override": ("a\u202eb", "not printable"),
    "byte order mark": ("\ufeffa", "not printable"),
    "line separator": ("a\u2028b", "not printable"),
    "private use": ("\ue000", "not printable"),
    "switch": (True, "not text"),
    "float": (1.5, "not text"),
    "list": (["s"], "not text"),
    "object": ({}, "not text"),
    "bytes": (b"s", "not text"),
    "undecodable": (INVALID_JSON, "not text"),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_ids_and_names_that_are_dropped(case: str) -> None:
    given, reason = BAD_TEXTS[case]
    with pytest.raises(Rejected, match=f"^{reason}$"):
        attribution.clean_text(given)


@given(st.one_of(st.text(max_size=300), st.integers(), st.none(), st.floats(), st.binary(), st.lists(st.text())))
def test_an_id_is_kept_whole_or_dropped(value: Any) -> None:
    """Never cut and never changed, but for the spaces around it."""
    try:
        kept = attribution.clean_text(value)
    except Rejected:
        return
    if kept is None:
        assert value is None or value.strip(" ") == ""
    else:
        assert kept == str(value).strip(" ")
        assert len(kept) <= 200
        assert len(kept.splitlines()) == 1
        kept.encode()


@pytest.mark.parametrize(
    ("given", "kept"), [("Production", "production"), ("eu-west_1", "eu-west_1"), ("x" * 40, "x" * 40), ("", None)]
)
def test_environments_that_are_kept(given: str, kept: str | None) -> None:
    """In lower case, as Langfuse folds them."""
    assert attribution.clean_environment(given) == kept


@pytest.mark.parametrize("given", ["langfuse", "Langfuse-prod", "a b", "prod!", "ümlaut", "x" * 41, "a\n"])
def test_environments_that_are_dropped(given: str) -> None:
    """Langfuse would show another name for them."""
    with pytest.raises(Rejected):
        attribution.clean_environment(given)


def test_tags() -> None:
    assert attribution.clean_tags(["a", " b ", "a", 1, None, "", True, "x" * 201, "c\n"]) == (
        ("a", "b", "1"),
        ["not text", "too long", "not printable"],
    )
    assert attribution.clean_tags(("a",)) == (("a",), [])
    assert attribution.clean_tags({"a"}) == (("a",), [])
    assert attribution.clean_tags("a, b,,a") == (("a", "b"), [])
    assert attribution.clean_tags(None) == ((), [])
    many = [str(number) for number in range(60)]
    assert attribution.clean_tags(many[:50]) == (tuple(many[:50]), [])
    assert attribution.clean_tags(many) == (tuple(many[:50]), ["too many"])
    assert attribution.clean_tags(many[:50] + many[:50]) == (tuple(many[:50]), [])
    for wrong in (5, {"a": 1}, True, INVALID_JSON):
        with pytest.raises(Rejected, match="not a list"):
            attribution.clean_tags(wrong)


def test_metadata_values() -> None:
    """Primitives as they are, anything else as JSON text."""
    identifier = uuid.UUID(int=1)
    kept, reasons = attribution.clean_metadata(
        {
            "text": "a\nb",
            "empty": "",
            "number": 2**63 - 1,
            "float": 1.5,
            "infinite": math.inf,
            "switch": False,
            "none": None,
            "list": [1, "ä", None],
            "object": {"a": {"b": [1]}},
            "big inside": [2**80],
            "long enough": "x" * 500,
            "enumeration": Plan.PRO,
            "uuid": identifier,
        }
    )
    assert reasons == []
    assert kept == {
        "text": "a b",
        "empty": "",
        "number": 2**63 - 1,
        "float": 1.5,
        "infinite": math.inf,
        "switch": False,
        "list": '[1,"ä",null]',
        "object": '{"a":{"b":[1]}}',
        "big inside": f"[{2**80}]",
        "long enough": "x" * 500,
        "enumeration": "pro",
        "uuid": str(identifier),
    }
    assert type(kept["enumeration"]) is str


def test_metadata_that_is_dropped() -> None:
    """Each key by itself, and named; a bad key is not."""
    loop: list[Any] = []
    loop.append(loop)
    kept, reasons = attribution.clean_metadata(
        {
            "good": 1,
            "long": "x" * 501,
            "long list": ["x" * 500],
            "big": 2**63,
            "small": -(2**63) - 1,
            "surrogate": "a\ud800",
            "surrogate inside": ["a\ud800"],
            "loop": loop,
            "object": object(),
            "undecodable": INVALID_JSON,
            "undecodable inside": [INVALID_JSON],
            "k" * 65: 1,
            "": 1,
            "a\nb": 1,
            7: 1,
        }
    )
    assert kept == {"good": 1}
    assert reasons == [
        ("long", "too long"),
        ("long list", "too long"),
        ("big", "number out of range"),
        ("small", "number out of range"),
        ("surrogate", "not printable"),
        ("surrogate inside", "not JSON"),
        ("loop", "not JSON"),
        ("object", "not JSON"),
        ("undecodable", "not JSON"),
        ("undecodable inside", "not JSON"),
        ("*", "bad key"),
        ("*", "bad key"),
        ("*", "bad key"),
        ("*", "bad key"),
    ]


def test_metadata_of_many_keys() -> None:
    many = {f"k{number}": number for number in range(60)}
    kept, reasons = attribution.clean_metadata(many)
    assert len(kept) == 50
    assert reasons == [("*", "too many")]
    assert attribution.clean_metadata(dict(list(many.items())[:50]))[1] == []
    assert attribution.clean_metadata({"k" * 64: 1}) == ({"k" * 64: 1}, [])
    with pytest.raises(Rejected, match="not an object"):
        attribution.clean_metadata(["k"])


def test_a_flood_of_bad_members_is_not_read_to_its_end() -> None:
    assert attribution.clean_tags([None] * 1000 + ["late"]) == ((), ["too many"])
    assert attribution.clean_metadata({**dict.fromkeys(f"k{number}" for number in range(1000)), "late": 1}) == (
        {},
        [("*", "too many")],
    )


def test_layers_are_merged_the_strongest_first() -> None:
    merged = merge(
        [
            {"session_id": "1", "tags": ("a",), "metadata": {"k": 1}},
            {"session_id": "2", "user_id": "2", "tags": ("b", "a"), "metadata": {"k": 2, "l": 2}},
        ]
    )
    assert merged == Attribution(session_id="1", user_id="2", tags=("a", "b"), metadata={"k": 1, "l": 2})
    assert merge([]) is EMPTY
    assert merge([{}, {}]) is EMPTY


def test_merged_layers_keep_the_limits() -> None:
    layers: list[dict[str, Any]] = [
        {"tags": tuple(f"{layer}-{n}" for n in range(40)), "metadata": {f"{layer}-{n}": n for n in range(40)}}
        for layer in "ab"
    ]
    merged = merge(layers)
    assert merged.tags == (*layers[0]["tags"], *layers[1]["tags"][:10])
    assert list(merged.metadata) == [*layers[0]["metadata"], *list(layers[1]["metadata"])[:10]]


def test_a_key_of_a_full_metadata_is_not_replaced() -> None:
    full = {f"k{n}": 1 for n in range(50)}
    assert merge([{"metadata": full}, {"metadata": {"k0": 2, "new": 2}}]).metadata == full


def test_an_attribution_is_true_once_anything_is_known() -> None:
    assert not Attribution()
    assert not EMPTY
    for field in FIELDS:
        value: Any = {"tags": ("a",), "metadata": {"k": 1}}.get(field, "x")
        assert Attribution(**{field: value})


def test_an_attribution_cannot_be_changed() -> None:
    known = Attribution(session_id="s")
    with pytest.raises(AttributeError):
        known.session_id = "t"  # type: ignore[misc]
    assert Attribution().metadata is not Attribution().metadata


def test_repr_of_attribution_omits_empty_fields() -> None:
    assert msgspec.to_builtins(Attribution(session_id="s")) == {"session_id": "s"}


def test_every_field_belongs_to_a_group_of_claims() -> None:
    """A field that trust does not know could be neither accepted nor refused."""
    assert set(GROUP_OF) == FIELDS
    assert set(SCALARS) == FIELDS - {"tags", "metadata"}
    assert {"session", "user", "trace", "labels", "metadata"} == GROUPS


def test_reasons_are_few_and_not_repeated() -> None:
    rejected: list[str] = []
    layer = ClaimSet(rejected)
    for number in range(200):
        layer.add("session_id", "x\n")
        layer.add("metadata", {f"k{number}": "x" * 501})
    assert rejected[0] == "session_id: not printable"
    assert len(rejected) == len(set(rejected)) == 50


@pytest.mark.parametrize(
    "hidden",
    ["\u200c", "\u200d", "\u200b", "\u202e", "\u2066", "\ufeff", "\u00ad", "\u3164", "\u2800", "\ufe0f", "\u034f"],
)
def test_nothing_invisible_is_in_ids_and_metadata(hidden: str) -> None:
    """An id that looks like another one is dropped, names keep the joiners of their scripts, metadata is cleaned."""
    claims = ClaimSet([])
    for field in ("session_id", "user_id", "trace_id", "parent_span_id", "organization_id", "environment_id"):
        claims.add(field, f"ad{hidden}a")
    assert dict(claims) == {}
    assert len(claims.rejected) == 6
    claims.add("metadata", {"k": f"ad{hidden}a", f"k{hidden}": 1, "list": [f"ad{hidden}a"]})
    assert claims["metadata"] == {"k": "ada", "list": '["ada"]'}


def test_terminals_and_logs_are_safe_from_metadata() -> None:
    assert clean_value("a\r\nX: y\x1b[31m\u202eevil\x00\u2028b\x85") == "a X: y[31mevil b "
    assert clean_value("Müller 日本 family") == "Müller 日本 family"
    assert clean_id("Müller 日本") == "Müller 日本"
