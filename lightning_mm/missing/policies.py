"""Policies that decide which modalities of a sample are available.

A policy has plain settings. A draw is a pure function of ``(seed, sample index, epoch)``: it does not depend on the
rank, the number of workers, the batch size or the order of samples.

Shapes: B samples, M modalities, C combinations. ``available`` is ``Bool[B, M]``, True where the modality is present; no
row is empty.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_mm.errors import LightningMMError, check_fraction, check_whole
from lightning_mm.modalities import Modalities

Fields = Callable[[str], Sequence[str]]
"""Name of a field to its values, one for each sample of a split, as text."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class MissingnessPolicy:
    """Base class of all policies; subclasses define :meth:`draw`."""

    def draw(self, modalities: Modalities, index: Sequence[int] | Tensor, *, epoch: int, seed: int) -> Tensor:
        """Draw ``available`` for some samples.

        Args:
            modalities: Names in the order of the columns of the mask.
            index: Positions of the samples in their data set, ``Int[B]``.
            epoch: The epoch; validation and test use 0.
            seed: The seed of the data module.

        Shape:
            ``Bool[B, M]`` without empty rows.

        Raises:
            LightningMMError: If a setting does not fit the modalities.
        """
        raise NotImplementedError

    def bound(self, fields: Fields) -> MissingnessPolicy:
        """Return this policy for the samples of one split; the data module calls it before it draws.

        Most policies know nothing of the samples but their positions, and return themselves.

        Args:
            fields: Returns the values of a field, such as ``label`` or ``site``, of all samples of the split.

        Raises:
            LightningMMError: If a field is missing or a setting does not fit its values.
        """
        return self

    def __repr__(self) -> str:
        settings = ", ".join(f"{key}={value!r}" for key, value in vars(self).items() if not key.startswith("_"))
        return f"{type(self).__name__}({settings})"


class Complete(MissingnessPolicy):
    """Every modality is available."""

    def draw(self, modalities: Modalities, index: Sequence[int] | Tensor, *, epoch: int, seed: int) -> Tensor:
        return torch.ones(len(index), len(modalities), dtype=torch.bool)


class FixedCombination(MissingnessPolicy):
    """The same combination for every sample, e.g. ``FixedCombination("rgb+depth")``."""

    def __init__(self, combination: str) -> None:
        self.combination = combination

    def draw(self, modalities: Modalities, index: Sequence[int] | Tensor, *, epoch: int, seed: int) -> Tensor:
        return modalities.mask(self.combination).repeat(len(index), 1)


class UniformCombinations(MissingnessPolicy):
    """One of the combinations, all equally likely.

    Args:
        combinations: The combinations to draw from; default: all.
        include_full: Whether the default includes the full combination.

    Example:
        >>> policy = UniformCombinations(["rgb", "depth"])
        >>> policy.draw(Modalities(["rgb", "depth"]), [0, 1, 2, 3], epoch=0, seed=0).sum(1)
        tensor([1, 1, 1, 1])
    """

    def __init__(self, combinations: list[str] | None = None, include_full: bool = True) -> None:
        self.combinations, self.include_full = combinations, include_full

    def draw(self, modalities: Modalities, index: Sequence[int] | Tensor, *, epoch: int, seed: int) -> Tensor:
        masks = _choices(modalities, self.combinations, self.include_full)
        chosen = np.floor(random_uniform(seed, epoch, index, 1)[:, 0] * len(masks)).astype(np.int64)
        return masks[torch.from_numpy(chosen)]


class RotatingCombinations(MissingnessPolicy):
    """Combination number ``(index + epoch) mod C``: balanced to within one sample and not random, for validation.

    Args:
        combinations: The combinations to go through; default: all.
        include_full: Whether the default includes the full combination.
    """

    def __init__(self, combinations: list[str] | None = None, include_full: bool = True) -> None:
        self.combinations, self.include_full = combinations, include_full

    def draw(self, modalities: Modalities, index: Sequence[int] | Tensor, *, epoch: int, seed: int) -> Tensor:
        masks = _choices(modalities, self.combinations, self.include_full)
        return masks[(torch.as_tensor(index, dtype=torch.int64) + epoch) % len(masks)]


class IndependentMissing(MissingnessPolicy):
    """Each modality is missing independently with probability ``p_missing``, given that enough of them are present.

    The distribution is the same as if rows with too few modalities were drawn again until they have enough; it is drawn
    directly, from the first modality to the last, so that a high ``p_missing`` takes no more time.

    Args:
        p_missing: One probability for all modalities, or modality to probability; other modalities are never missing.
        min_present: The smallest number of modalities in a row.

    Raises:
        LightningMMError: If a probability is not between 0 and 1, or ``min_present`` is below 1.
    """

    def __init__(self, p_missing: float | dict[str, float], min_present: int = 1) -> None:
        for value in p_missing.values() if isinstance(p_missing, dict) else [p_missing]:
            check_fraction("p_missing", value)
        check_whole("min_present", min_present, 1)
        self.p_missing, self.min_present = p_missing, min_present

    def draw(self, modalities: Modalities, index: Sequence[int] | Tensor, *, epoch: int, seed: int) -> Tensor:
        p_present = self._p_present(modalities)
        # enough[m, k]: the probability that at least k of the modalities m, m + 1, ... are present
        enough = np.zeros((len(modalities) + 1, self.min_present + 1))
        enough[:, 0] = 1.0
        for m in reversed(range(len(modalities))):
            enough[m, 1:] = p_present[m] * enough[m + 1, :-1] + (1 - p_present[m]) * enough[m + 1, 1:]
        if enough[0, self.min_present] == 0:
            raise LightningMMError(
                f"{self!r} never leaves {self.min_present} of {list(modalities)} present; "
                "lower min_present or p_missing"
            )
        uniform = random_uniform(seed, epoch, index, len(modalities))
        needed = np.full(len(uniform), self.min_present)
        available = np.zeros(uniform.shape, dtype=bool)
        for m in range(len(modalities)):
            p = p_present[m] * enough[m + 1, np.maximum(needed - 1, 0)] / enough[m, needed]
            available[:, m] = uniform[:, m] < p
            needed = np.maximum(needed - available[:, m], 0)
        return torch.from_numpy(available)

    def _p_present(self, modalities: Modalities) -> list[float]:
        if not isinstance(self.p_missing, dict):
            return [1.0 - self.p_missing] * len(modalities)
        unknown = [name for name in self.p_missing if name not in modalities]
        if unknown:
            raise LightningMMError(
                f"p_missing names unknown modality {unknown[0]!r}; expected names out of {list(modalities)}"
            )
        return [1.0 - self.p_missing.get(name, 0.0) for name in modalities]


def random_uniform(seed: int, epoch: int, index: Sequence[int] | Tensor, streams: int) -> NDArray[np.float64]:
    """Draw counter-based random numbers in [0, 1): the numbers of a sample do not depend on other samples.

    Args:
        seed: Any integer.
        epoch: Any integer.
        index: Sample indices, ``Int[B]``.
        streams: Independent numbers per sample.

    Shape:
        ``Float64[B, streams]``.

    Reference:
        Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014 (SplitMix64).
    """
    samples = np.asarray(index, dtype=np.int64).astype(np.uint64)
    key = split_mix(split_mix(_word(seed)) + _word(epoch))
    states = split_mix(key + samples)[:, None] + np.arange(streams, dtype=np.uint64)[None, :] * _GOLDEN
    return np.asarray((split_mix(states) >> np.uint64(11)) * 2.0**-53)


def hashed_seed(text: str) -> int:
    """Return a seed of its own for a text, such as ``f"{seed}/{settings}"``."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def split_mix(state: NDArray[Any]) -> NDArray[np.uint64]:
    """Compute the output of SplitMix64 for each 64-bit state."""
    z = state.astype(np.uint64) + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def _word(value: int) -> NDArray[np.uint64]:
    """Convert an integer to a 64-bit word, as an array, since NumPy warns of overflow in scalars."""
    return np.array([value % 2**64], dtype=np.uint64)


def _choices(modalities: Modalities, combinations: list[str] | None, include_full: bool) -> Tensor:
    listed = None if combinations is None else tuple(combinations)
    return _masks(modalities.names, listed, include_full)


@lru_cache(maxsize=64)
def _masks(names: tuple[str, ...], combinations: tuple[str, ...] | None, include_full: bool) -> Tensor:
    """The masks to draw from, ``Bool[C, M]``: made once, since every batch draws."""
    modalities = Modalities(names)
    chosen = modalities.select(combinations)
    if combinations is None and not include_full:
        chosen = chosen[:-1]
    if not chosen:
        raise LightningMMError(f"one modality {list(modalities)} has no incomplete combination; set include_full=True")
    return modalities.masks(chosen)
