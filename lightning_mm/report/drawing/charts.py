"""Line chart and scatter plots as plain geometry, which a template draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lightning_mm.report.costs import costs_of, latency, operations, size
from lightning_mm.report.drawing.colours import DASHES, HUES, MARKS
from lightning_mm.report.tables import arrow
from lightning_mm.results.result import SweepResult
from lightning_mm.results.robust import missing_curves
from lightning_mm.results.texts import duration, is_percent, with_spread

WIDTH, HEIGHT = 480, 330
LEFT, RIGHT, TOP, BOTTOM = 62, 34, 16, 46
"""Margins of the plot in pixels."""
APART = 13
"""Least distance of two numbers at the ends of lines."""
SECONDS = (0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 36000.0, 360000.0)
"""Round times."""


@dataclass(frozen=True)
class Scale:
    """A logarithmic axis: how a cost is written, and its round values."""

    text: Callable[[float], str]
    ticks: tuple[float, ...]


@dataclass(frozen=True)
class Look:
    """How a method is drawn everywhere.

    Args:
        number: Written next to its marks, from 1.
        method: Its name.
        hue: Number of its colour.
        mark: Shape of its points.
        dash: ``stroke-dasharray`` of its line.
        mean: Mean over incomplete combinations, as text.
    """

    number: int
    method: str
    hue: int
    mark: str
    dash: str
    mean: str


@dataclass(frozen=True)
class Point:
    """A mark in pixels, with a text for the pointer, and where its number is written."""

    x: float
    y: float
    text: str
    label: tuple[float, float] | None = None


@dataclass(frozen=True)
class Series:
    """The points of a method and the path through them."""

    look: Look
    points: list[Point]
    path: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart: axes with ticks in pixels, and series."""

    title: str
    x_label: str
    y_label: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    series: list[Series]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def looks(result: SweepResult, metric: str) -> list[Look]:
    """One look per method, in the order of the table."""
    percent, found = is_percent(result, metric), []
    for position, method in enumerate(result.methods):
        mean = with_spread(result.figures(method, metric).mean(), percent)
        mark, dash = MARKS[position % len(MARKS)], DASHES[position // HUES % len(DASHES)]
        found.append(Look(position + 1, method, position % HUES, mark, dash, mean))
    return found


def drop_chart(result: SweepResult, metric: str, styles: Sequence[Look]) -> Chart | None:
    """Mean against the number of missing modalities; ``None`` for one modality, or if no method has a curve.

    Methods with the same value everywhere are left out, unless all have.
    """
    percent, count = is_percent(result, metric), len(result.modalities)
    curves = {look: result.figures(look.method, metric).curve() for look in styles}
    found = {look: [point.value for point in own if math.isfinite(point.value)] for look, own in curves.items()}
    # A constant, such as the share of the most frequent label, would press the others together.
    curves = {look: own for look, own in curves.items() if len(found[look]) < 2 or _varies(found[look])} or curves
    values = [value for look in curves for value in found[look]]
    if count < 2 or not values:
        return None
    texts = {
        look: [f"{look.method}, {k} missing: {with_spread(one, percent)}" for k, one in enumerate(own)]
        for look, own in curves.items()
    }
    points = {look: [point.value for point in own] for look, own in curves.items()}
    title, ticks = "Drop by number of missing modalities", [str(k) for k in range(count)]
    return _line_chart(title, "missing modalities", _y_label(result, metric), ticks, points, texts, percent)


def missing_chart(result: SweepResult, metric: str, styles: Sequence[Look]) -> Chart | None:
    """Expectation against the probability that a modality is missing; ``None`` if no method has all combinations."""
    grid = missing_curves(result, metric)
    if grid is None or len(result.modalities) < 2:
        return None
    points = {look: [one.value for one in grid.rows[look.method]] for look in styles if look.method in grid.rows}
    points = {look: values for look, values in points.items() if _varies(values)} or points
    texts = {
        look: [
            f"{look.method}, p = {p}: {with_spread(one, grid.percent)}"
            for p, one in zip(grid.columns, grid.rows[look.method])
        ]
        for look in points
    }
    title, label = "Expectation by p_missing", "probability that a modality is missing"
    return _line_chart(title, label, _y_label(result, metric), grid.columns, points, texts, grid.percent)


def _line_chart(
    title: str,
    x_label: str,
    y_label: str,
    ticks: Sequence[str],
    curves: Mapping[Look, Sequence[float]],
    texts: Mapping[Look, Sequence[str]],
    percent: bool,
) -> Chart:
    """One line per method over equally spaced places; points that are not finite are left out."""
    y, y_ticks = _linear([value for own in curves.values() for value in own if math.isfinite(value)], percent)
    xs = [LEFT + (WIDTH - LEFT - RIGHT) * position / (len(ticks) - 1) for position in range(len(ticks))]
    series = []
    for look, curve in curves.items():
        known = [(xs[k], y(value), texts[look][k]) for k, value in enumerate(curve) if math.isfinite(value)]
        if known:
            path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b, _ in known)
            series.append(Series(look, [Point(*one) for one in known], path))
    return Chart(title, x_label, y_label, list(zip(xs, ticks)), y_ticks, _numbered_ends(series))


def _varies(values: Sequence[float]) -> bool:
    return max(values) - min(values) > 1e-9


def cost_charts(result: SweepResult, metric: str, styles: Sequence[Look]) -> list[Chart]:
    """Costs against the mean: those that are known and not the same for all methods."""
    powers = tuple(10.0**power for power in range(13))
    seconds = tuple(10.0**power for power in range(-6, 3))
    shown = {
        "trained": ("Trained parameters and mean", "trained parameters", Scale(operations, powers)),
        "training": ("Training time and mean", "CPU time of training", Scale(duration, SECONDS)),
        "flops": ("Operations and mean", "operations of a prediction", Scale(operations, powers)),
        "memory": ("Memory and mean", "memory of a prediction", Scale(size, powers)),
        "seconds": ("Time of a prediction and mean", "time of a prediction", Scale(latency, seconds)),
    }
    found = []
    for name, costs in costs_of(result).items():
        title, label, scale = shown[name]
        if max(costs.values()) <= 1.001 * min(costs.values()):
            continue
        chart = _scatter(result, metric, styles, costs, scale, title, label)
        if chart is not None:
            found.append(chart)
    return found


def _scatter(
    result: SweepResult,
    metric: str,
    styles: Sequence[Look],
    costs: Mapping[str, float],
    scale: Scale,
    title: str,
    label: str,
) -> Chart | None:
    means = {look.method: result.figures(look.method, metric).mean().value for look in styles}
    known = [look for look in styles if look.method in costs and math.isfinite(means[look.method])]
    if len(known) < 2:
        return None
    percent = is_percent(result, metric)
    y, y_ticks = _linear([means[look.method] for look in known], percent)
    x, x_ticks = _logarithmic([costs[look.method] for look in known], scale)
    taken = [(x(costs[look.method]), y(means[look.method])) for look in known]
    series = []
    for look, (a, b) in zip(known, list(taken)):
        place = _free_place(a, b, taken)
        taken.append(place)
        said = f"{look.method}: {scale.text(costs[look.method])}, mean {look.mean}"
        series.append(Series(look, [Point(a, b, said, place)]))
    return Chart(title, f"{label} (logarithmic)", f"mean {_y_label(result, metric)}", x_ticks, y_ticks, series)


def _y_label(result: SweepResult, metric: str) -> str:
    return f"{metric}{' in %' if is_percent(result, metric) else ''} {arrow(result.direction(metric))}"


def _linear(values: Sequence[float], percent: bool) -> tuple[Callable[[float], float], list[tuple[float, str]]]:
    """The vertical axis: value to pixel, and round ticks."""
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    step = _round_step(span / 4)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    if high == low:
        high = low + step

    def place(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    ticks = [low + step * position for position in range(round((high - low) / step) + 1)]
    shown = step * (100 if percent else 1)
    digits = max(0, -math.floor(math.log10(shown)))
    digits += not math.isclose(shown, round(shown, digits))  # 2.5 has one more than 2
    return place, [(place(tick), f"{tick * (100 if percent else 1):.{digits}f}") for tick in ticks]


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9))


def _logarithmic(values: Sequence[float], scale: Scale) -> tuple[Callable[[float], float], list[tuple[float, str]]]:
    """The horizontal axis: cost to pixel, and round ticks; zero has a place of its own on the left."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = math.log10(min(positive)), math.log10(max(positive))
    margin = max(0.15, 0.06 * (high - low))
    low, high = low - margin, high + margin
    nothing = any(value <= 0 for value in values)
    start = LEFT + (44 if nothing else 0)

    def place(value: float) -> float:
        if value <= 0:
            return LEFT + 14.0
        return start + (WIDTH - RIGHT - start) * (math.log10(value) - low) / (high - low)

    inside = [tick for tick in scale.ticks if low <= math.log10(tick) <= high]
    if len(inside) < 2:
        inside = [factor * 10.0**p for p in range(math.floor(low), math.ceil(high) + 1) for factor in (1, 2, 5)]
        inside = [tick for tick in inside if low <= math.log10(tick) <= high]
    ticks = [(place(tick), scale.text(tick)) for tick in inside]
    return place, [(place(0), "0"), *ticks] if nothing else ticks


def _free_place(x: float, y: float, taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Where next to a mark a number hides the fewest others."""
    places = [
        (x + dx, y + dy) for dx, dy in ((12, 4), (0, -9), (-12, 4), (0, 17), (11, -7), (-11, -7), (11, 14), (-11, 14))
    ]

    def crowd(place: tuple[float, float]) -> float:
        near = [math.hypot(place[0] - a, (place[1] - 4) - b) for a, b in taken]
        outside = 100.0 if not LEFT < place[0] < WIDTH - 6 or not TOP - 8 < place[1] < HEIGHT - BOTTOM else 0.0
        return outside + sum(max(0.0, 13 - distance) for distance in near)

    return min(places, key=crowd)


def _numbered_ends(series: Sequence[Series]) -> list[Series]:
    """Numbers at the right ends of lines, moved apart where lines end close to each other."""
    places = {one.look.number: one.points[-1].y for one in series}
    for numbers in _by_end(series):
        ordered = sorted(numbers, key=places.__getitem__)
        for above, below in pairwise(ordered):
            places[below] = max(places[below], places[above] + APART)
        limit = HEIGHT - BOTTOM + 4.0
        for last_first in ordered[::-1]:
            places[last_first] = min(places[last_first], limit)
            limit = places[last_first] - APART
    found = []
    for one in series:
        last = one.points[-1]
        label = (last.x + 16, places[one.look.number] + 4)
        found.append(Series(one.look, [*one.points[:-1], Point(last.x, last.y, last.text, label)], one.path))
    return found


def _by_end(series: Sequence[Series]) -> list[list[int]]:
    groups: dict[float, list[int]] = {}
    for one in series:
        groups.setdefault(one.points[-1].x, []).append(one.look.number)
    return list(groups.values())
