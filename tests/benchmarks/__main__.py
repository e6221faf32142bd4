"""``python -m tests.benchmarks``: every ratio as a table; ``--json FILE`` writes it, ``--check`` exits 1 over a bound.

``--smoke`` only shows that every benchmark runs. ``curves --svg FILE`` draws the curves.

Each figure stands beside a reference that was measured in the same run, in turns with it: the medians, the ratio with
its quartiles, and the ratio that the design allows. Times are CPU time of one thread; use an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import (
    body_claims,
    by_hand,
    client_hooks,
    counts,
    curves,
    dead_destination,
    json_splice,
    middlewares,
    replies,
    set_attributes,
    span_processors,
    start,
)
from tests.benchmarks.measure import Row

GROUPS = {
    "middlewares": middlewares,
    "by_hand": by_hand,
    "body_claims": body_claims,
    "set_attributes": set_attributes,
    "span_processors": span_processors,
    "client_hooks": client_hooks,
    "replies": replies,
    "json_splice": json_splice,
    "dead_destination": dead_destination,
    "curves": curves,
    "start": start,
}


def _measured(groups: list[str]) -> Iterator[Row]:
    for name in groups:
        yield from GROUPS[name].rows()


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="group", help=f"of {', '.join(GROUPS)}; all without")
    parser.add_argument("--check", action="store_true", help="exit 1 when a ratio is over its bound")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the curves")
    parser.add_argument("--smoke", action="store_true", help="try each benchmark; the figures mean nothing")
    given = parser.parse_args()
    if given.smoke:
        os.environ["BENCHMARK_SMOKE"] = "1"
    if unknown := [name for name in given.groups if name not in GROUPS]:
        parser.error(f"no group {', '.join(unknown)}")
    print(f"{'what byline adds':<41}{'against':<41}{'theirs':>10}{'ours':>10}{'ratio':>8}{'quartiles':>16}{'bound':>7}")
    rows = []
    groups = given.groups or list(GROUPS)
    for row in _measured(groups):
        rows.append(row)
        bound = "-" if row.bound is None else f"{row.bound:.3f}"
        quartiles = f"{row.spread[0]:.3f}–{row.spread[1]:.3f}"
        print(
            f"{row.name:<41}{row.reference:<41}{row.theirs:>10.2f}{row.ours:>10.2f}{row.ratio:>8.3f}{quartiles:>16}"
            f"{bound:>7}{'  over' if row.over else ''}",
            flush=True,
        )
    executed = counts.measure() if not given.groups and not given.smoke else {}
    for name, value in executed.items():
        print(f"{name:<82}{value:>10.1f} bytecodes")
    if given.svg is not None:
        given.svg.write_text(curves.draw([row for row in rows if ": " in row.name]))
    if given.json is not None:
        found = {
            "python": platform.python_version(),
            "load": os.getloadavg()[0],
            "ratios": [
                {
                    "name": row.name,
                    "reference": row.reference,
                    "theirs": float(row.theirs),
                    "ours": float(row.ours),
                    "ratio": row.ratio,
                    "quartiles": row.spread,
                    "bound": row.bound,
                }
                for row in rows
            ],
            "bytecodes": executed,
        }
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return int(given.check and any(row.over for row in rows))


if __name__ == "__main__":
    sys.exit(main())
