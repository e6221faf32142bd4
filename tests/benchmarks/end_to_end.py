"""Requests per second, latency, CPU and memory of a FastAPI app: ``python -m tests.benchmarks.end_to_end``.

uvicorn serves one process per variant: a POST of 1 KB, without and with one LLM call to a gateway on this machine.
``wrk`` (a Debian package) sends the requests, to one variant after the other in each round. Without wrk nothing is
measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Literal, cast

import fastapi

VARIANTS: Final = ("bare", "otel", "by hand", "byline llm", "byline all")
_CONNECTIONS: Final = 16
_REPLY: Final = {
    "id": "c-1",
    "model": "gpt-4o",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 200, "completion_tokens": 5, "cost": 0.001},
}
_CHAT: Final = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o"}
_SCRIPT: Final = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.headers["x-session-id"] = "s-1"
wrk.body = [==[%s]==]
"""


def _serve(app: Any) -> None:
    """Serve an app on a free port, which is printed once the server accepts connections."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            assert sockets
            print(sockets[0].getsockname()[1], flush=True)

    # With the protocol named, asyncio sets TCP_NODELAY; without, each response would wait 40 ms for an acknowledgement.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", access_log=False)
    asyncio.run(Server(config).serve([listening]))


def _run_gateway() -> None:
    """Answer model calls, and accept exported spans."""
    reply = json.dumps(_REPLY).encode()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        is_export = scope["path"].endswith("/traces")
        headers = [(b"content-type", b"application/x-protobuf" if is_export else b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if is_export else reply})

    _serve(app)


def _run_app(variant: str, gateway: str) -> None:
    import httpx
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    traces = f"{gateway}/v1/traces"
    app: Any = fastapi.FastAPI()
    client = httpx.AsyncClient()
    tracer = trace.get_tracer("opentelemetry.instrumentation.genai.openai")

    @app.post("/plain")
    async def plain(request: fastapi.Request) -> dict[str, str]:
        return {"model": (await request.json())["model"]}

    @app.post("/chat")
    async def chat(request: fastapi.Request) -> dict[str, str]:
        body = await request.json()
        with tracer.start_as_current_span("chat gpt-4o", attributes=_CHAT):
            answer = await client.post(f"{gateway}/v1/chat/completions", json={"model": body["model"], "messages": []})
        return {"content": answer.json()["choices"][0]["message"]["content"]}

    if variant.startswith("byline"):
        import byline
        from byline.asgi import AttributionMiddleware

        spans = cast("Literal['llm', 'all']", variant.removeprefix("byline "))
        byline.instrument(destinations=[byline.destinations.OTLP(traces, spans=spans)])
        app.add_middleware(AttributionMiddleware)
    elif variant != "bare":
        from tests.benchmarks.by_hand import HandMiddleware, HandProcessor

        provider = TracerProvider()
        if variant == "by hand":
            provider.add_span_processor(HandProcessor())
            app.add_middleware(HandMiddleware)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(traces)))
        # FastAPI makes the server span as soon as there is a provider.
        trace.set_tracer_provider(provider)
    _serve(app)


@contextmanager
def _started(*arguments: str) -> Iterator[tuple[int, int]]:
    """Yield process id and port of a server."""
    command = [sys.executable, "-m", "tests.benchmarks.end_to_end", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.pid, int(process.stdout.readline())
        finally:
            process.terminate()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mib(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def _wrk(pid: int, url: str, script: Path, seconds: int) -> dict[str, float]:
    before = _cpu_seconds(pid)
    command = ["wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", str(script), url]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    spent = _cpu_seconds(pid) - before
    assert "Non-2xx" not in printed, printed
    requests = int(re.search(r"(\d+) requests in", printed)[1])  # type: ignore[index]
    percentiles = dict(re.findall(r"(50|99)%\s+(\S+)", printed))
    return {
        "requests/s": float(re.search(r"Requests/sec:\s+([\d.]+)", printed)[1]),  # type: ignore[index]
        "p50 ms": _milliseconds(percentiles["50"]),
        "p99 ms": _milliseconds(percentiles["99"]),
        "CPU µs": spent / requests * 1e6,
        "RSS MiB": _resident_mib(pid),
    }


def measure(rounds: int, seconds: int) -> dict[str, dict[str, dict[str, float]]] | None:
    """Return the medians by path and variant, ``None`` without wrk or without ``/proc``."""
    if shutil.which("wrk") is None or not Path("/proc/self/stat").exists():
        return None
    from tests.benchmarks.by_hand import body

    taken: dict[str, dict[str, list[dict[str, float]]]] = {
        path: {variant: [] for variant in VARIANTS} for path in ("/plain", "/chat")
    }
    with ExitStack() as stack:
        _, gateway_port = stack.enter_context(_started("--gateway"))
        gateway = f"http://127.0.0.1:{gateway_port}"
        script = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "post.lua"
        script.write_text(_SCRIPT % body(1000).decode())
        servers = {name: stack.enter_context(_started("--app", name, "--to", gateway)) for name in VARIANTS}
        for number in range(rounds + 1):
            for path, variants in taken.items():
                for variant in VARIANTS if number % 2 else VARIANTS[::-1]:
                    pid, port = servers[variant]
                    figures = _wrk(pid, f"http://127.0.0.1:{port}{path}", script, seconds)
                    if number:
                        variants[variant].append(figures)
    return {
        path: {
            variant: {name: statistics.median(each[name] for each in found) for name in found[0]}
            for variant, found in variants.items()
        }
        for path, variants in taken.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.end_to_end", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each round and variant")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--gateway", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--app", help=argparse.SUPPRESS)
    parser.add_argument("--to", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.gateway:
        _run_gateway()
        return 0
    if given.app:
        _run_app(given.app, given.to)
        return 0
    found = measure(given.rounds, given.seconds)
    if found is None:
        print("not measured: install wrk (apt-get install wrk); CPU and memory are read from /proc")
        return 0
    for path, variants in found.items():
        print(f"POST {path:<12}" + "".join(f"{name:>13}" for name in variants["bare"]) + f"{'of otel':>13}")
        for variant, figures in variants.items():
            share = figures["requests/s"] / variants["otel"]["requests/s"]
            print(f"{variant:<17}" + "".join(f"{value:>13.1f}" for value in figures.values()) + f"{share:>13.2f}")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
