"""Drawings: values stand where the axes say, by arithmetic on the margins (left 56, right 14, top 18, bottom 38)."""

import math
import re

import pytest

from limbeck.report.figures import MOST_POINTS, Across, Axis, Series, Up, interval, lines, thinned
from limbeck.report.heat import heat_map
from limbeck.report.words import digits, percent, plain, points, size, times, whole


def test_an_axis_maps_values_to_pixels_and_has_round_ticks():
    assert Axis(0, 10, 100, 200).at(2.5) == pytest.approx(125)
    assert Axis(1, 100, 0, 90, log=True).at(10) == pytest.approx(45)
    assert Axis(0, 10, 0, 1).ticks() == [0, 2.5, 5, 7.5, 10]
    assert Axis(-0.03, 0.07, 0, 1).ticks() == pytest.approx([-0.025, 0, 0.025, 0.05])
    assert Axis(0.02, 30, 0, 1, log=True).ticks() == pytest.approx([0.1, 1, 10])
    assert Axis(1, 20, 0, 1, log=True).ticks() == pytest.approx([1, 3, 10])


def test_a_line_over_decades_is_drawn_on_a_logarithmic_axis():
    """From 1 to 0.001 the axis ends at 1.25, a little above."""
    figure = lines("t", [Series("s", "student", [(0, 1.0), (50, 0.1), (100, 0.001)])], Across("x"), Up("y"))
    assert figure is not None
    (drawn,) = re.findall(r'<path class="line student" d="M([^"]+)"', figure.drawing)
    xs, ys = zip(*(map(float, pair.split()) for pair in drawn.split("L")), strict=True)
    assert xs == pytest.approx((56, 201, 346))
    height = (230 - 38 - 18) / math.log10(1250)
    assert ys == pytest.approx([192 - height * decades for decades in (3, 2, 0)], abs=0.06)


def test_nothing_to_draw_is_no_figure():
    assert lines("t", [Series("s", "student", [])], Across("x"), Up("y")) is None
    assert heat_map("t", [[5.0, 0.0], [None, 3.0]], ["a", "b"], "r", "c", plain, plain) is None


def test_a_long_run_keeps_its_ends_and_little_else():
    kept = thinned(Series("s", "student", [(float(i), 1.0) for i in range(10_000)])).points
    assert (len(kept), kept[0][0], kept[-1][0]) == (MOST_POINTS, 0, 9999)


def test_the_interval_lies_between_baseline_and_teacher():
    """Values from 0 to 0.1 with 8 % of room on both sides fill 340 pixels from 10 on."""
    figure = interval("t", (0.02, 0.05, 0.08), 0.1, "points", points)
    low, high = (10 + 340 * (value + 0.008) / 0.116 for value in (0.02, 0.08))
    assert f'<path class="line student wide" d="M{low:.1f} 46.0L{high:.1f} 46.0"/>' in figure.drawing
    assert 'aria-label="t: student +5.0, interval +2.0 to +8.0, from baseline at 0; teacher +10.0. points"' in str(
        figure.drawing
    )


def test_colour_goes_with_the_root_of_a_value():
    figure = heat_map("t", [[90.0, 1.0], [4.0, 80.0]], ["a", "b"], "r", "c", plain, plain)
    assert figure is not None
    opacity = [float(value) for value in re.findall(r'fill-opacity="([\d.]+)"', figure.drawing)]
    assert opacity == pytest.approx([0, 0.55 / 2, 0.55, 0], abs=0.0006)


def test_numbers_as_people_read_them():
    said = [percent(0.954), points(-0.0123), plain(0.000123), plain(12345.6), digits(0.31), whole(24.0), whole(51.33)]
    assert said == ["95.4\u00a0%", "−1.2", "0.000123", "12,346", "0.310", "24", "51.3"]
    assert [size(663_000), times(34.2), times(1.53), times(0.373)] == ["663\u00a0kB", "34×", "1.5×", "0.37×"]
