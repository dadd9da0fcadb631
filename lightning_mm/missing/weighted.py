"""A policy that draws some combinations more often than others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lightning_mm.errors import LightningMMError
from lightning_mm.missing.policies import MissingnessPolicy, random_uniform
from lightning_mm.modalities import Modalities


class WeightedCombinations(MissingnessPolicy):
    """One of the combinations, with a probability proportional to its weight.

    Args:
        weights: Combination to its weight, e.g. ``{"depth": 3.0}``; 0 for never.
        default: Weight of all other combinations.
        include_full: Whether the full combination has the default weight, if ``weights`` does not contain it.

    Raises:
        LightningMMError: If a weight is negative or not finite; in :meth:`draw`, if a combination does not exist, is
            named twice, or no weight is above 0.

    Example:
        >>> policy = WeightedCombinations({"depth": 1.0}, default=0.0)
        >>> policy.draw(Modalities(["rgb", "depth"]), [0, 1], epoch=0, seed=0).tolist()
        [[False, True], [False, True]]
    """

    def __init__(self, weights: dict[str, float], default: float = 1.0, include_full: bool = True) -> None:
        for name, weight in {**weights, "default": default}.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise LightningMMError(f"weight of {name!r} must be a number of at least 0, got {weight}")
        self.weights, self.default, self.include_full = dict(weights), default, include_full

    def draw(
        self, modalities: Modalities, index: Sequence[int] | Int[Tensor, " batch"], *, epoch: int, seed: int
    ) -> Bool[Tensor, "batch modality"]:
        shares = self.probabilities(modalities)
        edges = np.cumsum(list(shares.values()))
        # the first edge above the number; weight 0 is never chosen, as the last edge is exactly 1
        uniform = random_uniform(seed, epoch, index, 1)[:, 0]
        chosen = np.searchsorted(edges / edges[-1], uniform, side="right")
        return modalities.masks(list(shares))[torch.from_numpy(chosen)]

    def probabilities(self, modalities: Modalities) -> dict[str, float]:
        """Return the probability of each combination; errors as in :meth:`draw`."""
        named = [modalities.canonical(name) for name in self.weights]
        if len(set(named)) != len(named):
            twice = next(name for name in named if named.count(name) > 1)
            raise LightningMMError(f"weights name the combination {twice!r} twice; leave one out")
        weights = dict.fromkeys(modalities.combinations(), self.default)
        if not self.include_full:
            weights[modalities.full] = 0.0
        weights.update(zip(named, self.weights.values()))
        total = sum(weights.values())
        if not total > 0:
            raise LightningMMError(
                f"all combinations of {list(modalities)} have weight 0 in {self!r}; give one of them a weight above 0"
            )
        return {name: weight / total for name, weight in weights.items()}
