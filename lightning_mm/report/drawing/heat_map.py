"""The heat map of the page: combinations down as dots, methods across, grouped by the number of missing modalities.

It has the look of :mod:`lightning_mm.results.heat_map`. Of a large sweep the best and worst combinations of each group
are shown first, and the others on demand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_mm.modality_names import ModalityNames
from lightning_mm.report.drawing.colours import VIRIDIS, is_dark, ramp, shares
from lightning_mm.results.figures import Figure
from lightning_mm.results.large.groups import groups, is_large
from lightning_mm.results.result import SweepResult
from lightning_mm.results.tables import MANY
from lightning_mm.results.texts import is_percent, number

DOT = 18
"""Distance of two dots in pixels."""
NARROW, PHONE, WIDE = 58, 62, 96
"""Width of a method in pixels: at least if there are more than ``MANY``, at least on a phone, and at most."""


@dataclass(frozen=True)
class HeatCell:
    """One figure.

    Args:
        text: As shown.
        value: With all digits, or the empty string.
        colour: Behind the text; empty without a value.
        dark: Whether the text is light.
        key: Position of metric, method and combination in the data of the page.
    """

    text: str
    value: str
    colour: str
    dark: bool
    key: str


@dataclass(frozen=True)
class HeatRow:
    """One combination: the paths of its dots, and a cell per method."""

    combination: str
    present: str
    absent: str
    line: str
    cells: list[HeatCell]


@dataclass(frozen=True)
class HeatGroup:
    """The combinations with one number of missing modalities; a collapsed one has ``worst``, ``rest`` and ``means``."""

    title: str
    rows: list[HeatRow]
    worst: list[HeatRow]
    rest: list[HeatRow]
    means: list[HeatCell]

    @property
    def size(self) -> int:
        return len(self.rows) + len(self.worst) + len(self.rest)


@dataclass(frozen=True)
class HeatMap:
    """Everything that the template draws."""

    modalities: list[str]
    methods: list[str]
    groups: list[HeatGroup]
    means: list[HeatCell]
    ticks: list[str]
    gradient: str
    samples: str
    collapsed: bool
    turned: bool
    column: int
    head: int

    @property
    def dots(self) -> int:
        """Width of the dots in pixels."""
        return DOT * len(self.modalities)

    @property
    def label(self) -> int:
        """Width of the first column in pixels."""
        return max(self.dots + 12, 64)

    @property
    def least(self) -> int:
        """Width of the table on a narrow screen in pixels."""
        return self.label + self.column * len(self.methods)

    @property
    def narrowest(self) -> int:
        """Width of the table in pixels where it would not fit otherwise."""
        return self.label + min(self.column, PHONE) * len(self.methods)

    @property
    def most(self) -> int:
        """Width of the table on a wide screen in pixels."""
        return self.label + WIDE * len(self.methods)


def heat_map(result: SweepResult, metric: str, position: int) -> HeatMap:
    """Lay out the heat map of a metric.

    Args:
        result: The sweep.
        metric: What to show.
        position: Of the metric in the data of the page.
    """
    methods, combinations = result.methods, result.combinations
    figures = {method: result.figures(method, metric) for method in methods}
    found = {name: [own.of(name) for own in figures.values()] for name in combinations}
    means = [own.mean() for own in figures.values()]
    low, high = _ends([[*column] for column in zip(*found.values(), means)])
    percent, least = is_percent(result, metric), result.direction(metric) == "min"

    def cells(row: Sequence[Figure], place: int) -> list[HeatCell]:
        made = []
        for column, share in enumerate(shares([one.value for one in row], low, high, least)):
            value = row[column].value
            known = math.isfinite(value)
            colour = ramp(share) if known else ""
            key = f"{position}.{column}.{place}" if known and place >= 0 else ""
            made.append(
                HeatCell(
                    number(value, percent), repr(value) if known else "", colour, bool(colour) and is_dark(colour), key
                )
            )
        return made

    names = ModalityNames(result.modalities)
    rows = {name: _row(names, name, cells(found[name], place)) for place, name in enumerate(combinations)}
    made = []
    for group in groups(result, metric):
        total = f" · {group.size} combination{'s' if group.size > 1 else ''}" if group.missing else ""
        best, worst, rest = ([rows[name] for name in part] for part in (group.best, group.worst, group.rest))
        group_means = cells(group.means, -1) if group.size > 1 else []
        made.append(HeatGroup(f"{group.title}{total}", best, worst, rest, group_means))
    ticks = [high, (low + high) / 2, low] if least else [low, (low + high) / 2, high]
    column = NARROW if len(methods) > MANY else WIDE - 20
    turned = 8 * max(map(len, methods)) > column
    # Names are turned by 40 degrees; those of modalities stand upright.
    tall = max(7.6 * max(map(len, names)), 5.2 * max(map(len, methods)) if turned else 0)
    counts = sorted({row.n for row in result.rows if row.metric == metric})
    return HeatMap(
        list(names),
        methods,
        made,
        cells(means, -1),
        [number(tick, percent) for tick in ticks],
        ", ".join(VIRIDIS),
        str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}",
        is_large(result),
        turned,
        column,
        round(tall) + 18,
    )


def _ends(columns: list[list[Figure]]) -> tuple[float, float]:
    """The ends of the colours, as in the heat map of a sweep: constant methods do not stretch them."""
    values = [[one.value for one in column if math.isfinite(one.value)] for column in columns]
    varying = [own for own in values if not (len(own) > 2 and max(own) - min(own) < 1e-9)]
    finite = [value for own in varying or values for value in own] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    margin = max(0.0, 0.02 - (high - low)) / 2
    return low - margin, high + margin


def _row(names: ModalityNames, combination: str, cells: list[HeatCell]) -> HeatRow:
    parts = names.parse(combination)
    flags = [name in parts for name in names]
    places = [DOT // 2 + DOT * position for position in range(len(flags))]
    present, absent = (
        "".join(f"M{place} 9h.01" for place, flag in zip(places, flags) if flag == wanted) for wanted in (True, False)
    )
    inside = [place for place, flag in zip(places, flags) if flag]
    return HeatRow(combination, present, absent, f"M{inside[0]} 9H{inside[-1]}", cells)
