"""The picture of the curves."""

from __future__ import annotations

from xml.etree import ElementTree

from tests.benchmarks.curves import draw, microseconds
from tests.benchmarks.measure import Row


def test_picture_has_a_panel_of_each_curve_with_all_values() -> None:
    curves = ("headers of a request", "body of a request", "LLM spans & more")
    rows = [
        Row(f"{curve}: {size}", "by hand", theirs, ours, None)
        for curve in curves
        for size, theirs, ours in (("1", 2.0, 4.5), ("2", 20.0, 10.0), ("4", 2000.0, 12.4), ("8", 3000.0, 99.0))
    ]
    picture = ElementTree.fromstring(draw(rows))
    panels = picture.findall("{*}g")
    assert [panel.findtext("{*}text") for panel in panels] == list(curves)
    for panel in panels:
        shown = [text.text for text in panel.findall("{*}text")]
        assert {"byline", "by hand", "1", "2", "4", "8"} < set(shown)
        for value in ("4.5 µs", "10 µs", "12 µs", "99 µs", "2.0 µs", "20 µs", "2.0 ms", "3.0 ms"):
            assert value in shown
        assert len(panel.findall("{*}polyline")) == 2
    # Two panels in a row.
    assert [panel.get("transform") for panel in panels] == ["translate(0 0)", "translate(330 0)", "translate(0 210)"]


def test_times_have_two_or_three_digits() -> None:
    assert [microseconds(value) for value in (0.42, 9.96, 10.4, 999.4, 1336.0)] == [
        "0.4 µs",
        "10.0 µs",
        "10 µs",
        "999 µs",
        "1.3 ms",
    ]
