"""Teacher outputs for a batch, and a cache that keeps them per sample as long as the data do not change.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_mm.tasks.teacher.features import Features
from lightning_mm.tree import Path, leaves_of

MEGABYTE = 2**20


@dataclass
class TeacherOutputs:
    """Outputs and features of the base for all observed modalities of a batch."""

    outputs: Any
    features: Features

    @property
    def tensors(self) -> list[Any]:
        """The outputs, then the features of all layers."""
        return [self.outputs, *(feature for features in self.features.values() for feature in features)]

    @property
    def calls(self) -> dict[str, int]:
        """How often each layer ran."""
        return {name: len(features) for name, features in self.features.items()}


@dataclass
class Entry:
    """What is cached of one sample.

    Args:
        rows: Its row of each tensor of the teacher outputs.
        observed: Which modalities were observed, ``Bool[M]``.
        calls: How often each layer ran.
        inputs: Shapes of the inputs of its batch.
    """

    rows: list[Tensor]
    observed: Tensor
    calls: dict[str, int]
    inputs: Any

    def fits(self, other: Entry) -> bool:
        """Whether both samples can be in one batch."""
        shapes = [[row.shape for row in entry.rows] for entry in (self, other)]
        return self.calls == other.calls and shapes[0] == shapes[1]


class TeacherCache:
    """Teacher outputs by the index of their sample, in the memory of the CPU.

    A batch is answered from the cache if all of its samples are there with the same observed modalities. If teacher
    outputs have more axes than samples and channels, the inputs must also have the same shapes as before (sequences
    padded to the same length). The first batch with these shapes, and the first with others, are compared with fresh
    teacher outputs: data that change unannounced, and networks in which the samples of a batch influence each other,
    switch the cache off.

    Args:
        limit_mb: Megabytes (2^20 bytes) that it may hold; if an epoch will not fit, it holds nothing.
        batches: Batches of an epoch, on all devices.
    """

    def __init__(self, limit_mb: float, batches: float) -> None:
        self.limit_mb, self.batches = limit_mb, batches
        self.entries: dict[int, Entry] = {}
        self.size = 0.0  # megabytes
        self.off = False
        self.checked: set[bool] = set()

    def get(self, batch: Mapping[str, Any], compute: Callable[[], TeacherOutputs]) -> TeacherOutputs:
        """Return the teacher outputs for a batch, cached or fresh.

        Args:
            batch: As the data module makes it.
            compute: Runs the teacher on the batch.
        """
        if self.off:
            return compute()
        found, reshaped = self._find(batch)
        if found is not None and reshaped in self.checked:
            return found
        fresh = compute()
        if found is None:
            self._keep(batch, fresh)
        else:
            self._check(found, fresh)
            self.checked.add(reshaped)
        return fresh

    def _find(self, batch: Mapping[str, Any]) -> tuple[TeacherOutputs | None, bool]:
        """The cached outputs, on the batch's device, and whether the inputs had other shapes when they were cached."""
        entries = [entry for index in batch["index"].tolist() if (entry := self.entries.get(index)) is not None]
        if len(entries) < len(batch["index"]) or not all(entry.fits(entries[0]) for entry in entries):
            return None, False
        inputs, observed = _shapes(batch["inputs"]), batch["observed"]
        reshaped = any(entry.inputs != inputs for entry in entries)
        if reshaped and any(row.ndim > 1 for row in entries[0].rows):
            return None, False
        if not torch.equal(torch.stack([entry.observed for entry in entries]), observed.cpu()):
            return None, False
        tensors = [torch.stack(rows).to(observed.device) for rows in zip(*(entry.rows for entry in entries))]
        rest = iter(tensors[1:])
        features = {name: [next(rest) for _ in range(calls)] for name, calls in entries[0].calls.items()}
        return TeacherOutputs(tensors[0], features), reshaped

    def _keep(self, batch: Mapping[str, Any], fresh: TeacherOutputs) -> None:
        tensors, index = fresh.tensors, batch["index"].tolist()
        if min(index) < 0:
            return self._switch_off("the samples carry no index")
        if not all(_is_batch(tensor, len(index)) for tensor in tensors):
            return self._switch_off("not all outputs and features are tensors of floats with the samples first")
        expected = _megabytes(tensors) * self.batches
        if not self.entries and expected > self.limit_mb:
            return self._switch_off(
                f"an epoch takes {expected:.3g} MB, more than distillation.cache_mb {self.limit_mb:g}"
            )
        inputs, rows = _shapes(batch["inputs"]), [tensor.detach().cpu() for tensor in tensors]
        for place, (sample, observed) in enumerate(zip(index, batch["observed"].cpu())):
            if sample in self.entries:
                self.size -= _megabytes(self.entries[sample].rows)
            self.entries[sample] = Entry([row[place].clone() for row in rows], observed.clone(), fresh.calls, inputs)
            self.size += _megabytes(self.entries[sample].rows)
        if self.size > self.limit_mb:
            return self._switch_off(f"its outputs take more than distillation.cache_mb {self.limit_mb:g}")
        return None

    def _check(self, found: TeacherOutputs, fresh: TeacherOutputs) -> None:
        for cached, now in zip(found.tensors, fresh.tensors):
            difference = (cached.float() - now.float()).norm()
            # A sample is rounded a little differently in another batch: half the digits must agree.
            if not difference <= _epsilon(now) ** 0.5 * now.float().norm():
                return self._switch_off("its outputs for a sample have changed: the data set or the batch alters them")
        if not self.checked:
            rank_zero_info(f"teacher: outputs for {len(self.entries)} samples are cached ({self.size:.3g} MB)")
        return None

    def _switch_off(self, reason: str) -> None:
        self.off, self.entries, self.size = True, {}, 0.0
        rank_zero_info(f"teacher: one more forward in every step, because {reason}")


def _is_batch(value: Any, size: int) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.shape[:1] == (size,)


def _megabytes(tensors: Sequence[Tensor]) -> float:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / MEGABYTE


def _shapes(nest: Any) -> list[tuple[Path, tuple[int, ...]]]:
    """The shapes of all tensors of a batch, without the samples."""
    return [(path, tuple(leaf.shape[1:])) for path, leaf in leaves_of(nest) if isinstance(leaf, Tensor)]


def _epsilon(tensor: Tensor) -> float:
    """Epsilon of the least exact dtype that the forward has computed in."""
    device = tensor.device.type
    return torch.finfo(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype).eps
