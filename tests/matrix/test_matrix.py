"""Each instrumentation beside byline, in an environment of its own."""

from __future__ import annotations

import pytest

from tests.matrix import reach, running, table
from tests.matrix.cells import CELLS, Cell
from tests.matrix.reasons import REASONS, reason_for


@pytest.mark.matrix
@pytest.mark.parametrize("cell", CELLS, ids=[cell.name for cell in CELLS])
def test_cell_reaches_as_far_as_recorded(cell: Cell) -> None:
    """No scenario is worse than recorded; a better one must be recorded, so that it stays."""
    row = table.row_of(running.run(cell))
    different = table.differences(table.recorded()[cell.name], row)
    assert not different, "\n".join(different)


@pytest.mark.parametrize("cell", CELLS, ids=[cell.name for cell in CELLS])
def test_every_no_has_a_reason(cell: Cell) -> None:
    """Every recorded verdict below a yes has a reason."""
    without = [flaw for flaw in table.flaws(table.recorded()[cell.name]) if reason_for(cell.name, *flaw) is None]
    assert not without


def test_every_reason_is_needed() -> None:
    """A reason goes when its no has become a yes."""
    rows = table.recorded()
    used = {
        reason_for(cell.name, scenario, column) for cell in CELLS for scenario, column in table.flaws(rows[cell.name])
    }
    assert [reason for reason in REASONS if reason not in used] == []


def test_documentation_equals_the_record() -> None:
    """``python -m tests.matrix`` writes both."""
    assert reach.PAGE.read_text(encoding="utf-8") == reach.write(table.recorded())
