"""Dropped frames and tokens of sequences.

Shapes of one sample: T time steps or tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lightning_mm.data.corrupt.base import Corruption
from lightning_mm.errors import LightningMMError
from lightning_mm.missing.fills import LENGTH
from lightning_mm.tree import rebuild

MASK = "attention_mask"
"""The entry of a nested input that marks the tokens of a text."""


class DroppedFrames(Corruption):
    """Drops random frames of a sequence, or random tokens of a text; at least one is left.

    - ``{"values": Float[T, C], "length": T}``: the frames are gone, the sequence is shorter, and so is every tensor
      next to ``length`` with as many steps.
    - ``{"input_ids": Int[T], "attention_mask": Int[T]}``: the tokens are gone, those behind them move up, and zeros
      with a mask of 0 take the places at the end. The first and the last token, ``[CLS]`` and ``[SEP]``, stay.
    - ``Float[T, C]``, of a fixed number of steps: the frames are zeros. For other tensors, such as a spectrogram
      ``[1, F, T]`` or a clip ``[C, T, H, W]``, give the ``axis`` of time.

    An amount is the probability of each frame to be dropped; what is dropped at one severity is dropped at the next.

    Args:
        severity: 0 (nothing is changed) to 5.
        amounts: Five probabilities instead.
        axis: The axis of time in tensors without ``length`` or ``attention_mask``; 0 of ``[T, C]`` when not given.

    Raises:
        LightningMMError: If a setting is out of range; when called, if the input is no sequence.

    Example:
        >>> ids, mask = torch.tensor([101, 7, 8, 9, 102, 0]), torch.tensor([1, 1, 1, 1, 1, 0])
        >>> out = DroppedFrames(3)({"input_ids": ids, "attention_mask": mask}, np.random.default_rng(1))
        >>> out["input_ids"].tolist(), out["attention_mask"].tolist()
        ([101, 7, 9, 102, 0, 0], [1, 1, 1, 1, 0, 0])
    """

    amounts: ClassVar[tuple[float, ...]] = (0.1, 0.3, 0.5, 0.7, 0.9)
    most: ClassVar[float] = 1.0
    least_rank: ClassVar[int] = 2

    def __init__(self, severity: int = 3, amounts: list[float] | None = None, axis: int | None = None) -> None:
        super().__init__(severity, amounts)
        self.axis = axis

    def damage(self, value: Any, rng: np.random.Generator) -> Any:
        if isinstance(value, Mapping) and LENGTH in value:
            return self._shorter(value, rng)
        if isinstance(value, Mapping) and MASK in value:
            return self._fewer_tokens(value, rng)
        if isinstance(value, Tensor):
            return self._blank(value, rng)
        if isinstance(value, Mapping):
            return rebuild(value, {key: self.damage(item, rng) for key, item in value.items()})
        if isinstance(value, (list, tuple)):
            return rebuild(value, [self.damage(item, rng) for item in value])
        raise self.refusal(value)

    def refusal(self, value: Any) -> LightningMMError:
        form = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        return LightningMMError(
            'DroppedFrames takes {"values": Float[T, C], "length": T}, {"input_ids": Int[T], "attention_mask": '
            f"Int[T]}}, or Float[T, C]; got {form}. For other tensors of a fixed number of steps give the axis of time"
        )

    def _kept(self, steps: int, rng: np.random.Generator, always: tuple[int, ...] = ()) -> Tensor:
        """Positions that stay, ascending; the last to go, if all would."""
        draws = rng.random(steps)
        draws[list(always)] = 1.0
        keep = draws >= self.amount
        if steps and not keep.any():
            keep[int(np.argmax(draws))] = True
        return torch.from_numpy(np.flatnonzero(keep))

    def _shorter(self, value: Mapping[str, Any], rng: np.random.Generator) -> Any:
        length = int(value[LENGTH])
        kept = self._kept(length, rng)

        def shorter(key: str, leaf: Any) -> Any:
            if key == LENGTH:
                return torch.full_like(leaf, len(kept)) if isinstance(leaf, Tensor) else type(leaf)(len(kept))
            if not isinstance(leaf, Tensor) or not leaf.ndim or len(leaf) < length:
                return leaf
            if len(leaf) == length:
                return leaf[kept]
            return _with_zeros(leaf[kept], len(leaf))  # padded already

        return rebuild(value, {key: shorter(key, leaf) for key, leaf in value.items()})

    def _fewer_tokens(self, value: Mapping[str, Any], rng: np.random.Generator) -> Any:
        mask = value[MASK]
        tokens = mask.bool().nonzero().flatten()
        if len(tokens) < 3:
            return value  # [CLS] and [SEP] alone
        kept = tokens[self._kept(len(tokens), rng, always=(0, len(tokens) - 1))]

        def fewer(leaf: Any) -> Any:
            beside = isinstance(leaf, Tensor) and leaf.shape[:1] == mask.shape
            return _with_zeros(leaf[kept], len(leaf)) if beside else leaf

        return rebuild(value, {key: fewer(leaf) for key, leaf in value.items()})

    def _blank(self, leaf: Tensor, rng: np.random.Generator) -> Tensor:
        axis = 0 if self.axis is None and leaf.ndim == 2 else self.axis
        if not leaf.is_floating_point() or axis is None or not -leaf.ndim <= axis < leaf.ndim:
            raise self.refusal(leaf)
        steps = leaf.shape[axis]
        dropped = torch.ones(steps, dtype=torch.bool)
        dropped[self._kept(steps, rng)] = False
        return leaf.masked_fill(dropped.view([-1 if place == axis % leaf.ndim else 1 for place in range(leaf.ndim)]), 0)


def _with_zeros(leaf: Tensor, size: int) -> Tensor:
    """Append zeros up to a length."""
    return torch.cat([leaf, leaf.new_zeros(size - len(leaf), *leaf.shape[1:])])
