"""What the teacher says of a batch, and a cache that keeps it per sample where the data stay what they are.

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
class Lesson:
    """Outputs and features of the base for all that was observed."""

    outputs: Any
    features: Features

    @property
    def tensors(self) -> list[Any]:
        return [self.outputs, *(feature for features in self.features.values() for feature in features)]

    @property
    def calls(self) -> dict[str, int]:
        """How often each layer ran."""
        return {name: len(features) for name, features in self.features.items()}


@dataclass
class Entry:
    """What is kept of one sample.

    Args:
        rows: Its place in each tensor of the lesson.
        observed: Which modalities were observed, ``Bool[M]``.
        calls: How often each layer ran.
        inputs: Shapes of the inputs of its batch.
    """

    rows: list[Tensor]
    observed: Tensor
    calls: dict[str, int]
    inputs: Any

    def like(self, other: Entry) -> bool:
        """Whether both can stand in one batch."""
        shapes = [[row.shape for row in entry.rows] for entry in (self, other)]
        return self.calls == other.calls and shapes[0] == shapes[1]


class LessonCache:
    """Lessons by the index of their sample, in the memory of the CPU.

    A batch gets its lesson from here if each of its samples has one, with the same modalities observed. Where lessons
    have axes beside samples and channels, the inputs must also have the shapes that they had (sequences padded to the
    same length). The first batch with the shapes that its samples had before, and the first with others, are compared
    with what the teacher says now: data that change in a way that nobody told, and networks whose samples influence
    each other, switch the cache off.

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

    def lesson(self, batch: Mapping[str, Any], ask: Callable[[], Lesson]) -> Lesson:
        """The lesson of a batch, from the cache or the teacher.

        Args:
            batch: As the data module makes it.
            ask: Has the teacher look at the batch.
        """
        if self.off:
            return ask()
        found, reshaped = self._find(batch)
        if found is not None and reshaped in self.checked:
            return found
        fresh = ask()
        if found is None:
            self._keep(batch, fresh)
        else:
            self._check(found, fresh)
            self.checked.add(reshaped)
        return fresh

    def _find(self, batch: Mapping[str, Any]) -> tuple[Lesson | None, bool]:
        """The lesson of a batch, on its device, and whether inputs have other shapes than they had."""
        entries = [entry for index in batch["index"].tolist() if (entry := self.entries.get(index)) is not None]
        if len(entries) < len(batch["index"]) or not all(entry.like(entries[0]) for entry in entries):
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
        return Lesson(tensors[0], features), reshaped

    def _keep(self, batch: Mapping[str, Any], lesson: Lesson) -> None:
        tensors, index = lesson.tensors, batch["index"].tolist()
        if min(index) < 0:
            return self._switch_off("the samples carry no index")
        if not all(_is_batch(tensor, len(index)) for tensor in tensors):
            return self._switch_off("not all outputs and features are tensors of floats with the samples first")
        expected = _megabytes(tensors) * self.batches
        if not self.entries and expected > self.limit_mb:
            return self._switch_off(f"an epoch takes {expected:.3g} MB, more than teacher_cache_mb {self.limit_mb:g}")
        inputs, rows = _shapes(batch["inputs"]), [tensor.detach().cpu() for tensor in tensors]
        for place, (sample, observed) in enumerate(zip(index, batch["observed"].cpu())):
            if sample in self.entries:
                self.size -= _megabytes(self.entries[sample].rows)
            self.entries[sample] = Entry([row[place].clone() for row in rows], observed.clone(), lesson.calls, inputs)
            self.size += _megabytes(self.entries[sample].rows)
        if self.size > self.limit_mb:
            return self._switch_off(f"its answers take more than teacher_cache_mb {self.limit_mb:g}")
        return None

    def _check(self, found: Lesson, fresh: Lesson) -> None:
        for kept, now in zip(found.tensors, fresh.tensors):
            difference = (kept.float() - now.float()).norm()
            # Samples are rounded a little differently in other company: half the digits must agree.
            if not difference <= _exactness(now) ** 0.5 * now.float().norm():
                return self._switch_off("its answer to a sample has changed: the data set or the batch alters it")
        if not self.checked:
            rank_zero_info(f"teacher: its answers to {len(self.entries)} samples are kept ({self.size:.3g} MB)")
        return None

    def _switch_off(self, reason: str) -> None:
        self.off, self.entries, self.size = True, {}, 0.0
        rank_zero_info(f"teacher: one more forward in every step, as {reason}")


def _is_batch(value: Any, size: int) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.shape[:1] == (size,)


def _megabytes(tensors: Sequence[Tensor]) -> float:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / MEGABYTE


def _shapes(nest: Any) -> list[tuple[Path, tuple[int, ...]]]:
    """The shapes of all tensors of a batch, without the samples."""
    return [(path, tuple(leaf.shape[1:])) for path, leaf in leaves_of(nest) if isinstance(leaf, Tensor)]


def _exactness(tensor: Tensor) -> float:
    """Epsilon of the least exact dtype that the forward has computed in."""
    device = tensor.device.type
    return torch.finfo(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype).eps
