"""What a process pays at its start: ``import byline`` beside OpenTelemetry's own import, and `byline.instrument`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Final

from tests.benchmarks.measure import Cost, Row, repeated

#: CPU time; all that an app with calls of the OpenAI SDK imports is imported before `byline.instrument`.
_PROGRAM: Final = """
import json, os, sys, time
times = [time.process_time()]
import opentelemetry.sdk.trace.export
import opentelemetry.exporter.otlp.proto.http.trace_exporter
times.append(time.process_time())
import byline
times.append(time.process_time())
import fastapi, openai
times.append(time.process_time())
destination = byline.destinations.OTLP("http://127.0.0.1:9/v1/traces")
byline.instrument(destinations=[destination], threads=sys.argv[1] == "threads")
times.append(time.process_time())
print(json.dumps([(after - before) * 1e6 for before, after in zip(times, times[1:])]), flush=True)
os._exit(0)
"""
_ROUNDS: Final = 9


def rows() -> list[Row]:
    """Return the CPU time of the steps, each round in a new process."""
    # Without bytecode on disk every process would compile all that it imports.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def run(extra: str = "") -> list[float]:
        command = [sys.executable, "-c", _PROGRAM, extra]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        taken: list[float] = json.loads(done.stdout)
        return taken

    run()
    rounds = [(run(), run("threads")) for _ in range(repeated(_ROUNDS))]
    theirs, ours, _, instrument = (Cost(each) for each in zip(*(each for each, _ in rounds), strict=True))
    with_threads = Cost([each[-1] for _, each in rounds])
    own_import = "import of OpenTelemetry's SDK, exporter"
    return [
        Row("import byline, after OpenTelemetry", own_import, theirs, ours, None),
        Row("the same", "150 ms", 150_000, ours, 1.0),
        Row("instrument(), one destination", "50 ms", 50_000, instrument, 1.0),
        Row("the same with the extra threads", "50 ms", 50_000, with_threads, None),
    ]
