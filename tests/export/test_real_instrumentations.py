"""OpenRouter's example through real instrumentations, each in its own environment: Langfuse shows the same of all."""

from __future__ import annotations

import subprocess

import pytest

from byline.testing import Gateway, Receiver
from tests.export.langfuse_model import observations, session_cost, traces
from tests.export.support import tree
from tests.matrix import environments
from tests.matrix.cells import CELLS

pytestmark = pytest.mark.matrix

INSTRUMENTATIONS = ("none", "genai-openai", "openllmetry-openai", "openinference-openai", "openlit", "langfuse")


@pytest.mark.parametrize("name", INSTRUMENTATIONS)
def test_the_example_is_shown_as_promised(name: str) -> None:
    (cell,) = [cell for cell in CELLS if cell.name == name]
    python = environments.make(cell)
    with Receiver() as receiver, Gateway() as gateway:
        command = [str(python), "-m", "tests.export.drained_app", name, gateway.base_url, receiver.url]
        done = subprocess.run(command, cwd=environments.ROOT, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr[-4000:]
        spans = receiver.spans
    assert tree(spans) == {
        None: ["Summarization Step"] * 2,
        "Summarization Step": ["Generate Summary"] * 2,
    }
    generations = [span for span in spans if span.name == "Generate Summary"]
    for path in ("legacy", "direct"):
        (trace,) = traces(spans, path).values()
        assert trace.name == "Document Processing Pipeline"
        assert (trace.session, trace.user, trace.environment) == ("session_abc", "user_12345", "production")
        assert trace.metadata["pipeline_version"] == "2.1.0"
        for span in generations:
            (shown,) = observations([span], path).values()
            assert shown.type == "generation"
            # OpenLLMetry takes the provider off the name.
            assert shown.model in ("openai/gpt-4o", "gpt-4o")
            assert shown.parameters["temperature"] == 0.2
            assert shown.usage["input"] > 0
            assert shown.usage["output"] > 0
            assert shown.cost["total"] > 0
            assert session_cost([span], path) == {"session_abc": shown.cost["total"]}
            assert shown.metadata["gateway_name"] == "openrouter"
        streamed = observations([max(generations, key=lambda span: span.start)], path)["Generate Summary"]
        assert streamed.completion_start is not None
