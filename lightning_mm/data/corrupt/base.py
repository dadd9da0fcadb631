"""Damage to the input of one modality, in five severities; where it is applied, and which random numbers it uses.

Severities 1 to 5 are the convention of ImageNet-C (arXiv 1903.12261): 0 is the clean input, bit for bit, and each step
is worse. A corruption is applied to single samples, after augmentation and before they are batched: a sequence has its
true length then, and what a sample does not have (None) stays absent.

Shapes of one sample: an image ``[C, H, W]``, a volume ``[C, D, H, W]``, a sequence ``[T, C]``, a vector ``[D]``, or a
nest of these.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from lightning_mm.data.collate import as_tensors
from lightning_mm.errors import LightningMMError, check_whole
from lightning_mm.missing.fills import LENGTH
from lightning_mm.tree import Path, leaves_of, map_leaves

Sample = dict[str, Any]
Corrupt = Callable[[Any, np.random.Generator], Any]
"""Called with the input of one modality of one sample and a generator; returns the damaged input."""

SEVERITIES = (1, 2, 3, 4, 5)
_CORRUPT = 0xC0  # keeps this stream of random numbers apart from those of augmentation and drawing


class Corruption:
    """Base class of all corruptions; subclasses define :attr:`amounts` and :meth:`change`.

    Damages the floating-point tensors of an input; masks, lengths and integers stay. The random numbers do not depend
    on the severity, so that a sample is damaged in the same places at 1 and, more so, at 5.

    Args:
        severity: 0 (nothing is changed) to 5.
        amounts: What each severity from 1 to 5 means, in the unit of the class; its own choice when not given.

    Raises:
        LightningMMError: If a setting is out of range; when called, if the input holds nothing that can be damaged.
    """

    amounts: ClassVar[tuple[float, ...]] = ()
    most: ClassVar[float] = math.inf
    """The largest amount."""
    least_rank: ClassVar[int] = 1
    """The fewest axes that a tensor must have to be damaged."""

    def __init__(self, severity: int = 3, amounts: list[float] | None = None) -> None:
        self.levels = tuple(map(float, self.amounts if amounts is None else amounts))
        who = type(self).__name__
        if len(self.levels) != len(SEVERITIES) or not all(0 <= level < float("inf") for level in self.levels):
            raise LightningMMError(
                f"{who}: amounts must be five finite numbers of 0 or more, one for each severity, got {amounts}"
            )
        if max(self.levels) > self.most:
            raise LightningMMError(f"{who}: amounts must be shares of at most {self.most:g}, got {amounts}")
        self.severity = _checked(who, severity)

    @property
    def name(self) -> str:
        """Its name in tables: ``GaussianNoise`` is ``gaussian_noise``."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def amount(self) -> float:
        """What the severity means; 0 for severity 0."""
        return self.levels[self.severity - 1] if self.severity else 0.0

    def at(self, severity: int) -> Corruption:
        """Return the same corruption at another severity."""
        other = copy(self)
        other.severity = _checked(type(self).__name__, severity)
        return other

    def __call__(self, value: Any, rng: np.random.Generator) -> Any:
        """Return the damaged input of one modality of one sample; the input is not changed in place.

        Args:
            value: A tensor or array, or a nest of these; None if the sample does not have the modality.
            rng: Where all random numbers come from.
        """
        if value is None or self.severity == 0:
            return value
        return self.damage(as_tensors(value, type(self).__name__), rng)

    def damage(self, value: Any, rng: np.random.Generator) -> Any:
        """Change every tensor that can be damaged; of a padded sequence only its steps."""
        lengths = {path[:-1]: int(leaf) for path, leaf in leaves_of(value) if path and path[-1] == LENGTH}
        changed: list[Path] = []

        def change(path: Path, leaf: Any) -> Any:
            if not self._can_damage(path, leaf):
                return leaf
            changed.append(path)
            steps = lengths.get(path[:-1], len(leaf))
            if not leaf[:steps].numel():
                return leaf  # a sequence without steps
            if not steps < len(leaf):
                return self.change(leaf, rng)
            out = leaf.clone()
            out[:steps] = self.change(leaf[:steps], rng)
            return out

        out = map_leaves(value, change)
        if not changed:
            raise self.refusal(value)
        return out

    def change(self, leaf: Tensor, rng: np.random.Generator) -> Tensor:
        """Return a damaged copy of one tensor, by :attr:`amount`.

        Args:
            leaf: Floating point, with :attr:`least_rank` axes or more; not to be changed in place.
            rng: Where all random numbers come from.
        """
        raise NotImplementedError

    def refusal(self, value: Any) -> LightningMMError:
        """The error for an input that holds nothing to damage."""
        has = [
            f"{leaf.dtype} {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else type(leaf).__name__
            for _, leaf in leaves_of(value)
        ]
        return LightningMMError(
            f"{type(self).__name__} damages floating-point tensors with {self.least_rank} or more axes, got {has}; "
            "for tokens and sequences there is DroppedFrames, for other data any callable of value and rng"
        )

    def _can_damage(self, path: Path, leaf: Any) -> bool:
        marks = bool(path) and (path[-1] == LENGTH or str(path[-1]).endswith("mask"))
        return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim >= self.least_rank and not marks

    def __repr__(self) -> str:
        return f"{type(self).__name__}(severity={self.severity})"


def corrupted(sample: Sample, corrupt: Mapping[str, Corrupt], seed: int, index: int, epoch: int) -> Sample:
    """Damage some modalities of a sample, each by a generator of (seed, index, epoch, modality) alone.

    Args:
        sample: ``{"inputs": {modality: value or None}, ...}``; not changed in place.
        corrupt: Modality to what damages it; others stay as they are.
        seed: Seed of the data module.
        index: Position of the sample in its data set.
        epoch: The epoch; validation and test use 0.
    """
    inputs = dict(sample["inputs"])
    for name, one in corrupt.items():
        if inputs[name] is not None:
            key = [_CORRUPT, seed % 2**64, index, epoch, zlib.crc32(name.encode())]
            inputs[name] = one(inputs[name], np.random.default_rng(key))
    return {**sample, "inputs": inputs}


def _checked(who: str, severity: int) -> int:
    check_whole(f"{who}: severity", severity, 0)
    if severity > SEVERITIES[-1]:
        raise LightningMMError(f"{who}: severity must be 0 (clean) to {SEVERITIES[-1]}, got {severity}")
    return severity
