"""Augmentations for sequences; the sample is not changed in place, and every random number comes from the generator.

Shapes: T time steps, C channels. A sequence is ``Float[T, C]`` or ``{"values": Float[T, C], "length": T}``; T may
differ between the modalities of a sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_mm.data.augment.base import Augmentation, Sample, check_pair
from lightning_mm.errors import LightningMMError


class JitterSequences(Augmentation):
    """Gaussian noise on every value and one random amplitude for each modality: ``values * factor + noise``.

    Meant for standardised inputs, for which ``std`` is a part of their standard deviation. The draws for a modality
    do not depend on whether others were observed.

    Args:
        std: Standard deviation of the noise; 0 switches it off.
        scale: Least and greatest factor; ``(1, 1)`` switches it off.

    Raises:
        LightningMMError: If a setting is out of range; when called, if an input is not a sequence.

    Example:
        >>> sample = {"inputs": {"gyroscope": torch.ones(5, 3), "skeleton": None}, "target": 1}
        >>> out = JitterSequences(0.1)(sample, np.random.default_rng(0))
        >>> out["inputs"]["gyroscope"].shape, out["inputs"]["skeleton"], out["target"]
        (torch.Size([5, 3]), None, 1)
    """

    def __init__(self, std: float = 0.05, scale: tuple[float, float] = (0.9, 1.1)) -> None:
        if not 0 <= std < float("inf"):
            raise LightningMMError(f"JitterSequences: std must be 0 or more and finite, got {std}")
        self.std, self.scale = float(std), check_pair("JitterSequences: scale", scale)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        inputs: dict[str, Any] = {}
        # A generator for each modality, so that an absent one does not change the draws of those after it.
        seeds = rng.integers(0, 2**63, len(sample["inputs"]))
        for seed, (name, value) in zip(seeds, sample["inputs"].items()):
            inputs[name] = None
            if value is not None:
                own = np.random.default_rng(int(seed))
                values = _values(name, value)
                factor = own.uniform(*self.scale)
                noise = torch.from_numpy(own.standard_normal(tuple(values.shape), dtype=np.float32))
                inputs[name] = _like(value, values * factor + self.std * noise.to(values.dtype))
        return {**sample, "inputs": inputs}


class WarpSequences(Augmentation):
    """A random stretch of the time axis, played at a random speed; one and the same for all modalities of the sample.

    Of T steps a stretch of ``T * part`` is kept and interpolated linearly to ``T * part / speed`` steps. Inputs that
    are ``Float[T, C]`` have a fixed number of steps: they are interpolated back to T, whatever the speed. The target
    passes through and must therefore belong to the sequence as a whole, not to its steps.

    Args:
        keep: Least and greatest part of the sequence that is kept; ``(1, 1)`` switches it off.
        speed: Least and greatest speed, drawn evenly on a logarithmic scale; above 1 shortens; ``(1, 1)`` switches it
            off.

    Raises:
        LightningMMError: If a setting is out of range; when called, if an input is not a sequence.

    Example:
        >>> sample = {"inputs": {"audio": {"values": torch.ones(40, 3), "length": 40}}, "target": 1}
        >>> out = WarpSequences(keep=(0.5, 0.5), speed=(2.0, 2.0))(sample, np.random.default_rng(0))
        >>> out["inputs"]["audio"]["values"].shape, out["inputs"]["audio"]["length"]
        (torch.Size([10, 3]), 10)
    """

    def __init__(self, keep: tuple[float, float] = (0.8, 1.0), speed: tuple[float, float] = (0.8, 1.25)) -> None:
        self.keep = check_pair("WarpSequences: keep", keep, above_zero=True, most=1)
        self.speed = check_pair("WarpSequences: speed", speed, above_zero=True)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        part = rng.uniform(*self.keep)
        start = rng.uniform(0, 1) * (1 - part)
        speed = float(np.exp(rng.uniform(*np.log(self.speed))))
        inputs: dict[str, Any] = {}
        for name, value in sample["inputs"].items():
            inputs[name] = None
            if value is not None:
                values = _values(name, value)
                free = isinstance(value, Mapping)  # its length may change
                steps = max(1, round(len(values) * part / speed)) if free and len(values) else len(values)
                inputs[name] = _like(value, _stretch(values, start, part, steps))
        return {**sample, "inputs": inputs}


def _stretch(values: Tensor, start: float, part: float, steps: int) -> Tensor:
    """``steps`` values, evenly spaced from ``start`` to ``start + part`` of the time axis, both ends met."""
    last = len(values) - 1
    position = (start + part * torch.linspace(0, 1, steps, dtype=torch.float64)) * last
    below = position.floor().long().clamp(0, max(last, 0))
    above = (below + 1).clamp(max=max(last, 0))
    weight = (position - below).clamp(0, 1)[:, None].to(values.dtype)
    return torch.lerp(values[below], values[above], weight.expand(-1, values.shape[1]))


def _values(name: str, value: Any) -> Tensor:
    """Take the steps out of a sequence in either form."""
    values = value
    if isinstance(value, Mapping):
        if sorted(value) != ["length", "values"]:
            raise LightningMMError(
                f'{name}: this augmentation takes {{"values": Float[T, C], "length": T}}, got keys {sorted(value)}'
            )
        values = value["values"]
    if not isinstance(values, Tensor) or values.ndim != 2 or not values.is_floating_point():
        form = f"{values.dtype} {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise LightningMMError(
            f'{name}: this augmentation takes sequences, Float[T, C] or {{"values": Float[T, C], "length": T}}, got '
            f"{form}; for images there are Dihedral and RandomCropResize, for other data write an augmentation of "
            "your own (any callable of sample and rng)"
        )
    if isinstance(value, Mapping) and int(value["length"]) != len(values):
        raise LightningMMError(
            f"{name}: length is {int(value['length'])}, but there are {len(values)} steps; give sequences before they "
            "are padded (Collate pads)"
        )
    return values


def _like(value: Any, values: Tensor) -> Any:
    """Put the new steps into the form of the old value; the length keeps its type."""
    if not isinstance(value, Mapping):
        return values
    length = value["length"]
    new = torch.full_like(length, len(values)) if isinstance(length, Tensor) else type(length)(len(values))
    return {**value, "values": values, "length": new}
