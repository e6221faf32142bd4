"""``python -m tests.benchmarks``: every ratio as one table; ``--check`` exits 1 over a bound."""

from __future__ import annotations

import argparse
import sys

from tests.benchmarks import (
    body_claims,
    client_hooks,
    dead_destination,
    json_splice,
    middlewares,
    set_attributes,
    span_processors,
)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 when a ratio is over its bound")
    given = parser.parse_args()
    print(f"{'what byline adds':<42}{'against what is added by':<40}{'theirs':>12}{'ours':>12}{'ratio':>9}{'bound':>8}")
    over = False
    for group in (
        middlewares,
        body_claims,
        set_attributes,
        json_splice,
        client_hooks,
        dead_destination,
        span_processors,
    ):
        for row in group.rows():
            over = over or row.over
            bound = "-" if row.bound is None else f"{row.bound:.3f}"
            print(
                f"{row.name:<42}{row.reference:<40}{row.theirs:>12.2f}{row.ours:>12.2f}"
                f"{row.ratio:>9.4f}{bound:>8}{'  over' if row.over else ''}",
                flush=True,
            )
    return int(over and given.check)


if __name__ == "__main__":
    sys.exit(main())
