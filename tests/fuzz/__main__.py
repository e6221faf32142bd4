"""``python -m tests.fuzz``: give random bytes to every reader of foreign bytes, until stopped or for a time.

``--engine atheris`` lets the coverage guide the inputs, if atheris is installed: each target runs in a process of its
own, for ``--turn`` seconds at a time, and a corpus that is kept makes the next turn go on where the last one ended.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, settings

from tests.fuzz.inputs import INPUTS, SEEDS

_ROUND = 500
_RUNS = re.compile(r"Done (\d+) runs")
_QUIET = settings(
    max_examples=_ROUND, deadline=None, derandomize=False, database=None, suppress_health_check=list(HealthCheck)
)


def hypothesis_test(target: Callable[[bytes], None]) -> Callable[[], None]:
    """Return the test that gives a target the inputs of the strategies."""

    @_QUIET
    @given(data=INPUTS)
    def run(data: bytes) -> None:
        target(data)

    return run


def fuzz(names: list[str], seconds: float) -> int:
    """Run the targets in turns. Returns the number of inputs; a failing input is shrunk and raised."""
    from tests.fuzz.targets import TARGETS

    until = time.monotonic() + seconds
    count = 0
    while time.monotonic() < until:
        for name in names:
            hypothesis_test(TARGETS[name])()
            count += _ROUND
            print(f"{count} inputs, last: {name}", flush=True)
            if time.monotonic() >= until:
                break
    return count


def fuzz_with_coverage(names: list[str], seconds: float, turn: float, corpus: Path) -> int:
    """Run the targets in turns, each in a process of its own, and return the number of inputs.

    Raises:
        subprocess.CalledProcessError: For a failing input, of which the process has printed the error.
    """
    until = time.monotonic() + seconds
    count = 0
    while time.monotonic() < until:
        for name in names:
            length = max(1, min(turn, until - time.monotonic()))
            command = [sys.executable, "-m", "tests.fuzz", "--run", "--turn", str(int(length)), "--corpus", str(corpus)]
            done = subprocess.run([*command, name], stderr=subprocess.PIPE, text=True, check=False)
            runs = _RUNS.search(done.stderr)
            if done.returncode or runs is None:
                print(done.stderr[-6000:], flush=True)
                raise subprocess.CalledProcessError(done.returncode, [*command, name])
            count += int(runs[1])
            print(f"{count} inputs, last: {name}, {runs[1]}", flush=True)
            if time.monotonic() >= until:
                break
    return count


def run_target(name: str, seconds: float, corpus: Path) -> None:
    """Run one target under atheris in this process, which ends with the run."""
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

    with atheris.instrument_imports(include=["byline", "msgspec"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    structured = hypothesis_test(target).hypothesis.fuzz_one_input  # type: ignore[attr-defined]

    def give(data: bytes) -> None:
        # Half of the inputs are the bytes themselves, half are built by the strategies, with the bytes as choices.
        if data[:1] < b"\x80":
            target(data[1:])
        else:
            structured(data[1:])

    folder = corpus / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS):
        (folder / f"seed-{number}").write_bytes(b"\0" + seed)
    options = [f"-max_total_time={int(seconds)}", "-max_len=4096", "-timeout=20", f"-artifact_prefix={corpus}/{name}-"]
    atheris.Setup([sys.argv[0], *options, str(folder)], give)
    atheris.Fuzz()


def main() -> None:
    """Read the arguments and fuzz."""
    # byline's hooks raise their internal errors under pytest.
    os.environ.setdefault("PYTEST_VERSION", "fuzz")
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="names of functions in tests/fuzz/targets.py; all by default")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long; without end by default")
    parser.add_argument("--engine", choices=("hypothesis", "atheris"), default="hypothesis")
    parser.add_argument("--turn", type=float, default=60, help="seconds of a target until the next one, of atheris")
    parser.add_argument("--corpus", type=Path, help="folder for inputs that reach new code, of atheris")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    corpus = options.corpus or Path(tempfile.gettempdir()) / "byline-fuzz"
    if options.run:
        run_target(options.targets[0], options.turn, corpus)
        return
    from tests.fuzz.targets import TARGETS

    names = options.targets or list(TARGETS)
    if options.engine == "atheris":
        count = fuzz_with_coverage(names, options.seconds, options.turn, corpus)
    else:
        count = fuzz(names, options.seconds)
    print(f"{count} inputs, no failure")


if __name__ == "__main__":
    main()
