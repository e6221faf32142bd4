"""``python -m tests.matrix [CELL…]``: runs cells, records their verdicts and writes ``docs/reach.md``."""

from __future__ import annotations

import argparse
import time

from tests.matrix import reach, running, table
from tests.matrix.cells import CELLS


def main() -> None:
    """Run the cells that are named, else all."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("cells", nargs="*", metavar="CELL", choices=[cell.name for cell in CELLS] + [[]])
    wanted = parser.parse_args().cells
    rows = table.recorded() if table.EXPECTED.exists() else {}
    rows = {cell.name: rows[cell.name] for cell in CELLS if cell.name in rows}
    for cell in CELLS:
        if wanted and cell.name not in wanted:
            continue
        began = time.perf_counter()
        row = table.row_of(running.run(cell))
        print(f"{cell.name}: {time.perf_counter() - began:.1f} s", flush=True)
        for line in table.differences(rows.get(cell.name, row), row):
            print(f"  {line}", flush=True)
        rows[cell.name] = row
        table.record(rows)
    reach.PAGE.write_text(reach.write(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
