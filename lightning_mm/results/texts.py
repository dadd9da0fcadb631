"""Texts of a table: its numbers, and notes that say which seeds its figures leave out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from lightning_mm.results.figures import Figure, Figures
from lightning_mm.results.result import SweepResult
from lightning_mm.results.rows import DEDICATED, ZERO_FILL
from lightning_mm.results.seeds import lacking

NOTHING = "–"
NO_SHARES = frozenset({"pearson"})
"""Metrics in [-1, 1] that are no shares of anything, so that percent would be wrong: correlations."""
NAMED = 3
"""How many combinations a note names; of the others it gives the number."""


def is_percent(result: SweepResult, metric: str) -> bool:
    """Whether a metric is shown in percent: accuracies and overlaps are; errors and correlations are not."""
    if metric in NO_SHARES:
        return False
    values = [row.value for row in result.rows if row.metric == metric and math.isfinite(row.value)]
    return result.direction(metric) == "max" and all(abs(value) <= 1 for value in values)


def number(value: float, percent: bool, unit: str = "") -> str:
    """A value with one digit in percent, otherwise with three; a dash if it is not finite."""
    if not math.isfinite(value):
        return NOTHING
    return f"{100 * value:.1f}{unit}" if percent else f"{value:.3f}{unit}"


def with_spread(figure: Figure, percent: bool, intervals: bool = False, unit: str = "") -> str:
    """A value with its standard deviation if it has one, otherwise with its interval if asked for."""
    text = number(figure.value, percent, unit)
    if text == NOTHING:
        return text
    if math.isfinite(figure.std):
        return f"{text} ± {number(figure.std, percent, unit)}"
    if intervals and figure.interval:
        return f"{text} [{number(figure.interval[0], percent)}, {number(figure.interval[1], percent)}]"
    return text


def best_positions(values: list[float], direction: str) -> set[int]:
    """Positions of the best of several values; empty unless two differ."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2 or len(set(finite)) == 1:
        return set()
    best = max(finite) if direction == "max" else min(finite)
    return {position for position, value in enumerate(values) if value == best}


def duration(seconds: float) -> str:
    """``52.3`` as ``52 s``, ``204`` as ``3.4 min``, ``9000`` as ``2.5 h``; a dash if it is not finite."""
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.1f} s" if seconds else "0 s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if seconds < 3597:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def trained(counts: dict[str, int]) -> str:
    """Trained parameters, and their share of the network if both are known."""
    if "trained" not in counts:
        return NOTHING
    return _with_share(counts["trained"], counts.get("base"))


def per_combination(counts: dict[str, int]) -> str:
    """Parameters that one combination adds, and their share of the network."""
    if "per_combination" not in counts:
        return NOTHING
    return _with_share(counts["per_combination"], counts.get("base"))


def _with_share(count: int, base: int | None) -> str:
    text = short_count(count)
    return f"{text} ({count / base:.2%})" if base and 0 < count < base else text


def short_count(count: int) -> str:
    """``1234567`` as ``1.23M``."""
    for size, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if count >= size * 0.9995:
            return f"{count / size:.3g}{letter}"
    return str(count)


def incomplete_seeds(figures: Iterable[Figures]) -> list[str]:
    """One note per seed of a method that lacks combinations which the method has in another seed."""
    notes = []
    for one in figures:
        lacks = lacking(one.values)
        for seed, names in lacks.items():
            ordered = [name for name in one.combinations if name in names]
            rest = f" and {len(ordered) - NAMED} more" if len(ordered) > NAMED else ""
            mean = "" if ordered == [one.modalities.full] else "mean, "
            out = f"left out of {mean}worst, full and drop"
            if len(lacks) == len(one.values):
                out = "every seed of it lacks some, so its figures are of different seeds"
            notes.append(f"{one.method}: seed {seed} lacks {', '.join(ordered[:NAMED])}{rest}; {out}")
    return notes


def gap_notes(figures: Mapping[str, Figures], gaps: Mapping[str, Figure]) -> list[str]:
    """Why methods have no recovered gap, and on which seeds the others are compared.

    Args:
        figures: Method to its figures; zero_fill and dedicated are among them.
        gaps: Method to its recovered gap, without zero_fill and dedicated.
    """
    wrong: list[str] = []
    on: dict[tuple[int, ...], list[str]] = {}
    for method, gap in gaps.items():
        if math.isnan(gap.value):
            if all(map(math.isfinite, figures[method].gap_means())):
                wrong.append(method)
            continue
        compared = [ZERO_FILL, DEDICATED] + [method] * (not figures[method].is_constant)
        if any(set(figures[name].values) - set(gap.seeds) for name in compared):
            on.setdefault(gap.seeds, []).append(method)
    notes = []
    if wrong:
        some = f" of {', '.join(wrong)}" if len(wrong) < len(gaps) else ""
        notes.append(f"no recovered gap{some}: dedicated networks are not better than zero_fill")
    for seeds, names in on.items():
        how = "no seed is shared with zero_fill and dedicated, so means of different seeds are compared"
        if seeds:
            numbers = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
            how = f"over {numbers} alone, shared with zero_fill and dedicated"
        notes.append(f"recovered gap of {', '.join(names)}: {how}")
    return notes


def markdown_text(text: str) -> str:
    """Text in which Markdown finds neither HTML, links, cells nor marks; underscores inside words are none.

    Example:
        >>> print(markdown_text("[a](b) | *c* _d_ e_f"))
        [a\\](b) \\| \\*c\\* \\_d\\_ e_f
    """
    marks = r"([\\`*|<>~]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_]))"
    return re.sub(marks, r"\\\1", " ".join(text.split())).replace("&", "&amp;")
