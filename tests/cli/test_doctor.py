"""``byline check app:app`` names each mistake in an app, and nothing in one without mistakes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from byline.cli import findings
from byline.testing import Receiver
from tests.docs.pages import ROOT
from tests.support import environment_without_settings

pytestmark = pytest.mark.integration

URL = "https://openrouter.ai/api/v1/chat/completions"
#: An app in parts, each of which a test can replace.
APP = {
    "imports": """
import contextvars, threading
import byline, httpx2
from byline.asgi import AttributionMiddleware
from byline.destinations import OTLP, Langfuse
from byline.gateways import LiteLLM
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route
LIMITS = SpanLimits(max_span_attribute_length=100)
""",
    "provider": "",
    "instrument": "byline.instrument(destinations=[OTLP({receiver!r})])",
    "call": f"""
def ask():
    body = {{"model": "openai/gpt-4o", "messages": [{{"role": "user", "content": "Hi"}}]}}
    return httpx2.post({URL!r}, json=body).json()
""",
    "view": """
async def chat(request):
    await request.json()
    return JSONResponse(ask())
""",
    "middleware": "middleware = [Middleware(AttributionMiddleware, identity=lambda scope: {'user_id': 'ada'})]",
    "app": "app = Starlette(routes=[Route('/chat', chat, methods=['POST'])], middleware=middleware)",
}


def run(folder: Path, receiver: str, *arguments: str, **parts: str) -> Any:
    """Write the app with these parts replaced, check it, and return the process."""
    text = "\n".join({**APP, **parts}.values()).replace("{receiver!r}", repr(receiver))
    (folder / "main.py").write_text(text, encoding="utf-8")
    env = environment_without_settings()
    env.pop("PYTEST_VERSION", None)
    command = [sys.executable, "-m", "byline.cli", "check", *(arguments or ("main:app",))]
    return subprocess.run(
        command,
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def found(folder: Path, *arguments: str, **parts: str) -> tuple[int, Any]:
    """Return the exit code and the JSON report of a check."""
    with Receiver() as receiver:
        done = run(folder, receiver.url, *(arguments or ("main:app",)), "--json", **parts)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_an_app_without_a_mistake(tmp_path: Path) -> None:
    """Verdict, layers with what was seen, and the test of the destination that the code names."""
    code, report = found(tmp_path)
    assert (code, report["ok"], report["findings"]) == (0, True, [])
    assert report["verdict"] == "Session, user and cost arrive with the LLM call of the request."
    layers = {layer["name"]: layer for layer in report["layers"]}
    assert all(layer["ok"] for layer in layers.values())
    assert layers["LLM call"]["detail"] == "1 to openrouter.ai"
    assert re.fullmatch(
        r"chat openai/gpt-4o by byline: session byline-check-\w{8}, user ada, cost 0\.0\d+",
        layers["LLM span"]["detail"],
    )
    assert [check["ok"] for check in report["checks"]] == [True] * len(report["checks"]) != []


def test_the_app_writes_what_it_likes_and_stdout_is_one_json_object(tmp_path: Path) -> None:
    code, _ = found(tmp_path, provider="print('hello')")
    assert code == 0


def test_the_text_has_the_verdict_first_and_no_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults with ``-v``; color if it is forced."""
    with Receiver() as receiver:
        plain = run(tmp_path, receiver.url, middleware="middleware = []")
        monkeypatch.setenv("FORCE_COLOR", "1")
        verbose = run(tmp_path, receiver.url, "main:app", "-v", middleware="middleware = []")
    assert plain.returncode == verbose.returncode == 1
    lines = plain.stdout.splitlines()
    assert lines[0] == "Session and user are lost, in the layer middleware."
    number = next(number for number, line in enumerate(lines) if line.startswith("FAILED  middleware"))
    assert lines[number + 1].startswith("        byline.D09  no AttributionMiddleware")
    assert lines[number + 2].startswith("          → add byline.asgi.AttributionMiddleware")
    assert "BYLINE_SAMPLING" not in plain.stdout
    assert "\033[" not in plain.stdout
    assert "BYLINE_SAMPLING" in verbose.stdout
    assert verbose.stdout.startswith("\033[1;31mSession and user are lost")


TWO_SPANS = """
from opentelemetry import trace
def ask_twice():
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o"}
    with trace.get_tracer("one").start_as_current_span("chat gpt-4o", attributes=attributes):
        with trace.get_tracer("two").start_as_current_span("chat gpt-4o", attributes=attributes):
            return ask()
async def chat(request):
    return JSONResponse(ask_twice())
"""
THREAD = """
async def chat(request):
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return JSONResponse({})
"""
OUTSIDE = """
class Guard:
    def __init__(self, app):
        self.app = app
    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            ask()
        await self.app(scope, receive, send)
middleware = [Middleware(Guard), Middleware(AttributionMiddleware, identity=lambda scope: {"user_id": "ada"})]
"""
NEWER = "from byline.cli import findings\nfindings.TESTED_VERSIONS['httpx2'] = 1"
NO_CALL = "async def chat(request):\n    return JSONResponse({})"
TWO_ROUTES = "app = Starlette(routes=[Route(p, chat, methods=['POST']) for p in ('/a', '/b')], middleware=middleware)"
LANGFUSE = "byline.instrument(destinations=[Langfuse('pk-lf-1', 'sk-lf-1', {receiver!r})])"
UNPRICED = APP["call"].replace(URL, "https://api.openai.com/v1/chat/completions").replace("gpt-4o", "no-such-model")

#: Finding → exit code, layer, and the parts of the app that provoke the finding.
CASES: dict[str, tuple[int, str, dict[str, str]]] = {
    "byline.D01": (2, "app", {"app": "raise RuntimeError('no database')"}),
    "byline.D02": (2, "instrument", {"instrument": "byline.instrument(destinations=[Langfuse('pk-lf-1')])"}),
    "byline.D03": (2, "request", {"app": TWO_ROUTES}),
    "byline.D04": (2, "request", {"view": "async def chat(request):\n    raise RuntimeError('no database')"}),
    "byline.D05": (2, "LLM call", {"view": NO_CALL}),
    "byline.D06": (1, "instrument", {"instrument": ""}),
    "byline.D07": (
        1,
        "instrument",
        {"instrument": "", "view": APP["view"].replace("await", "byline.instrument()\n    await", 1)},
    ),
    "byline.D08": (
        1,
        "instrument",
        {
            "instrument": "byline.instrument(destinations=[OTLP({receiver!r})], tracer_provider=TracerProvider())",
            "provider": "trace.set_tracer_provider(TracerProvider())",
        },
    ),
    "byline.D09": (1, "middleware", {"middleware": "middleware = []"}),
    "byline.D10": (0, "middleware", {"middleware": "middleware = [Middleware(AttributionMiddleware)]"}),
    "byline.D11": (1, "middleware", {"middleware": "middleware = [Middleware(AttributionMiddleware, trust=set())]"}),
    "byline.D12": (1, "LLM span", {"provider": "trace.set_tracer_provider(TracerProvider(sampler=ALWAYS_OFF))"}),
    "byline.D13": (1, "LLM span", {"instrument": APP["instrument"].replace("])", "], clients=())")}),
    "byline.D14": (1, "middleware", {"middleware": OUTSIDE}),
    "byline.D15": (1, "LLM span", {"view": THREAD, "instrument": APP["instrument"].replace("])", "], threads=False)")}),
    "byline.D16": (0, "LLM span", {"view": TWO_SPANS}),
    "byline.D17": (0, "LLM span", {"call": UNPRICED}),
    "byline.D18": (
        0,
        "gateway",
        {"instrument": APP["instrument"].replace("])", "], gateways=[LiteLLM('http://litellm.internal:4000')])")},
    ),
    "byline.D19": (
        0,
        "LLM span",
        {"provider": "trace.set_tracer_provider(TracerProvider(span_limits=LIMITS))"},
    ),
    "byline.D20": (1, "destination", {"instrument": "byline.instrument()"}),
    "byline.D21": (0, "destination", {"instrument": APP["instrument"].replace(")]", ", sampling=0.5)]")}),
    "byline.D22": (0, "destination", {"instrument": LANGFUSE}),
    "byline.D23": (
        0,
        "LLM call",
        {"provider": NEWER},
    ),
    "byline.D24": (0, "app", {"instrument": APP["instrument"] + "\ntrace.set_tracer_provider(TracerProvider())"}),
}


@pytest.mark.parametrize("identifier", CASES)
def test_each_mistake_is_found(identifier: str, tmp_path: Path) -> None:
    """With the layer, an advice and the exit code."""
    expected, layer, parts = CASES[identifier]
    code, report = found(tmp_path, **parts)
    by_id = {finding["id"]: finding for finding in report["findings"]}
    assert identifier in by_id, report
    assert (code, by_id[identifier]["layer"]) == (expected, layer), report
    assert by_id[identifier]["advice"]
    # An unrelated finding would send the reader to the wrong place.
    related = {"byline.D08": {"byline.D12", "byline.D13", "byline.D20"}, "byline.D07": {"byline.D13", "byline.D20"}}
    assert by_id.keys() <= {identifier, *related.get(identifier, ())}, report


def test_every_finding_has_a_case_and_an_entry_in_the_docs() -> None:
    source = "".join(
        (ROOT / "src/byline/cli" / name).read_text(encoding="utf-8") for name in ("findings.py", "doctor.py")
    )
    ids = set(re.findall(r'"(byline\.D\d\d)"', source))
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert ids == set(CASES) == set(re.findall(r"^\| `(byline\.D\d\d)` \|", page, re.MULTILINE))


def test_factories_and_wsgi_apps(tmp_path: Path) -> None:
    """Flask's factory; the route is found in the app."""
    text = (
        APP["imports"]
        + """
import flask
from byline.wsgi import AttributionMiddleware
byline.instrument(destinations=[OTLP({receiver!r})])
"""
        + APP["call"]
        + """
def create():
    app = flask.Flask("main")
    app.wsgi_app = AttributionMiddleware(app.wsgi_app, identity=lambda environ: {"user_id": "ada"})
    @app.post("/chat")
    def chat():
        return ask()
    return app
"""
    )
    parts = dict.fromkeys(APP, "") | {"imports": text}
    assert found(tmp_path, "main:create", "--factory", **parts)[0] == 0
    code, report = found(tmp_path, "main:create", **parts)
    assert (code, report["findings"][0]["id"]) == (2, "byline.D01")
    (finding,) = report["findings"]
    assert finding["problem"] == "main:create takes no arguments, so it looks like a factory"
    assert finding["advice"] == "add --factory"


@pytest.mark.parametrize("app", ["app = 3", "def app(one, two, three, four): ..."])
def test_what_is_no_app(tmp_path: Path, app: str) -> None:
    """The name is wrong, and not the place where the command runs."""
    (finding,) = found(tmp_path, app=app)[1]["findings"]
    assert finding["advice"] == "name the app itself, as the server's command does: byline check module:name"


def test_the_request_can_be_chosen(tmp_path: Path) -> None:
    """Path, body and headers; the startup of the app has run."""
    parts = {
        "view": """
async def chat(request):
    assert (await request.json())["q"] == request.headers["authorization"] == request.app.state.key
    return JSONResponse(ask())
""",
        "app": """
import contextlib
@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.key = "Bearer x"
    yield
app = Starlette(
    routes=[Route(p, chat, methods=['POST']) for p in ('/a', '/b')], middleware=middleware, lifespan=lifespan
)
""",
    }
    code, report = found(
        tmp_path,
        "main:app",
        "--path",
        "/b",
        "--data",
        '{"q": "Bearer x"}',
        "--header",
        "Authorization: Bearer x",
        **parts,
    )
    assert code == 0, report


def test_the_tested_versions_are_those_of_the_tests() -> None:
    """Each SDK that is installed here is not newer than the table says."""
    assert list(findings.find_newer_versions(findings.TESTED_VERSIONS)) == []


def test_clients_that_are_imported_during_the_request_are_redirected(tmp_path: Path) -> None:
    """As in Django, which imports its views with the first request. No call reaches the provider."""
    parts = {
        "imports": APP["imports"].replace("byline, httpx2", "byline"),
        "call": APP["call"].replace("def ask():", "def ask():\n    import httpx2"),
    }
    code, report = found(tmp_path, **parts)
    assert (code, report["findings"]) == (0, [])


def test_an_empty_key_of_a_provider_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "")
    code, report = found(tmp_path, view=APP["view"] + "import os\nassert os.environ['OPENAI_API_KEY']\n")
    assert (code, report["findings"]) == (0, [])


def test_an_error_after_the_response_is_in_the_finding(tmp_path: Path) -> None:
    _, report = found(tmp_path, view="async def chat(request):\n    raise RuntimeError('no database')")
    assert report["findings"][0]["problem"] == "the app answered with status 500: RuntimeError: no database"


def test_an_identity_that_states_no_user_is_named(tmp_path: Path) -> None:
    """The claimed user is ignored then, as with Django and a request that is not logged in."""
    code, report = found(
        tmp_path, middleware="middleware = [Middleware(AttributionMiddleware, identity=lambda _: None)]"
    )
    assert (code, report["verdict"]) == (1, "User is lost, in the layer middleware.")
    assert [finding["id"] for finding in report["findings"]] == ["byline.D11"]
    assert "it stated no user for this request" in report["findings"][0]["problem"]


def test_the_verdict_says_that_there_is_no_destination(tmp_path: Path) -> None:
    _, report = found(tmp_path, instrument="byline.instrument()", middleware="middleware = []")
    assert report["verdict"] == "Session and user are lost, in the layer middleware. There is no destination."


def test_a_missing_cost_is_not_lost_by_the_missing_destination(tmp_path: Path) -> None:
    """The first check of most apps: a provider states no cost, and no destination is set yet."""
    code, report = found(tmp_path, instrument="byline.instrument()", call=UNPRICED)
    assert (code, report["ok"]) == (1, False)
    assert report["verdict"] == "Session and user are on the span, but no cost. There is no destination."


def test_without_a_cost_session_and_user_arrive(tmp_path: Path) -> None:
    """A provider states no cost, and the estimates are an extra: no failure."""
    code, report = found(tmp_path, call=UNPRICED)
    assert (code, report["ok"]) == (0, True)
    assert report["verdict"] == "Session and user arrive with the LLM call of the request, but no cost."


def test_a_middleware_of_the_other_protocol(tmp_path: Path) -> None:
    """Starlette makes its middlewares with the first request."""
    code, report = found(
        tmp_path,
        imports=APP["imports"].replace("byline.asgi", "byline.wsgi"),
        middleware="middleware = [Middleware(AttributionMiddleware)]",
    )
    (finding,) = report["findings"]
    assert (code, finding["id"], finding["layer"]) == (2, "byline.D02", "middleware")
    assert finding["problem"] == "byline.E018: byline.wsgi's middleware wraps an ASGI app"
    assert finding["advice"].startswith("import AttributionMiddleware from byline.asgi")


def test_an_error_of_byline_in_the_view_has_its_id_as_advice(tmp_path: Path) -> None:
    code, report = found(tmp_path, view="async def chat(request):\n    byline.bind(user='ada')")
    (finding,) = (each for each in report["findings"] if each["id"] == "byline.D04")
    assert code == 2
    assert "did you mean 'user_id'?" in finding["problem"]
    assert finding["advice"] == "see docs/errors.md, byline.E101"


@pytest.mark.parametrize(
    "app",
    [
        "from aiohttp import web\napp = web.Application()",
        "from byline.tornado import *\nfrom tornado.web import Application\napp = AttributionMiddleware(Application())",
    ],
)
def test_an_app_of_neither_protocol_is_refused(tmp_path: Path, app: str) -> None:
    code, report = found(tmp_path, app=app)
    (finding,) = report["findings"]
    assert (code, finding["id"]) == (2, "byline.D01")
    assert "neither ASGI nor WSGI" in finding["problem"]
    assert "byline gateway" in finding["advice"]


def test_a_wrong_setting_of_the_environment_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, report = found(
        tmp_path,
        imports="import os\nos.environ['LANGFUSE_PUBLIC_KEY'] = 'pk-lf-1'\n" + APP["imports"],
        instrument="byline.instrument()",
    )
    assert code == 2
    assert [each["problem"] for each in report["findings"]] == ["byline.E041: LANGFUSE_SECRET_KEY is missing"]
    assert report["checks"] == []


def test_langfuses_sdk_that_takes_the_spans_over_is_no_destination_of_bylines(tmp_path: Path) -> None:
    """Its client is created by the first request, as by ``@observe()``."""
    code, report = found(
        tmp_path,
        instrument="""
import os
os.environ |= {"LANGFUSE_PUBLIC_KEY": "pk-lf-1", "LANGFUSE_SECRET_KEY": "sk-lf-1", "LANGFUSE_BASE_URL": {receiver!r}}
byline.instrument()
from opentelemetry.sdk.trace import SpanProcessor
Sdk = type("LangfuseSpanProcessor", (SpanProcessor,), {"__module__": "langfuse._client.span_processor"})
""",
        view="""
async def chat(request):
    await request.json()
    trace.get_tracer_provider().add_span_processor(Sdk())
    return JSONResponse(ask())
""",
    )
    assert (code, report["checks"]) == (0, [])
    (finding,) = report["findings"]
    assert (finding["id"], finding["severity"]) == ("byline.D24", "warning")
    assert "byline.E027" in finding["problem"]
    (layer,) = (layer for layer in report["layers"] if layer["name"] == "destination")
    assert layer["detail"] == "none of byline's own"
