"""Plots as inline SVG: axes, lines, dots and intervals. Colours are the page's CSS, so light and dark are one drawing.

What this file does not know: what is drawn.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from limbeck.report.words import plain

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 18, 38
MOST_POINTS = 300
NAME = 60
"""Pixels that a role's name is wide."""

KINDS = ("student", "teacher", "eq2", "eq4", "baseline")
"""CSS classes of lines that stand for no role, in turn."""

FEWEST_DECADES = 1.3
"""A logarithmic axis is drawn where values differ by more than a factor of 20."""


@dataclass(frozen=True)
class Series:
    """A line: its name, the CSS class that colours it, its points; dashed, or dots alone with their radii.

    marked: with a dot at each point. spans: intervals of y, each (x, low, high).
    """

    name: str
    kind: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    radii: Sequence[float] | None = None
    marked: bool = False
    spans: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Figure:
    """A drawing with what stands around it. legend: (name, CSS class, "line", "dashed", "dot" or "hollow")."""

    title: str
    drawing: Markup
    legend: Sequence[tuple[str, str, str]] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class Axis:
    """Values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values, three to six of them."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)) - 1, math.ceil(math.log10(self.high)) + 1)
            for steps in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
                found = [s * 10.0**d for d in decades for s in steps if self.low <= s * 10.0**d <= self.high * 1.0001]
                if len(found) >= 3:
                    break
            return found[:: math.ceil(len(found) / 6)]
        raw = (self.high - self.low) / 4
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Across:
    """The x-axis of a plot: an axis of numbers, or one place per name at x = 0, 1, 2, ...

    label: its name and unit. log: whether it is logarithmic. bounds: the lowest and the highest value; by default those
    of the points. ticks: the values that are labelled, instead of round ones.
    """

    label: str
    names: Sequence[str] = ()
    log: bool = False
    bounds: tuple[float, float] | None = None
    ticks: Sequence[float] = ()


@dataclass(frozen=True)
class Up:
    """The y-axis of a plot; logarithmic where positive values without bounds differ by much.

    label: its name and unit. bounds: the lowest and the highest value. written: formats a value.
    """

    label: str
    bounds: tuple[float, float] | None = None
    written: Callable[[float], str] = plain


def lines(
    title: str,
    series: Sequence[Series],
    across: Across,
    up: Up,
    *,
    mark: tuple[float, str] | None = None,
    diagonal: bool = False,
    note: str = "",
) -> Figure | None:
    """A plot of the series; None where they have no point.

    mark: a value of x and its name, drawn as a vertical line. diagonal: whether the line y = x is drawn.
    """
    names, log_x, written, y_range = across.names, across.log, up.written, up.bounds
    series = [thinned(one) for one in series if one.points]
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    if not xs:
        return None
    log_y = y_range is None and min(ys) > 0 and math.log10(max(ys) / min(ys)) > FEWEST_DECADES
    low, high = y_range or (min(ys) if log_y else min(0.0, *ys), max(ys))
    if high <= low:
        low, high = (low * 0.5, low * 2) if log_y else (low, low + 1)
    x_low, x_high = (-0.4, len(names) - 0.6) if names else across.bounds or (min(xs), max(xs))
    if x_high <= x_low:
        x_low, x_high = (x_low / 2, x_low * 2) if log_x else (x_low - 1, x_low + 1)
    x = Axis(x_low, x_high, LEFT, WIDTH - RIGHT, log_x)
    y = Axis(low, high * (1.25 if log_y else 1.0), HEIGHT - BOTTOM, TOP, log_y)
    parts = [_y_axis(y, up.label, written), _x_axis(x, across.label, names, across.ticks)]
    if diagonal:
        parts.append(_path([(x.at(v), y.at(v)) for v in (low, high)], "reference"))
    if mark is not None and x_low <= mark[0] <= x_high:
        at = x.at(mark[0])
        parts.append(_path([(at, TOP), (at, HEIGHT - BOTTOM)], "mark"))
        parts.append(text(at, TOP - 5, mark[1], "marked", "middle"))
    for one in series:
        at_points = [(x.at(a), y.at(b)) for a, b in one.points]
        if one.radii is None:
            parts.append(_path(at_points, f"line {one.kind}{' dashed' if one.dashed else ''}"))
        if names or one.radii is not None or one.marked or len(at_points) == 1:
            radii = one.radii or [3.0] * len(at_points)
            parts += [_dot(a, b, r, one) for (a, b), r in zip(at_points, radii, strict=True)]
        parts += [_path([(x.at(a), y.at(b)), (x.at(a), y.at(c))], f"span {one.kind}") for a, b, c in one.spans]
    summary = "; ".join(f"{one.name}: {written(one.points[0][1])} to {written(one.points[-1][1])}" for one in series)
    signs = {(False, False): "line", (False, True): "dashed", (True, False): "dot", (True, True): "hollow"}
    legend = [(one.name, one.kind, signs[one.radii is not None, one.dashed]) for one in series]
    axes = f"{up.label} over {across.label}. " if up.label else ""
    return Figure(title, svg(f"{title}. {axes}{summary}", parts), legend, note)


def interval(
    title: str,
    difference: tuple[float, float, float],
    teacher: float | None,
    label: str,
    written: Callable[[float], str],
) -> Figure:
    """A difference from the baseline with its interval (low, mean, high), and where the teacher stands."""
    low, mean, high = difference
    values = [0.0, low, high, *([] if teacher is None else [teacher])]
    room = (max(values) - min(values)) * 0.08 or 1.0
    height = 112
    x = Axis(min(values) - room, max(values) + room, 10, WIDTH - 10)
    line = 40
    parts = [_path([(10, line + 34), (WIDTH - 10, line + 34)], "axis")]
    for tick in x.ticks():
        parts.append(_path([(x.at(tick), line + 34), (x.at(tick), line + 38)], "axis"))
        parts.append(text(x.at(tick), line + 50, written(tick), "tick", "middle"))
    parts.append(text(WIDTH / 2, line + 66, label, "label", "middle"))
    marks = [(0.0, "baseline", "baseline")] + ([] if teacher is None else [(teacher, "teacher", "teacher")])
    for value, name, kind in marks:
        parts.append(_path([(x.at(value), line - 14), (x.at(value), line + 34)], f"line {kind}"))
        side = "start" if x.at(value) < WIDTH / 2 else "end"
        near = kind == "teacher" and abs(x.at(value) - x.at(0.0)) < NAME
        parts.append(text(x.at(value), line - (33 if near else 20), name, f"named {kind}", side))
    parts.append(_path([(x.at(low), line + 6), (x.at(high), line + 6)], "line student wide"))
    parts.append(Markup('<circle class="dot student" cx="{:.1f}" cy="{}" r="6"/>').format(x.at(mean), line + 6))
    side = "start" if x.at(mean) < 60 else "end" if x.at(mean) > WIDTH - 60 else "middle"
    parts.append(text(x.at(mean), line + 24, "student", "named student", side))
    summary = f"student {written(mean)}, interval {written(low)} to {written(high)}, from baseline at 0"
    summary += "" if teacher is None else f"; teacher {written(teacher)}"
    return Figure(title, svg(f"{title}: {summary}. {label}", parts, height))


def svg(label: str, parts: Sequence[Markup], height: float = HEIGHT, width: float = WIDTH) -> Markup:
    """The element, with what it shows in words."""
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width, height, label, Markup("").join(parts)
    )


def text(x: float, y: float, words: str, kind: str, anchor: str) -> Markup:
    """A line of text, escaped."""
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>').format(x, y, kind, anchor, words)


def thinned(series: Series) -> Series:
    """The series with at most MOST_POINTS points, first and last among them."""
    points = series.points
    if len(points) <= MOST_POINTS or series.radii is not None:
        return series
    kept = [points[round(i * (len(points) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]
    return Series(series.name, series.kind, kept, series.dashed)


def _y_axis(axis: Axis, label: str, written: Callable[[float], str]) -> Markup:
    parts = []
    for tick in axis.ticks():
        at = axis.at(tick)
        parts.append(_path([(LEFT, at), (WIDTH - RIGHT, at)], "grid"))
        parts.append(text(LEFT - 6, at + 3.5, written(tick), "tick", "end"))
    parts.append(
        Markup(
            '<text class="label" text-anchor="middle" transform="translate(11 {:.1f}) rotate(-90)">{}</text>'
        ).format((HEIGHT - BOTTOM + TOP) / 2, label)
    )
    return Markup("").join(parts)


def _x_axis(axis: Axis, label: str, names: Sequence[str], values: Sequence[float]) -> Markup:
    bottom = HEIGHT - BOTTOM
    parts = [_path([(LEFT, bottom), (WIDTH - RIGHT, bottom)], "axis")]
    ticks = [(float(i), name) for i, name in enumerate(names)]
    ticks = ticks or [(tick, plain(tick)) for tick in values or axis.ticks()]
    widest = max(7 * len(name) for _, name in ticks) if ticks else 1
    for tick, name in ticks[:: max(1, math.ceil(len(ticks) * widest / (WIDTH - LEFT)))]:
        parts.append(text(axis.at(tick), bottom + 14, name, "tick", "middle"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 7, label, "label", "middle"))
    return Markup("").join(parts)


def _path(points: Sequence[tuple[float, float]], kind: str) -> Markup:
    drawn = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return Markup('<path class="{}" d="M{}"/>').format(kind, drawn)


def _dot(x: float, y: float, radius: float, series: Series) -> Markup:
    hollow = " hollow" if series.dashed else ""
    return Markup('<circle class="dot {}{}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>').format(
        series.kind, hollow, x, y, radius
    )
