"""Requests per second, latency, CPU and memory of a FastAPI app: ``python -m tests.benchmarks.end_to_end``.

A POST of 1 KB, without and with one call of the OpenAI SDK to a gateway on this machine, for each variant of
`tests.benchmarks.variants`: bare, OpenTelemetry, byline, and the SDKs of others, each in an environment of its own.
``wrk`` (a Debian package) sends the requests, to one variant after the other in each round. All exports go to a
receiver on this machine, which counts the spans: a variant whose first request does not arrive there as it should is
not measured. Without wrk nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx2

from tests.benchmarks.by_hand import body
from tests.benchmarks.served import SESSION
from tests.benchmarks.variants import BASE, VARIANTS, Variant
from tests.matrix import environments

SERVERS: Final = ("uvicorn", "gunicorn")
PATHS: Final = ("/plain", "/chat")
COLUMNS: Final = {
    "requests/s": "req/s",
    "p50": "p50 ms",
    "p99": "p99 ms",
    "cpu": "CPU µs",
    "rss": "RSS MiB",
}
KINDS: Final = ("server", "llm", "session", "content")
_CONNECTIONS: Final = 16
#: Seconds without a post after which a receiver counts as quiet; the batch processors send every 0.5 s.
_QUIET: Final = 0.7
_START_TIMEOUT: Final = 60.0
_FOREIGN: Final = ("OTEL_", "LANGFUSE_", "LANGSMITH_", "LOGFIRE_", "TRACELOOP_", "OPENAI_", "BYLINE_")
_SCRIPT: Final = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.headers["x-session-id"] = "%s"
wrk.body = [==[%s]==]
"""

Figures = dict[str, float]


class Served(NamedTuple):
    """A variant whose app is running.

    Attributes:
        pid: The process of uvicorn, or the first one of gunicorn.
        url: Where it serves.
        receiver: The port of its receiver.
    """

    variant: Variant
    pid: int
    url: str
    receiver: int


class Gateway:
    """The gateway, with one receiver for each variant, in a process of its own."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.url = f"http://127.0.0.1:{ports[0]}"
        self.receivers = ports[1:]
        self.client = httpx2.Client(base_url=self.url, timeout=_START_TIMEOUT)

    def seen(self, receiver: int) -> Figures:
        """Return what has arrived since the last question."""
        found: Figures = self.client.get(f"/seen/{receiver}").json()
        return found

    def seen_until_quiet(self, receiver: int) -> Figures:
        """Return what has arrived, once nothing has for a while."""
        total: Figures = {}
        while True:
            time.sleep(_QUIET)
            found = self.seen(receiver)
            if not found:
                return total
            total = {name: total.get(name, 0) + found.get(name, 0) for name in {*total, *found}}


def _listen() -> socket.socket:
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listening.set_inheritable(True)
    return listening


@contextmanager
def _started(command: list[str], sockets: Sequence[socket.socket], output: Path, **variables: str) -> Iterator[int]:
    """Start a process that inherits listening sockets, and yield its id. Stop it in the end."""
    # A variable that a variant knows would change what is measured.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    known = {**inherited, "OTEL_BSP_SCHEDULE_DELAY": "500", "PYTHONPATH": _python_path(), **variables}
    descriptors = [each.fileno() for each in sockets]
    with (
        output.open("wb") as file,
        subprocess.Popen(
            command, pass_fds=descriptors, env=known, cwd=environments.ROOT, stdout=file, stderr=file
        ) as process,
    ):
        for each in sockets:
            # A process that has ended refuses connections then.
            each.close()
        try:
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _python_path() -> str:
    return os.pathsep.join([str(environments.ROOT / "src"), str(environments.ROOT)])


def _command(server: str, python: Path, descriptor: int) -> list[str]:
    if server == "uvicorn":
        return [str(python), "-m", "tests.benchmarks.served", str(descriptor)]
    return [
        *(str(python), "-m", "gunicorn", "tests.benchmarks.served:make_app()", "--bind", f"fd://{descriptor}"),
        *("--workers", "2", "--worker-class", "uvicorn_worker.UvicornH11Worker", "--log-level", "error"),
    ]


class _Packages(NamedTuple):
    name: str
    packages: tuple[str, ...]


def _python(variant: Variant) -> Path:
    if not variant.packages:
        return Path(sys.executable)
    return environments.make(_Packages(f"benchmark-{variant.name}", variant.all_packages))


def _prove(served: Served, gateway: Gateway, payload: bytes) -> None:
    """Send one request with a model call. Raises if its spans do not arrive as the variant promises."""
    headers = {"content-type": "application/json", "x-session-id": SESSION}
    url = f"{served.url}/chat"
    answer = httpx2.post(url, content=payload, headers=headers, timeout=_START_TIMEOUT)
    answer.raise_for_status()
    if answer.json() != {"content": "hello"}:
        raise RuntimeError(f"answered {answer.text}")
    if (answer.headers.get("x-session-id") == SESSION) is not served.variant.is_in_response:
        raise RuntimeError("the response has no session" if served.variant.is_in_response else "the response has one")
    found: Figures = {}
    deadline = time.monotonic() + _START_TIMEOUT
    while not all(found.get(kind) for kind in served.variant.sends):
        if time.monotonic() > deadline:
            raise RuntimeError(f"of {sorted(served.variant.sends)} only {found} arrived")
        seen = gateway.seen(served.receiver)
        found = {name: found.get(name, 0) + seen.get(name, 0) for name in {*found, *seen}}
        time.sleep(0.1)
    sent = {kind for kind in KINDS if found.get(kind)} | set(gateway.seen_until_quiet(served.receiver)) & set(KINDS)
    if sent != served.variant.sends:
        raise RuntimeError(f"sent {sorted(sent)}")


def _processes(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += _processes(int(child))
    return found


def _cpu_seconds(pids: Sequence[int]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _resident_mib(pids: Sequence[int]) -> float:
    sizes = (re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()) for pid in pids)
    return sum(int(size[1]) for size in sizes if size) / 1024


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def _wrk(served: Served, gateway: Gateway, path: str, script: Path, seconds: int) -> Figures:
    """Return the figures of one variant in one round. Its CPU time includes the export of the round's spans."""
    pids = _processes(served.pid)
    before = _cpu_seconds(pids)
    url = f"{served.url}{path}"
    command = ["wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", str(script), url]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in printed, printed
    seen = gateway.seen_until_quiet(served.receiver) if served.variant.sends else {}
    spent = _cpu_seconds(pids) - before
    requests = int(re.search(r"(\d+) requests in", printed)[1])  # type: ignore[index]
    percentiles = dict(re.findall(r"(50|99)%\s+(\S+)", printed))
    return {
        "requests/s": float(re.search(r"Requests/sec:\s+([\d.]+)", printed)[1]),  # type: ignore[index]
        "p50": _milliseconds(percentiles["50"]),
        "p99": _milliseconds(percentiles["99"]),
        "cpu": spent / requests * 1e6,
        "rss": _resident_mib(pids),
        **{kind: seen.get(kind, 0) / requests for kind in KINDS},
        "bytes": seen.get("bytes", 0) / requests,
    }


class Measured(NamedTuple):
    """The rounds of one server, and why a variant could not be measured.

    Attributes:
        rounds: Path → name of the variant → figures of each round.
        failed: Name of the variant → the reason.
    """

    rounds: dict[str, dict[str, list[Figures]]]
    failed: dict[str, str]


def measure(
    server: str,
    variants: Sequence[Variant],
    *,
    rounds: int,
    seconds: int,
    paths: Sequence[str] = PATHS,
    warm_up: int = 1,
) -> Measured:
    """Measure all variants in turns, after rounds that are not counted."""
    payload = body(1000)
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        script = folder / "post.lua"
        script.write_text(_SCRIPT % (SESSION, payload.decode()))
        sockets = [_listen() for _ in range(len(variants) + 1)]
        gateway = Gateway([each.getsockname()[1] for each in sockets])
        stack.callback(gateway.client.close)
        command = [sys.executable, "-m", "tests.benchmarks.served", *(str(each.fileno()) for each in sockets)]
        stack.enter_context(_started(command, sockets, folder / "gateway"))
        started: list[tuple[Served, ExitStack]] = []
        for variant, receiver in zip(variants, gateway.receivers, strict=True):
            one = stack.enter_context(ExitStack())
            try:
                started.append((_serve(server, variant, gateway, receiver, folder / variant.name, one), one))
            except RuntimeError as error:
                failed[variant.name] = str(error).strip().splitlines()[-1]
        running: list[Served] = []
        for served, one in started:
            try:
                _prove(served, gateway, payload)
                running.append(served)
            except Exception as error:
                one.close()
                printed = (folder / served.variant.name).read_text(errors="replace").strip().splitlines()
                failed[served.variant.name] = "; ".join([*str(error).splitlines()[:1], *printed[-1:]])
        taken: dict[str, dict[str, list[Figures]]] = {
            path: {served.variant.name: [] for served in running} for path in paths
        }
        for number in range(-warm_up, rounds):
            for path, found in taken.items():
                for served in running if number % 2 else running[::-1]:
                    figures = _wrk(served, gateway, path, script, 1 if number < 0 else seconds)
                    if number >= 0:
                        found[served.variant.name].append(figures)
    return Measured(taken, failed)


def _serve(server: str, variant: Variant, gateway: Gateway, receiver: int, output: Path, stack: ExitStack) -> Served:
    python = _python(variant)
    listening = _listen()
    port = listening.getsockname()[1]
    variables = {
        "BENCHMARK_VARIANT": variant.name,
        "BENCHMARK_GATEWAY": gateway.url,
        "BENCHMARK_RECEIVER": f"http://127.0.0.1:{receiver}",
    }
    command = _command(server, python, listening.fileno())
    pid = stack.enter_context(_started(command, [listening], output, **variables))
    return Served(variant, pid, f"http://127.0.0.1:{port}", receiver)


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, upper


def summarize(rounds: dict[str, list[Figures]]) -> dict[str, Figures]:
    """Return the medians of each variant, and its requests/s in parts of OpenTelemetry's, round by round."""
    found = {}
    for name, figures in rounds.items():
        medians = {column: statistics.median(each[column] for each in figures) for column in figures[0]}
        if BASE in rounds:
            ratios = [each["requests/s"] / base["requests/s"] for each, base in zip(figures, rounds[BASE], strict=True)]
            lower, upper = _quartiles(ratios)
            medians |= {"ratio": statistics.median(ratios), "ratio lower": lower, "ratio upper": upper}
            medians["p99 ratio"] = statistics.median(
                each["p99"] / base["p99"] for each, base in zip(figures, rounds[BASE], strict=True)
            )
        found[name] = medians
    return found


def _print_table(server: str, path: str, summary: dict[str, Figures]) -> None:
    print(f"\n{server}, POST {path}")
    heads = "".join(f"{title:>9}" for title in COLUMNS.values())
    print(f"{'':<27}{heads}{'of OTel':>9}{'quartiles':>12}{'p99 of':>8}  spans of a request")
    titles = {variant.name: variant.title for variant in VARIANTS}
    for name, figures in summary.items():
        line = "".join(f"{figures[column]:>9.{1 if column.startswith('p') else 0}f}" for column in COLUMNS)
        if "ratio" in figures:
            spread = f"{figures['ratio lower']:.2f}–{figures['ratio upper']:.2f}"
            line += f"{figures['ratio']:>9.2f}{spread:>12}{figures['p99 ratio']:>8.2f}"
        spans = ", ".join(f"{kind} {figures[kind]:.2f}" for kind in KINDS if figures[kind])
        print(f"{titles[name]:<27}{line}  {spans}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.end_to_end", description=__doc__)
    parser.add_argument(
        "variants", nargs="*", metavar="variant", help=f"of {', '.join(each.name for each in VARIANTS)}"
    )
    parser.add_argument("--server", action="append", choices=SERVERS, help="uvicorn by default; may be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each round and variant")
    parser.add_argument("--smoke", action="store_true", help="one second each, without environments of their own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    given = parser.parse_args(arguments)
    if unknown := set(given.variants) - {each.name for each in VARIANTS}:
        parser.error(f"no variant {', '.join(sorted(unknown))}")
    if shutil.which("wrk") is None or not Path("/proc/self/stat").exists():
        print("not measured: install wrk (apt-get install wrk); CPU and memory are read from /proc")
        return 0
    variants = [each for each in VARIANTS if each.name in given.variants or not given.variants]
    how: dict[str, Any] = {"rounds": given.rounds, "seconds": given.seconds}
    if given.smoke:
        variants = [each for each in variants if not each.packages]
        how = {"rounds": 1, "seconds": 1, "paths": PATHS[1:], "warm_up": 0}
    written: dict[str, Any] = {"python": platform.python_version(), "load before": os.getloadavg()[0], "servers": {}}
    is_broken = False
    for server in given.server or SERVERS[:1]:
        measured = measure(server, variants, **how)
        tables = {path: summarize(rounds) for path, rounds in measured.rounds.items()}
        for path, summary in tables.items():
            _print_table(server, path, summary)
        for name, reason in measured.failed.items():
            print(f"not measured: {name}: {reason}")
            is_broken = is_broken or not next(each for each in VARIANTS if each.name == name).packages
        written["servers"][server] = {"medians": tables, "rounds": measured.rounds, "failed": measured.failed}
    if given.json is not None:
        given.json.write_text(json.dumps(written, indent=1) + "\n")
    # An environment may be impossible to make; the other variants must work.
    return int(is_broken)


if __name__ == "__main__":
    sys.exit(main())
