"""Notes under a table that say which seeds its figures leave out, and why a recovered gap is not there."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_mm.results import seeds as by_seed
from lightning_mm.results.result import DEDICATED, ZERO_FILL, SweepResult

NAMED = 3
"""Combinations that a note names; of more it says how many."""


def incomplete_seeds(result: SweepResult, metric: str) -> list[str]:
    """One note per seed of a method that lacks combinations which the method has in another seed."""
    notes = []
    for method in result.methods:
        values = by_seed.values_per_seed(result, method, metric)
        lacks = by_seed.lacking(values)
        for seed, names in lacks.items():
            ordered = [name for name in result.combinations if name in names]
            rest = f" and {len(ordered) - NAMED} more" if len(ordered) > NAMED else ""
            mean = "" if ordered == [result.full_combination] else "mean, "
            out = f"left out of {mean}worst, full and drop"
            if len(lacks) == len(values):
                out = "every seed of it lacks some, so its figures are of different seeds"
            notes.append(f"{method}: seed {seed} lacks {', '.join(ordered[:NAMED])}{rest}; {out}")
    return notes


def gap_notes(result: SweepResult, metric: str) -> list[str]:
    """Why methods have no recovered gap, and which seeds those that have one are compared on."""
    covered = result.dedicated_combinations(metric)
    wrong: list[str] = []
    on: dict[tuple[int, ...], list[str]] = {}
    methods = [method for method in result.methods if method not in (ZERO_FILL, DEDICATED)]
    for method in methods:
        if math.isnan(result.recovered_gap(method, metric)):
            if all(map(math.isfinite, result.gap_means(method, metric))):
                wrong.append(method)
            continue
        seeds = result.shared_seeds([method, ZERO_FILL, DEDICATED], metric, covered)
        if _any_left_out(result, method, metric, covered, seeds):
            on.setdefault(tuple(seeds), []).append(method)
    notes = []
    if wrong:
        some = f" of {', '.join(wrong)}" if len(wrong) < len(methods) else ""
        notes.append(f"no recovered gap{some}: dedicated networks are not better than zero_fill")
    for chosen, names in on.items():
        seeds_text = f"seed{'s' if len(chosen) > 1 else ''} {', '.join(map(str, chosen))}"
        how = (
            f"over {seeds_text} alone, shared with zero_fill and dedicated"
            if chosen
            else ("no seed is shared with zero_fill and dedicated, so means of different seeds are compared")
        )
        notes.append(f"recovered gap of {', '.join(names)}: {how}")
    return notes


def _any_left_out(
    result: SweepResult, method: str, metric: str, combinations: Sequence[str], seeds: Sequence[int]
) -> bool:
    """Whether a seed of one of the compared methods is not among those that are compared."""
    compared = [ZERO_FILL, DEDICATED]
    if not by_seed.is_constant(result, method, metric):
        compared.append(method)
    return any(set(by_seed.values_per_seed(result, name, metric)) - set(seeds) for name in compared)
