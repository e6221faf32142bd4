"""``python -m tests.fuzz``: give random bytes to every reader of foreign bytes, until stopped or for a time.

``--engine atheris`` uses coverage to find inputs for one target, if atheris is installed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from hypothesis import HealthCheck, given, settings

from tests.fuzz.inputs import INPUTS
from tests.fuzz.targets import TARGETS

_ROUND = 500


def run_round(name: str) -> None:
    """Give a target the next random inputs."""

    @settings(
        max_examples=_ROUND,
        deadline=None,
        derandomize=False,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=INPUTS)
    def run(data: bytes) -> None:
        TARGETS[name](data)

    run()


def fuzz(names: list[str], seconds: float) -> int:
    """Run the targets in turns. Returns the number of inputs; a failing input is shrunk and raised."""
    until = time.monotonic() + seconds
    count = 0
    while time.monotonic() < until:
        for name in names:
            run_round(name)
            count += _ROUND
            print(f"{count} inputs, last: {name}", flush=True)
            if time.monotonic() >= until:
                break
    return count


def fuzz_with_coverage(name: str, seconds: float) -> None:
    """Run one target under atheris."""
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-max_total_time={int(seconds)}"], TARGETS[name])
    atheris.Fuzz()


def main() -> None:
    """Read the arguments and fuzz."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long; without end by default")
    parser.add_argument("--engine", choices=("hypothesis", "atheris"), default="hypothesis")
    given_arguments = parser.parse_args()
    # byline's hooks raise their internal errors under pytest.
    os.environ.setdefault("PYTEST_VERSION", "fuzz")
    names = given_arguments.targets or list(TARGETS)
    if given_arguments.engine == "atheris":
        fuzz_with_coverage(names[0], given_arguments.seconds)
    else:
        print(f"{fuzz(names, given_arguments.seconds)} inputs, no failure")


if __name__ == "__main__":
    main()
