"""The combinations of a sweep by number of missing modalities; of large sweeps the best and the worst come first."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_mm.modality_names import ModalityNames
from lightning_mm.results.figures import Figure
from lightning_mm.results.result import SweepResult
from lightning_mm.results.robustness import mean_over

WHOLE = 31
"""Sweeps of more combinations than this are collapsed: those of six modalities and more."""
ENDS = 3
"""How many of the best and of the worst combinations of a collapsed group are shown first."""


@dataclass(frozen=True)
class Group:
    """The combinations with one number of missing modalities.

    Args:
        missing: How many are missing.
        best: The best ones, best first; all of a small group, and all in the order of the sweep if it is not collapsed.
        worst: The worst ones, worst first; none of a small group.
        rest: All others, in the order of the sweep.
        means: The mean over the group, one figure per method; not finite if a method lacks one of its combinations.
    """

    missing: int
    best: list[str]
    worst: list[str]
    rest: list[str]
    means: list[Figure]

    @property
    def size(self) -> int:
        return len(self.best) + len(self.worst) + len(self.rest)

    @property
    def title(self) -> str:
        """``2 missing``."""
        return f"{self.missing} missing" if self.missing else "nothing missing"

    @property
    def mean_title(self) -> str:
        """The title of a row with :attr:`means`: ``2 missing: mean of 15``."""
        return f"{self.title}: mean of {self.size}" if self.size > 1 else self.title


def is_large(result: SweepResult) -> bool:
    """Whether a sweep has too many combinations to be read one by one."""
    return len(result.combinations) > WHOLE


def groups(result: SweepResult, metric: str) -> list[Group]:
    """Group the combinations of a sweep, those that lack most first.

    Within a group they are ranked by the mean over the methods that have the whole group.
    """
    names, collapsed = ModalityNames(result.modalities), is_large(result)
    every = [result.figures(method, metric) for method in result.methods]
    sign = -1 if result.direction(metric) == "max" else 1
    made = []
    for size in range(1, len(names) + 1):
        own = [name for name in result.combinations if len(names.parse(name)) == size]
        if not own:
            continue
        means = [figures.mean(own) for figures in every]
        if not collapsed:
            made.append(Group(len(names) - size, own, [], [], means))
            continue
        values = [{name: figures.of(name).value for name in own} for figures in every]
        # A dedicated network of few combinations is not compared.
        whole = {str(place): one for place, one in enumerate(values) if all(map(math.isfinite, one.values()))}
        score = {name: mean_over({key: one[name] for key, one in whole.items()}, whole) for name in own}
        ranked = sorted(own, key=lambda name: sign * score[name]) if whole else own
        best, worst = ranked, []
        if len(own) > 3 * ENDS:
            best, worst = ranked[:ENDS], ranked[-ENDS:][::-1]
        shown = {*best, *worst}
        made.append(Group(len(names) - size, best, worst, [name for name in own if name not in shown], means))
    return made
