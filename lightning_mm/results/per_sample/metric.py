"""What a metric from stored statistics is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_mm.results.per_sample.weighted import Weights
from lightning_mm.results.robustness import Direction

AbsentClasses = Literal["skip", "zero"]
Statistics = Mapping[str, NDArray[Any]]
"""Name of a statistic to its values, ``[n, ...]``."""


@dataclass(frozen=True)
class Labels:
    """What the statistics of a task do not say themselves.

    Args:
        names: Names of the classes.
        ignored: The label that was left out; if it is one of the classes, it is left out of means over classes.
        absent_classes: ``zero`` if a class that is nowhere counts as 0, see :class:`SemanticSegmentationTask`.
        number: Number of classes, if larger than the labels of some cell say.
    """

    names: tuple[str, ...] = ()
    ignored: int | None = None
    absent_classes: AbsentClasses = "skip"
    number: int = 0

    def name(self, label: int) -> str:
        """The name of a class; its number if it has none."""
        return self.names[label] if label < len(self.names) else str(label)


Compute = Callable[[Statistics, Weights, Labels], NDArray[np.float64] | dict[str, NDArray[np.float64]]]
"""Statistics and weights ``Float[R, n]`` to ``Float[R]``, or to one such row per name."""
Values = dict[str, NDArray[np.float64]]
"""Name of a metric to its values, ``Float[R]``."""


@dataclass(frozen=True)
class Metric:
    """A metric that is computed from stored statistics.

    Args:
        name: Its name; of one with a value per class the begin of their names, e.g. ``recall`` of ``recall_dog``.
        fits: Whether it can be computed from these statistics.
        needs: The statistics in words, for messages.
        compute: Computes it for all resamples at once.
        direction: Whether more or less is better.
        per_class: Whether it has a value per class.
        others: Other names of the same metric.
    """

    name: str
    fits: Callable[[Statistics], bool]
    needs: str
    compute: Compute
    direction: Direction = "max"
    per_class: bool = False
    others: tuple[str, ...] = field(default=())

    @property
    def names(self) -> tuple[str, ...]:
        """The names that users can request."""
        return (f"{self.name}_per_class",) if self.per_class else (self.name, *self.others)

    def values(self, statistics: Statistics, weights: Weights, labels: Labels, name: str) -> Values:
        """Return the metric under the requested name, or one value per class."""
        found = self.compute(statistics, weights, labels)
        return found if isinstance(found, dict) else {name: found}
