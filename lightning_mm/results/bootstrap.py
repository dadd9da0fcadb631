"""Bootstrap intervals over samples: one joint resampling for all combinations and methods.

Because every figure of one replicate comes from the same resampled set of samples, differences of methods, means over
combinations and the recovered gap have intervals too, and methods are compared as pairs.

Shapes: N samples of the data set, R replicates.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lightning_mm.results.robustness import Direction

Key = tuple[str, str, str]
"""Method, combination, metric."""


def resample_counts(samples: int, replicates: int, seed: int) -> NDArray[np.int64]:
    """How often each sample is drawn in each replicate of ``samples`` draws with replacement, ``Int[R, N]``."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(samples, np.full(samples, 1.0 / samples), size=replicates)


def percentile_interval(values: NDArray[np.float64], level: float = 0.95) -> tuple[float, float] | None:
    """The central ``level`` interval of replicates; ``None`` if no replicate is finite."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    low, high = np.percentile(finite, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


@dataclass
class Bootstrap:
    """Replicates of all figures of one or several sweeps over the same samples.

    Args:
        key: Identifies the resampling; replicates with equal keys are paired and may be combined.
        replicates: (method, combination, metric) to ``Float[R]``.
        level: Coverage of the intervals.
    """

    key: str
    replicates: dict[Key, NDArray[np.float64]] = field(default_factory=dict)
    level: float = 0.95

    @staticmethod
    def key_of(index: NDArray[np.int64], replicates: int, seed: int) -> str:
        """A key that is equal exactly when samples, number of replicates and seed are."""
        digest = zlib.crc32(np.ascontiguousarray(index, dtype=np.int64).tobytes())
        return f"seed={seed} replicates={replicates} samples={len(index)} index={digest:08x}"

    def interval(self, method: str, combination: str, metric: str) -> tuple[float, float] | None:
        """Interval of one figure."""
        values = self.replicates.get((method, combination, metric))
        return None if values is None else percentile_interval(values, self.level)

    def mean(self, method: str, metric: str, combinations: Iterable[str]) -> NDArray[np.float64] | None:
        """The mean over combinations in every replicate, ``Float[R]``; ``None`` if one of them has no replicates."""
        picked = [self.replicates.get((method, combination, metric)) for combination in combinations]
        if not picked or any(values is None for values in picked):
            return None
        return np.mean(np.stack([values for values in picked if values is not None]), axis=0)

    def mean_interval(self, method: str, metric: str, combinations: Iterable[str]) -> tuple[float, float] | None:
        """Interval of the mean over combinations."""
        values = self.mean(method, metric, combinations)
        return None if values is None else percentile_interval(values, self.level)

    def difference_interval(
        self, method: str, other: str, metric: str, combinations: Iterable[str]
    ) -> tuple[float, float] | None:
        """Interval of ``method - other`` on the mean over combinations; paired, sample by sample."""
        combinations = tuple(combinations)
        own, theirs = self.mean(method, metric, combinations), self.mean(other, metric, combinations)
        return None if own is None or theirs is None else percentile_interval(own - theirs, self.level)

    def recovered_gap_interval(
        self,
        method: str,
        metric: str,
        combinations: Iterable[str],
        zero_fill: str,
        dedicated: str,
        direction: Direction = "max",
    ) -> tuple[float, float] | None:
        """Interval of the recovered gap over the replicates in which dedicated networks are better than zero fill.

        ``None`` if more than ``(1 - level) / 2`` of the replicates have no gap: there may be none at all.
        """
        combinations = tuple(combinations)
        means = [self.mean(name, metric, combinations) for name in (method, zero_fill, dedicated)]
        own, low, high = means
        if own is None or low is None or high is None:
            return None
        gap = high - low if direction == "max" else low - high
        known, some = np.isfinite(gap), gap > 0
        if not some.any() or np.mean(~some[known]) > (1 - self.level) / 2:
            return None
        return percentile_interval((own - low)[some] / (high - low)[some], self.level)
